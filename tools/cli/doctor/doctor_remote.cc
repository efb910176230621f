#include "tools/cli/doctor/doctor_remote.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "tools/cli/subprocess.h"

namespace conclave {
namespace {

namespace json = boost::json;

constexpr absl::Duration kClockTimeMax = absl::Seconds(15);
constexpr absl::Duration kDoctorTimeMax = absl::Seconds(120);
constexpr size_t kOutputMax = 1 << 20;
constexpr size_t kOutputShown = 200;

double Now() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

std::string Text(const json::object& object, absl::string_view key) {
  const json::value* value = object.if_contains({key.data(), key.size()});
  return value != nullptr && value->is_string() ? std::string(value->as_string()) : "";
}

const json::array* Array(const json::object& object, absl::string_view key) {
  const json::value* value = object.if_contains({key.data(), key.size()});
  return value != nullptr && value->is_array() ? &value->as_array() : nullptr;
}

// The object that `text` is or, after other lines, ends with; null without one.
json::value ParseObject(absl::string_view text) {
  json::error_code error;
  for (size_t begin = text.find('{'); begin != absl::string_view::npos;
       begin = text.find("\n{", begin)) {
    if (text[begin] == '\n') ++begin;
    const absl::string_view rest = absl::StripAsciiWhitespace(text.substr(begin));
    json::value value = json::parse({rest.data(), rest.size()}, error);
    if (!error && value.is_object()) return value;
  }
  return nullptr;
}

std::string Shown(absl::string_view output) {
  output = absl::StripAsciiWhitespace(output);
  return output.empty() ? "nothing" : absl::StrCat("\"", output.substr(0, kOutputShown), "\"");
}

// A command on a host, its output in a file.
struct RemoteRun {
  absl::StatusOr<Subprocess> process = absl::UnavailableError("not started");
  std::string output_path;

