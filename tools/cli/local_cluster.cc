#include "tools/cli/local_cluster.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kCoordinatorStartTimeout = absl::Seconds(20);
constexpr absl::Duration kStopTimeout = absl::Seconds(40);
constexpr absl::Duration kPollInterval = absl::Milliseconds(10);
constexpr int kRestartsMax = 5;
constexpr absl::Duration kRestartPeace = absl::Minutes(1);

bool IsCancelled(const LocalClusterOptions& options) {
  return options.cancelled != nullptr && options.cancelled->load();
}

// Reads one line from `fd` with a deadline; empty on end of file.
absl::StatusOr<std::string> ReadLine(int fd, absl::Time deadline) {
  std::string line;
  while (absl::Now() < deadline) {
    pollfd poll_fd = {fd, POLLIN, 0};
    if (poll(&poll_fd, 1, 20) <= 0) continue;
    char buffer[512];
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count <= 0) return std::string();
    line.append(buffer, count);
    if (const size_t end = line.find('\n'); end != std::string::npos) return line.substr(0, end);
  }
  return absl::DeadlineExceededError("the coordinator did not say in time where it listens");
}

// The JSON of /health; empty when it is none.
boost::json::object HealthBody(const HttpResponse& health) {
  boost::json::error_code error;
  const boost::json::value body = boost::json::parse(health.body, error);
  return !error && body.is_object() ? body.as_object() : boost::json::object();
}

void AddFlag(std::vector<std::string>& argv, const std::string& flag, const std::string& value) {
  if (value.empty()) return;
  argv.push_back(absl::StrCat("--", flag, "=", value));
}

}  // namespace

absl::StatusOr<std::string> ProgramPath() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (error) return absl::UnavailableError("cannot read /proc/self/exe; is /proc mounted?");
  return path.string();
}

absl::StatusOr<std::string> LocalCluster::Program() const {
  if (!options_.program.empty()) return options_.program;
  return ProgramPath();
}

absl::Status LocalCluster::MakeStateDir() {
  if (!options_.state_dir.empty()) {
    state_dir_ = options_.state_dir;
  } else {
    const char* base = getenv("TMPDIR");
    std::string name =
        absl::StrCat(base != nullptr && *base != 0 ? base : "/tmp", "/conclave-XXXXXX");
    if (mkdtemp(name.data()) == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("cannot make a temporary folder ", name, "; set TMPDIR to a writable one"));
    }
    state_dir_ = name;
    remove_state_dir_ = true;
  }
  std::error_code error;
  fs::create_directories(state_dir_ + "/logs", error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--state-dir '", state_dir_, "': ", error.message(), "; name a writable folder"));
  }
  return absl::OkStatus();
}

std::string LocalCluster::LogPath(const std::string& name) const {
  return options_.verbose ? std::string() : absl::StrCat(state_dir_, "/logs/", name, ".log");
}

std::string LocalCluster::LogTail(const std::string& name) const {
  std::ifstream in(LogPath(name));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  std::string tail;
  const size_t first = lines.size() > 5 ? lines.size() - 5 : 0;
  for (size_t i = first; i < lines.size(); ++i) absl::StrAppend(&tail, "\n  ", lines[i]);
  return tail;
}

