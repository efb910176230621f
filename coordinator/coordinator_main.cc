#include "coordinator/coordinator_main.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "comm/actor/actor_system.h"
#include "comm/base/signal_watch.h"
#include "comm/base/status.h"
#include "comm/channel/curve_keys.h"
#include "comm/channel/zmq_channel.h"
#include "coordinator/api/api_server.h"
#include "coordinator/coordinator_actor.h"
#include "coordinator/coordinator_service.h"
#include "coordinator/model_config/model_config.h"
#include "coordinator/tokenizer/tokenizer.h"
#include "glog/logging.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  PCHECK(getrandom(bytes.data(), count, 0) == static_cast<ssize_t>(count));
  return bytes;
}

uint64_t RandomSeed() {
  uint64_t seed = 0;
  memcpy(&seed, RandomBytes(sizeof(seed)).data(), sizeof(seed));
  return seed;
}

// The admin token in `state_dir`, made at first start, readable by its owner only.
absl::StatusOr<std::string> LoadOrCreateAdminToken(const std::string& state_dir) {
  const std::string path = state_dir + "/admin.token";
  std::string token;
  if (std::ifstream in(path); std::getline(in, token) && !token.empty()) return token;
  std::error_code error;
  fs::create_directories(state_dir, error);
  token = absl::BytesToHexString(RandomBytes(24));
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const std::string line = token + "\n";
  if (fd < 0 || write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    if (fd >= 0) close(fd);
    return absl::UnavailableError(absl::StrCat("cannot write the admin token to ", path, ": ",
                                               strerror(errno), "; name a writable --state-dir"));
  }
  close(fd);
  return token;
}

// Epochs of one run stay below this; the next run begins above them.
constexpr uint64_t kEpochsOfARun = 100'000;

// The newest epoch that an earlier coordinator of `state_dir` may have used. Counts the starts in a
// file, so that workers which outlive a coordinator never take a new plan for an old one.
absl::StatusOr<Epoch> LastEpoch(const std::string& state_dir) {
  const std::string path = state_dir + "/starts";
  uint64_t starts = 0;
  std::ifstream(path) >> starts;
  const std::string part = path + ".part";
  std::ofstream out(part, std::ios::trunc);
  out << starts + 1 << "\n";
  out.close();
  std::error_code error;
  if (out) fs::rename(part, path, error);
  if (!out || error) {
    return absl::UnavailableError(
        absl::StrCat("cannot count this start in ", path, "; name a writable --state-dir"));
  }
  return Epoch{starts * kEpochsOfARun};
}

// The tokenizer of `folder`. One of a kind that is not known leaves the model to serve token ids; a
// damaged one is an error.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder / "tokenizer.json", error)) return nullptr;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(folder.string());
  if (absl::IsUnimplemented(tokenizer.status())) {
    LOG(WARNING) << "only token ids are served, no text: " << tokenizer.status().message();
    return nullptr;
  }
  return tokenizer;
}

struct Model {
  ModelShape shape;
  ModelSource source;
  std::string served_name;
  std::unique_ptr<Tokenizer> tokenizer;  // null: token ids only
};

absl::StatusOr<Model> OpenModel(const CoordinatorFlags& flags) {
  Model model;
  std::error_code error;
  if (fs::is_directory(flags.model, error)) {
    const fs::path folder = fs::absolute(flags.model).lexically_normal();
    ASSIGN_OR_RETURN(model.shape, ReadModelShape(folder.string()));
    model.source.path = folder.string();
    model.source.dummy = flags.load_format == "dummy";
    ASSIGN_OR_RETURN(model.tokenizer, OpenTokenizer(folder));
    model.served_name = folder.has_filename() ? folder.filename().string()
                                              : folder.parent_path().filename().string();
  } else {
    ASSIGN_OR_RETURN(model.shape, PresetShape(flags.model));
    model.source.dummy = true;
    model.served_name = flags.model;
  }
  if (!flags.served_model_name.empty()) model.served_name = flags.served_model_name;
  return model;
}