  std::string Output() const {
    std::ifstream file(output_path, std::ios::binary);
    std::string text(kOutputMax, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(file.gcount()));
    return text;
  }
};

RemoteRun StartRemote(const RemoteOptions& options, const std::string& host,
                      const std::vector<std::string>& command, const std::string& output_path) {
  RemoteRun run;
  run.output_path = output_path;
  Subprocess::Options start;
  start.argv = {"/usr/bin/env"};
  for (const absl::string_view word : absl::StrSplit(options.shell, ' ', absl::SkipEmpty())) {
    start.argv.emplace_back(word);
  }
  start.argv.push_back(host);
  start.argv.insert(start.argv.end(), command.begin(), command.end());
  start.log_path = output_path;
  run.process = Subprocess::Start(start);
  return run;
}

// A folder that goes with it.
class ScratchFolder {
 public:
  ScratchFolder() {
    const char* temporary = getenv("TMPDIR");
    path_ = absl::StrCat(temporary != nullptr ? temporary : "/tmp", "/conclave-doctor-XXXXXX");
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~ScratchFolder() {
    std::error_code error;
    if (!path_.empty()) std::filesystem::remove_all(path_, error);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

absl::Status Await(RemoteRun& run, absl::Duration timeout, const std::atomic<bool>& cancelled) {
  RETURN_IF_ERROR(run.process.status());
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    if (cancelled.load()) return absl::CancelledError("interrupted");
    if (run.process->Wait(absl::Milliseconds(100))) return absl::OkStatus();
  }
  return absl::DeadlineExceededError(
      absl::StrCat("did not answer within ", absl::FormatDuration(timeout)));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseHosts(absl::string_view text) {
  std::vector<std::string> hosts;
  std::set<std::string> known;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const bool odd = line[0] == '-' ||
                     std::any_of(line.begin(), line.end(),
                                 [](unsigned char c) { return c <= ' ' || c >= 0x7f; });
    if (odd || !known.insert(std::string(line)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--hosts, line ", number, ": '", line, "' is ",
                       odd ? "no host; write one name on a line" : "there already"));
    }
    hosts.emplace_back(line);
  }
  if (hosts.empty()) {
    return absl::InvalidArgumentError("--hosts: the file names no host; write one on a line");
  }
  return hosts;
}

void ReadHostAnswer(const RemoteClock& clock, absl::string_view text, HostAnswer& answer) {
  double remote_seconds = 0;
  if (!absl::SimpleAtod(absl::StripAsciiWhitespace(clock.answer), &remote_seconds)) {
    answer.error = absl::StrCat("asked for its time it answered ", Shown(clock.answer));
    return;
  }
  answer.round_trip_seconds = clock.answered_at - clock.asked_at;
  answer.clock_ahead_seconds = remote_seconds - (clock.asked_at + clock.answered_at) / 2;
  const json::value parsed = ParseObject(text);
  const json::array* checks = parsed.is_object() ? Array(parsed.as_object(), "checks") : nullptr;
  if (checks == nullptr) {
    answer.error = absl::StrCat("its doctor answered ", Shown(text));
    return;
  }
  answer.ucx = Text(parsed.as_object(), "ucx");
  for (const json::value& check : *checks) {
    if (!check.is_object()) continue;
    const std::string state = Text(check.as_object(), "state");
    if (state == "failed") answer.failed.push_back(Text(check.as_object(), "name"));
    if (state == "warning") answer.warnings.push_back(Text(check.as_object(), "name"));
  }
}

absl::StatusOr<std::vector<HostAnswer>> AskHosts(const std::vector<std::string>& hosts,
                                                 const RemoteOptions& options,
                                                 const std::atomic<bool>& cancelled) {
  const ScratchFolder folder;
  if (folder.path().empty()) {
    return absl::UnavailableError("no temporary folder can be made; set TMPDIR to one");
  }
  const auto file = [&](const char* what, size_t i) {
    return absl::StrCat(folder.path(), "/", what, i);
  };
  std::vector<HostAnswer> answers(hosts.size());
  std::vector<RemoteClock> clocks(hosts.size());
  // Clocks one after the other: several shells at once would blur the times.
  for (size_t i = 0; i < hosts.size(); ++i) {
    answers[i].host = hosts[i];
    clocks[i].asked_at = Now();
    RemoteRun run = StartRemote(options, hosts[i], {"date", "+%s.%N"}, file("date", i));
    const absl::Status status = Await(run, kClockTimeMax, cancelled);
    clocks[i].answered_at = Now();
    if (absl::IsCancelled(status)) return status;
    if (!status.ok()) answers[i].error = std::string(status.message());
    clocks[i].answer = run.Output();
  }
  std::vector<RemoteRun> runs(hosts.size());
  for (size_t i = 0; i < hosts.size(); ++i) {
    if (!answers[i].error.empty()) continue;
    runs[i] =
        StartRemote(options, hosts[i], {options.program, "doctor", "--json"}, file("doctor", i));
  }
  for (size_t i = 0; i < hosts.size(); ++i) {
    if (!answers[i].error.empty()) continue;
    const absl::Status status = Await(runs[i], kDoctorTimeMax, cancelled);
    if (absl::IsCancelled(status)) return status;
    if (status.ok()) {
      ReadHostAnswer(clocks[i], runs[i].Output(), answers[i]);
    } else {
      answers[i].error = std::string(status.message());
    }
  }
  return answers;
}

void ReadCoordinatorAnswer(absl::string_view text, CoordinatorAnswer& answer) {
  const json::value parsed = ParseObject(text);
  const json::array* workers =
      parsed.is_object() ? Array(parsed.as_object(), "workers") : nullptr;
  if (workers == nullptr) {
    answer.error = "its status is no object with workers; is it a coordinator?";
    return;
  }
  answer.state = Text(parsed.as_object(), "state");
  answer.workers = static_cast<int>(workers->size());
  std::set<std::string> versions;
  for (const json::value& worker : *workers) {
    if (!worker.is_object()) continue;
    const std::string state = Text(worker.as_object(), "state");
    if (state == "lost" || state == "suspect") {
      answer.lost.push_back(Text(worker.as_object(), "name"));
    }
    versions.insert(Text(worker.as_object(), "version"));
  }
  answer.versions.assign(versions.begin(), versions.end());
}

}  // namespace conclave