absl::Status LocalCluster::StartCoordinator() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::ResourceExhaustedError("cannot make a pipe");
  const ModelOptions& model = options_.model;
  ASSIGN_OR_RETURN(const std::string program, Program());
  std::vector<std::string> argv = {program, "coordinator"};
  AddFlag(argv, "model", model.model);
  AddFlag(argv, "load-format", model.load_format);
  AddFlag(argv, "parallel", model.parallel);
  AddFlag(argv, "workers", absl::StrCat(options_.workers));
  AddFlag(argv, "host", options_.host);
  AddFlag(argv, "port", absl::StrCat(options_.port));
  AddFlag(argv, "control", "tcp://127.0.0.1:*");
  AddFlag(argv, "state-dir", state_dir_);
  AddFlag(argv, "kv-cache-dtype", model.kv_cache_dtype);
  if (model.deterministic) argv.push_back("--deterministic");
  AddFlag(argv, "quantization", model.quantization);
  AddFlag(argv, "quant-group-size", absl::StrCat(model.quant_group));
  AddFlag(argv, "block-size", absl::StrCat(model.page_tokens));
  if (model.context_tokens_max > 0) {
    AddFlag(argv, "max-model-len", absl::StrCat(model.context_tokens_max));
  }
  AddFlag(argv, "max-num-seqs", absl::StrCat(model.sequences_max));
  AddFlag(argv, "max-num-batched-tokens", absl::StrCat(model.batch_tokens_max));
  AddFlag(argv, "exchange", model.exchange);
  AddFlag(argv, "exchange-dtype", model.exchange_dtype);
  AddFlag(argv, "served-model-name", options_.served_model_name);
  AddFlag(argv, "ready-fd", absl::StrCat(fds[1]));
  absl::StatusOr<Subprocess> child =
      Subprocess::Start({argv, LogPath("coordinator"), fds[1], true});
  close(fds[1]);
  if (!child.ok()) {
    close(fds[0]);
    return child.status();
  }
  coordinator_.push_back(*std::move(child));
  const absl::StatusOr<std::string> line = ReadLine(fds[0], absl::Now() + kCoordinatorStartTimeout);
  close(fds[0]);
  RETURN_IF_ERROR(line.status());
  if (line->empty()) {
    coordinator_[0].WaitOrKill(absl::Seconds(2));
    return absl::UnavailableError(
        absl::StrCat("the coordinator did not start:", LogTail("coordinator")));
  }
  const boost::json::object ready = boost::json::parse(*line).as_object();
  control_ = ready.at("control").as_string().c_str();
  admin_token_ = ready.at("admin_token").as_string().c_str();
  url_ = absl::StrCat("http://", options_.host == "0.0.0.0" ? "127.0.0.1" : options_.host, ":",
                      ready.at("port").as_int64());
  return absl::OkStatus();
}

absl::StatusOr<Subprocess> LocalCluster::StartWorker(int i) const {
  ASSIGN_OR_RETURN(const std::string program, Program());
  const int count = options_.workers;
  const int threads = options_.model.threads > 0 ? options_.model.threads
                                                 : std::max(1, MachineProcessors() / count);
  std::string memory = options_.model.memory;
  if (memory.empty()) memory = absl::StrCat(MemoryOfWorker(options_.model, i, count));
  const std::string name = absl::StrCat("w", i);
  std::vector<std::string> argv = {program, "worker"};
  AddFlag(argv, "coordinator", control_);
  AddFlag(argv, "state-dir", state_dir_);
  AddFlag(argv, "name", name);
  if (options_.nodes > 1) AddFlag(argv, "node", absl::StrCat("node", i * options_.nodes / count));
  AddFlag(argv, "device", DeviceOfWorker(options_.model, i));
  AddFlag(argv, "threads", absl::StrCat(threads));
  AddFlag(argv, "memory", memory);
  return Subprocess::Start({argv, LogPath(name), -1, true});
}

absl::Status LocalCluster::StartWorkers() {
  for (int i = 0; i < options_.workers; ++i) {
    ASSIGN_OR_RETURN(Subprocess child, StartWorker(i));
    workers_.push_back(std::move(child));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> LocalCluster::Supervise() {
  if (const auto end = coordinator_[0].Ended()) {
    return absl::UnavailableError(
        absl::StrCat("the coordinator ended (", *end, "):", LogTail("coordinator")));
  }
  std::vector<std::string> lines;
  for (size_t i = 0; i < workers_.size(); ++i) {
    const auto end = workers_[i].Ended();
    if (!end) continue;
    const absl::Time now = absl::Now();
    restarts_ = now - last_restart_ > kRestartPeace ? 1 : restarts_ + 1;
    last_restart_ = now;
    const std::string name = absl::StrCat("w", i);
    if (restarts_ > kRestartsMax) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "worker ", name, " ended (", *end, ") and workers keep ending; its log:", LogTail(name)));
    }
    ASSIGN_OR_RETURN(workers_[i], StartWorker(static_cast<int>(i)));
    lines.push_back(absl::StrCat("worker ", name, " ended (", *end, "); started again as process ",
                                 workers_[i].pid()));
  }
  return lines;
}