absl::StatusOr<CoordinatorOptions> ActorOptions(const CoordinatorFlags& flags, const Model& model) {
  CoordinatorOptions options;
  options.shape = model.shape;
  options.model = model.served_name;
  options.source = model.source;
  options.cache.page_tokens = flags.page_tokens;
  options.cache_dtype_auto = flags.kv_cache_dtype == "auto";
  if (!options.cache_dtype_auto) {
    ASSIGN_OR_RETURN(options.cache.dtype, ParseDtype(flags.kv_cache_dtype));
  }
  options.compute.deterministic = flags.deterministic;
  ASSIGN_OR_RETURN(options.compute.quantization, ParseQuantization(flags.quantization));
  options.compute.quant_group = flags.quant_group;
  options.context_tokens_max = flags.context_tokens_max;
  options.sequences_max = flags.sequences_max;
  options.batch_tokens_max = flags.batch_tokens_max;
  ASSIGN_OR_RETURN(options.exchange, ParseExchangeKind(flags.exchange));
  ASSIGN_OR_RETURN(options.payload, ParsePayloadFormat(flags.exchange_dtype));
  if (flags.deterministic && options.payload != PayloadFormat::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("--exchange-dtype ", flags.exchange_dtype,
                     " rounds activations, --deterministic forbids it; leave one of them out"));
  }
  if (options.payload != PayloadFormat::kF32 && model.shape.IsMoe()) {
    LOG(WARNING) << "--exchange-dtype " << flags.exchange_dtype
                 << " rounds the rows that experts exchange: outputs are not exact";
  }
  const int context = flags.context_tokens_max > 0
                          ? std::min(flags.context_tokens_max, model.shape.context_tokens)
                          : model.shape.context_tokens;
  const int64_t pages = (context + flags.page_tokens - 1) / flags.page_tokens;
  options.cache.pages_max =
      static_cast<int32_t>(std::min<int64_t>(pages * flags.sequences_max, 1 << 24));
  if (!flags.parallel.empty() || flags.workers <= 1) {
    ASSIGN_OR_RETURN(const ParallelSpec spec, ParseParallelSpec(flags.parallel));
    ASSIGN_OR_RETURN(options.spec, ResolveParallelSpec(spec, model.shape));
  }
  options.workers_expected = std::max(1, flags.workers);
  return options;
}

// The channel that workers connect to. Workers that share this state folder share its worker key
// and may join; others join by keys/allowed/*.pub or --allow-worker-key.
absl::StatusOr<std::unique_ptr<Channel>> OpenControl(const CoordinatorFlags& flags) {
  const std::string keys = flags.state_dir + "/keys";
  ZmqServerOptions options;
  options.endpoint = flags.control;
  ASSIGN_OR_RETURN(options.keys, LoadOrCreateCurveKeys(keys + "/coordinator.key"));
  ASSIGN_OR_RETURN(const CurveKeys worker, LoadOrCreateCurveKeys(keys + "/worker.key"));
  options.allowed_keys = flags.allowed_worker_keys;
  options.allowed_keys.push_back(worker.public_key);
  options.allowed_folder = keys + "/allowed";
  std::error_code error;
  fs::create_directories(options.allowed_folder, error);
  return ListenZmq(std::move(options));
}

absl::Status SayReady(const CoordinatorFlags& flags, const std::string& control, int port,
                      const std::string& admin_token) {
  if (flags.ready_fd < 0) {
    LOG(INFO) << "workers connect to " << control << ", HTTP on " << flags.host << ":" << port
              << ", admin token in " << flags.state_dir << "/admin.token";
    return absl::OkStatus();
  }
  const boost::json::object ready = {
      {"control", control}, {"port", port}, {"admin_token", admin_token}};
  const std::string line = boost::json::serialize(ready) + "\n";
  const bool written =
      write(flags.ready_fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  close(flags.ready_fd);
  return written ? absl::OkStatus() : absl::UnavailableError("--ready-fd is not open for writing");
}

}  // namespace

absl::Status RunCoordinator(const CoordinatorFlags& flags) {
  CoordinatorService* service = nullptr;
  absl::Mutex mutex;  // guards `service` against a signal before it exists
  SignalWatch signals([&](int count) {
    if (count > 1) _exit(1);
    absl::MutexLock lock(&mutex);
    if (service == nullptr) _exit(1);
    service->Drain();
  });
  ASSIGN_OR_RETURN(const Model model, OpenModel(flags));
  ASSIGN_OR_RETURN(CoordinatorOptions options, ActorOptions(flags, model));
  ASSIGN_OR_RETURN(const std::string admin_token, LoadOrCreateAdminToken(flags.state_dir));
  ASSIGN_OR_RETURN(options.last_epoch, LastEpoch(flags.state_dir));
  ASSIGN_OR_RETURN(std::unique_ptr<Channel> channel, OpenControl(flags));
  const std::string control = channel->endpoint();
  ActorSystem system(std::move(channel), {});
  CoordinatorActor actor(options);
  CoordinatorService cluster(actor, system);
  ApiOptions api;
  api.http.host = flags.host;
  api.http.port = flags.port;
  api.model = model.served_name;
  api.shape = model.shape;
  api.admin_token = admin_token;
  api.random_seed = RandomSeed();
  ASSIGN_OR_RETURN(std::unique_ptr<ApiServer> server,
                   ApiServer::Start(api, cluster, model.tokenizer.get()));
  {
    absl::MutexLock lock(&mutex);
    service = &cluster;
  }
  RETURN_IF_ERROR(SayReady(flags, control, server->port(), admin_token));
  const absl::Status reason = system.Run(actor);
  server->Stop();
  absl::MutexLock lock(&mutex);
  service = nullptr;
  return reason;
}

}  // namespace conclave
