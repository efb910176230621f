#include "tests/hosts/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "glog/logging.h"

extern char** environ;

namespace conclave {
namespace {

constexpr size_t kOutputMax = 1 << 20;
// Where ip and tc are, which a test's path leaves out.
constexpr const char* kSystemFolders[] = {"/usr/sbin/", "/sbin/"};

// A file in memory that holds `text`, read from its start.
int InputFile(const std::string& text) {
  const int fd = memfd_create("input", MFD_CLOEXEC);
  CHECK_GE(fd, 0) << "no descriptor for a command's input";
  CHECK_EQ(write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
  return fd;
}

// Reads until the end, the bound or the deadline; false at the deadline.
bool ReadAll(int fd, absl::Time deadline, std::string& output) {
  char buffer[4096];
  while (true) {
    pollfd wait = {fd, POLLIN, 0};
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    const int ready = poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready <= 0) continue;
    const ssize_t size = read(fd, buffer, sizeof(buffer));
    if (size <= 0) return true;
    if (output.size() < kOutputMax) output.append(buffer, size);
  }
}

// The child's pid; standard output and errors go to `output_fd`.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& argv, int input_fd, int output_fd) {
  std::vector<char*> args;
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input_fd, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output_fd, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output_fd, STDERR_FILENO);
  pid_t pid = -1;
  int error = posix_spawnp(&pid, args[0], &actions, nullptr, args.data(), environ);
  for (const char* folder : kSystemFolders) {
    if (error != ENOENT) break;
    const std::string path = folder + argv[0];
    error = posix_spawn(&pid, path.c_str(), &actions, nullptr, args.data(), environ);
  }
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) {
    return absl::NotFoundError(absl::StrCat("there is no program '", argv[0],
                                            "'; tools/setup installs what tests need"));
  }
  if (error != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start ", argv[0], ": ", std::strerror(error)));
  }
  return pid;
}

}  // namespace

absl::StatusOr<std::string> RunCommand(const std::vector<std::string>& argv,
                                       const CommandOptions& options) {
  CHECK(!argv.empty());
  int out[2];
  CHECK_EQ(pipe2(out, O_CLOEXEC), 0) << "no descriptors for a command's output";
  const int input = InputFile(options.input);
  const absl::StatusOr<pid_t> pid = Spawn(argv, input, out[1]);
  close(input);
  close(out[1]);
  if (!pid.ok()) {
    close(out[0]);
    return pid.status();
  }
  std::string output;
  const bool ended = ReadAll(out[0], absl::Now() + options.timeout, output);
  close(out[0]);
  if (!ended) kill(*pid, SIGKILL);
  int state = 0;
  while (waitpid(*pid, &state, 0) < 0 && errno == EINTR) {
  }
  const std::string command = absl::StrJoin(argv, " ");
  if (!ended) {
    return absl::DeadlineExceededError(absl::StrCat(
        "'", command, "' ran over ", absl::FormatDuration(options.timeout), " and was killed"));
  }
  if (!WIFEXITED(state) || WEXITSTATUS(state) != 0) {
    return absl::InternalError(
        absl::StrCat("'", command, "' failed: ", absl::StripSuffix(output, "\n")));
  }
  return output;
}

}  // namespace conclave
