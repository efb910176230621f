// hosts: the hosts of a HostNet from a shell: run a command in each, or hold them until the end of
// input and look around by `ip netns exec`. Everything is removed at its end, also by kill -9.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "tests/hosts/host_net.h"
#include "tests/hosts/namespaces.h"
#include "tests/hosts/rank_process.h"

namespace conclave {
namespace {

struct Flags {
  int hosts = 2;
  double rate_mbit = 200;
  double queue_ms = 100;
  std::vector<std::string> command;
};

absl::StatusOr<std::unique_ptr<HostNet>> Build(const Flags& flags) {
  HostNetOptions options;
  options.hosts = flags.hosts;
  options.link.bits_per_second = static_cast<int64_t>(flags.rate_mbit * 1e6);
  options.link.queue = absl::Milliseconds(flags.queue_ms);
  return HostNet::Create(options);
}

// In the child: HOST, HOSTS and HOST_<i>, the addresses.
[[noreturn]] void Exec(const HostNet& net, int host, const std::vector<std::string>& command) {
  setenv("HOST", absl::StrCat(host).c_str(), 1);
  setenv("HOSTS", absl::StrCat(net.hosts()).c_str(), 1);
  for (int i = 0; i < net.hosts(); ++i) {
    setenv(absl::StrCat("HOST_", i).c_str(), net.Address(i).c_str(), 1);
  }
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  std::fprintf(stderr, "hosts: cannot run %s\n", argv[0]);
  _exit(127);
}

absl::StatusOr<int> RunEverywhere(const Flags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<HostNet> net, Build(flags));
  std::vector<std::unique_ptr<RankProcess>> processes;
  for (int host = 0; host < flags.hosts; ++host) {
    ASSIGN_OR_RETURN(auto process,
                     RankProcess::Start([&] { return net->Enter(host); },
                                        [&](RankLine&) { Exec(*net, host, flags.command); }));
    processes.push_back(std::move(process));
  }
  int failed = 0;
  for (int host = 0; host < flags.hosts; ++host) {
    std::string end = "running";
    while (end == "running") end = processes[host]->AwaitEnd(absl::Hours(1));
    if (end == "exit 0") continue;
    std::fprintf(stderr, "hosts: host %d: %s\n", host, end.c_str());
    failed = 1;
  }
  return failed;
}

absl::StatusOr<int> Hold(const Flags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<HostNet> net, Build(flags));
  for (int host = 0; host < flags.hosts; ++host) {
    std::printf("host %d  %-15s  ip netns exec %s COMMAND\n", host, net->Address(host).c_str(),
                net->Name(host).c_str());
  }
  std::printf("they stay until the end of input (Ctrl-D)\n");
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
  }
  return 0;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Hosts as network namespaces with links of a given rate; needs root.\n"
               "example: hosts run --hosts 2 -- sh -c 'echo $HOST of $HOSTS; ip addr'");
  app.require_subcommand(1);
  const auto add = [&](CLI::App* verb) {
    verb->add_option("--hosts", flags.hosts)->capture_default_str();
    verb->add_option("--rate-mbit", flags.rate_mbit, "of each link, each way; 0: no limit")
        ->capture_default_str();
    verb->add_option("--queue-ms", flags.queue_ms, "before each link")->capture_default_str();
    return verb;
  };
  CLI::App* run = add(app.add_subcommand("run", "run a command in every host"));
  run->add_option("command", flags.command, "after --")->required();
  CLI::App* hold = add(app.add_subcommand("hold", "keep them until the end of input"));
  CLI::App* sweep = app.add_subcommand("sweep", "remove what owners that ended have left");
  CLI11_PARSE(app, argc, argv);
  absl::StatusOr<int> code = 0;
  if (*run) code = RunEverywhere(flags);
  if (*hold) code = Hold(flags);
  if (*sweep) std::printf("%d namespaces removed\n", SweepNamespaces());
  if (code.ok()) return *code;
  std::cerr << "hosts: " << code.status().message() << "\n";
  return 1;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