std::string LocalCluster::FailedChild() {
  if (!coordinator_.empty()) {
    if (const auto end = coordinator_[0].Ended()) {
      return absl::StrCat("the coordinator ended (", *end, "):", LogTail("coordinator"));
    }
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (const auto end = workers_[i].Ended()) {
      const std::string name = absl::StrCat("w", i);
      return absl::StrCat("worker ", name, " ended (", *end, "):", LogTail(name));
    }
  }
  return "";
}

absl::Status LocalCluster::AwaitServing(const std::function<void(absl::string_view)>& progress) {
  const absl::Time deadline = absl::Now() + options_.start_timeout;
  std::string said;
  while (absl::Now() < deadline) {
    if (IsCancelled(options_)) return absl::CancelledError("interrupted");
    if (const std::string failed = FailedChild(); !failed.empty()) {
      return absl::UnavailableError(failed);
    }
    ASSIGN_OR_RETURN(const HttpResponse health, Client(false).Get("/health"));
    if (health.code == 200) return absl::OkStatus();
    const boost::json::object body = HealthBody(health);
    if (body.contains("failure")) {
      return absl::FailedPreconditionError(boost::json::value_to<std::string>(body.at("failure")));
    }
    const std::string reason =
        body.contains("reason") ? boost::json::value_to<std::string>(body.at("reason")) : "";
    if (said != reason) progress(said = reason);
    absl::SleepFor(kPollInterval);  // tidy: allow(sleep) paces polls of another process
  }
  return absl::DeadlineExceededError(absl::StrCat("the cluster did not serve within ",
                                                  absl::FormatDuration(options_.start_timeout),
                                                  "; last state: ", said));
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(
    const LocalClusterOptions& options, const std::function<void(absl::string_view)>& progress) {
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(options));
  RETURN_IF_ERROR(cluster->MakeStateDir());
  RETURN_IF_ERROR(cluster->StartCoordinator());
  RETURN_IF_ERROR(cluster->StartWorkers());
  RETURN_IF_ERROR(cluster->AwaitServing(progress));
  return cluster;
}

HttpClient LocalCluster::Client(bool admin) const {
  HttpClient::Options options;
  options.base_url = url_;
  if (admin) options.bearer = admin_token_;
  options.cancelled = options_.cancelled;
  return HttpClient(options);
}

absl::Status LocalCluster::Stop() {
  std::string failures = FailedChild();
  // The coordinator drains and tells its workers to leave; what is left after that is ended here.
  for (Subprocess& child : coordinator_) child.Signal(SIGTERM);
  for (Subprocess& child : coordinator_) {
    const std::string end = child.WaitOrKill(kStopTimeout);
    if (end != "exit 0") absl::StrAppend(&failures, "\nthe coordinator left with ", end);
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!workers_[i].Wait(absl::Milliseconds(500))) workers_[i].Signal(SIGTERM);
    const std::string end = workers_[i].WaitOrKill(absl::Seconds(2));
    if (end != "exit 0") absl::StrAppend(&failures, "\nworker w", i, " left with ", end);
  }
  coordinator_.clear();
  workers_.clear();
  if (!failures.empty()) return absl::InternalError(failures);
  return absl::OkStatus();
}

LocalCluster::~LocalCluster() {
  Stop().IgnoreError();
  if (!remove_state_dir_) return;
  std::error_code error;
  fs::remove_all(state_dir_, error);
}

}  // namespace conclave
