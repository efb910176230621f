#include "tools/cli/doctor/doctor.h"

#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "tools/cli/commands.h"
#include "tools/cli/doctor/doctor_probe.h"
#include "tools/cli/doctor/doctor_remote.h"
#include "tools/cli/server.h"

namespace conclave {
namespace {

constexpr int kTextColumns = 96;
constexpr absl::Duration kStatusTimeMax = absl::Seconds(10);

int CountOf(const std::vector<DoctorCheck>& checks, CheckState state) {
  return static_cast<int>(std::count_if(checks.begin(), checks.end(), [&](const DoctorCheck& c) {
    return c.state == state;
  }));
}

// `text` in lines of kTextColumns, all but the first after `indent` blanks.
std::string Wrapped(absl::string_view text, int indent) {
  std::string out;
  int column = indent;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const int width = static_cast<int>(word.size());
    if (!out.empty() && column + 1 + width > kTextColumns) {
      absl::StrAppend(&out, "\n", std::string(indent, ' '), word);
      column = indent + width;
    } else {
      absl::StrAppend(&out, out.empty() ? "" : " ", word);
      column += width + 1;
    }
  }
  return out;
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad() || !file.is_open()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--hosts '", path, "' cannot be read; give a file with a host on each line"));
  }
  return text;
}

absl::Status AddHosts(const DoctorOptions& options, const std::string& ucx,
                      const std::vector<std::string>& hosts, const std::atomic<bool>& cancelled,
                      std::vector<DoctorCheck>& checks) {
  RemoteOptions remote = {options.remote_shell, options.remote_program};
  if (remote.program.empty()) {
    std::error_code error;
    remote.program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  }
  ASSIGN_OR_RETURN(const std::vector<HostAnswer> answers, AskHosts(hosts, remote, cancelled));
  for (DoctorCheck& check : CheckHosts(answers, ucx)) checks.push_back(std::move(check));
  return absl::OkStatus();
}

DoctorCheck AskCoordinator(const DoctorOptions& options, const std::atomic<bool>& cancelled) {
  CoordinatorAnswer answer;
  answer.url = options.url;
  HttpClient::Options client;
  client.base_url = options.url;
  client.bearer = options.admin_token;
  client.timeout = kStatusTimeMax;
  client.cancelled = &cancelled;
  if (client.bearer.empty()) {
    const absl::StatusOr<std::string> token =
        ReadAdminToken(options.state_dir.empty() ? DefaultStateDir() : options.state_dir);
    if (token.ok()) client.bearer = *token;
  }
  const absl::Time asked = absl::Now();
  const absl::StatusOr<std::string> status = FetchStatus(HttpClient(client));
  answer.round_trip_seconds = absl::ToDoubleSeconds(absl::Now() - asked);
  if (status.ok()) {
    ReadCoordinatorAnswer(*status, answer);
  } else {
    answer.error = std::string(status.status().message());
  }
  return CheckCoordinator(answer);
}

}  // namespace

std::string RenderChecks(const std::vector<DoctorCheck>& checks, bool colours) {
  size_t width = 0;
  for (const DoctorCheck& check : checks) width = std::max(width, check.name.size());
  const int indent = static_cast<int>(width) + 11;
  std::string out;
  for (const DoctorCheck& check : checks) {
    const char* colour = check.state == CheckState::kOk        ? "32"
                         : check.state == CheckState::kWarning ? "33"
                                                               : "31";
    const std::string state = absl::StrFormat("%-7s", CheckStateName(check.state));
    absl::StrAppend(&out, colours ? absl::StrCat("\033[", colour, "m", state, "\033[0m") : state,
                    "  ",
                    absl::StrFormat("%-*s", static_cast<int>(width), check.name), "  ",
                    Wrapped(check.found, indent), "\n");
    if (check.state == CheckState::kOk) continue;
    const std::string margin(indent, ' ');
    absl::StrAppend(&out, margin, "why: ", Wrapped(check.why, indent + 5), "\n");
    absl::StrAppend(&out, margin, "do:  ", Wrapped(check.remedy, indent + 5), "\n");
  }
  absl::StrAppendFormat(&out, "%d checks: %d ok, %d warnings, %d failed\n", checks.size(),
                        CountOf(checks, CheckState::kOk), CountOf(checks, CheckState::kWarning),
                        CountOf(checks, CheckState::kFailed));
  return out;
}

std::string ChecksJson(const MachineFacts& facts, const std::vector<DoctorCheck>& checks) {
  boost::json::array list;
  for (const DoctorCheck& check : checks) {
    list.push_back({{"name", check.name},
                    {"state", CheckStateName(check.state)},
                    {"found", check.found},
                    {"why", check.why},
                    {"remedy", check.remedy}});
  }
  const boost::json::object out = {{"host", facts.host},
                                   {"ucx", facts.versions.ucx},
                                   {"ok", CountOf(checks, CheckState::kFailed) == 0},
                                   {"checks", std::move(list)}};
  return boost::json::serialize(out);
}

absl::Status RunDoctor(const DoctorOptions& options, const std::atomic<bool>& cancelled) {
  std::vector<std::string> hosts;
  if (!options.hosts_path.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadText(options.hosts_path));
    ASSIGN_OR_RETURN(hosts, ParseHosts(text));
  }
  const MachineFacts facts = ProbeMachine();
  std::vector<DoctorCheck> checks = CheckMachine(facts);
  if (cancelled.load()) return absl::CancelledError("interrupted");
  if (!hosts.empty()) {
    RETURN_IF_ERROR(AddHosts(options, facts.versions.ucx, hosts, cancelled, checks));
  }
  if (!options.url.empty()) checks.push_back(AskCoordinator(options, cancelled));
  if (cancelled.load()) return absl::CancelledError("interrupted");
  if (options.json) {
    std::cout << ChecksJson(facts, checks) << "\n";
  } else {
    const char* plain = getenv("NO_COLOR");
    const bool colours = isatty(STDOUT_FILENO) == 1 && (plain == nullptr || *plain == '\0');
    std::cout << RenderChecks(checks, colours);
  }
  std::cout << std::flush;
  const int failed = CountOf(checks, CheckState::kFailed);
  if (failed == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(failed, failed == 1 ? " check" : " checks", " failed; do what they say"));
}

}  // namespace conclave
