#include "worker/worker_main.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/actor/actor_system.h"
#include "comm/base/signal_watch.h"
#include "comm/base/status.h"
#include "comm/channel/curve_keys.h"
#include "comm/channel/zmq_channel.h"
#include "comm/fabric/ucx_fabric.h"
#include "glog/logging.h"
#include "kernels/tensor/cpu_support.h"
#include "worker/engine/cpu_engine.h"
#include "worker/worker_actor.h"

namespace conclave {
namespace {

constexpr char kVersion[] = "0.1";
// A worker may be started before its coordinator; refusals of a key come at once.
constexpr absl::Duration kConnectTimeout = absl::Seconds(60);

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? std::string(name) : std::string("localhost");
}

uint64_t RandomId() {
  uint64_t id = 0;
  PCHECK(getrandom(&id, sizeof(id), 0) == sizeof(id));
  return std::max<uint64_t>(1, id);
}

absl::StatusOr<Hello> Introduction(const WorkerFlags& flags) {
  if (flags.device != "auto" && flags.device != "cpu") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--device '", flags.device, "': this build computes on cpu; use auto or cpu"));
  }
  Hello hello;
  hello.node = flags.node.empty() ? HostName() : flags.node;
  hello.name = flags.name.empty() ? absl::StrCat(hello.node, "-", getpid()) : flags.name;
  hello.device = "cpu";
  hello.threads = flags.threads > 0
                      ? flags.threads
                      : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  hello.memory_bytes = flags.memory_bytes > 0
                           ? flags.memory_bytes
                           : sysconf(_SC_PHYS_PAGES) / 10 * 9 * sysconf(_SC_PAGE_SIZE);
  hello.process = getpid();
  hello.version = kVersion;
  return hello;
}

absl::StatusOr<std::unique_ptr<Channel>> OpenControl(const WorkerFlags& flags,
                                                     const std::string& name) {
  const std::string keys = flags.state_dir + "/keys";
  ZmqClientOptions options;
  options.endpoint = flags.coordinator;
  options.name = name;
  ASSIGN_OR_RETURN(options.keys, LoadOrCreateCurveKeys(keys + "/worker.key"));
  options.server_key = flags.coordinator_key;
  if (options.server_key.empty()) {
    absl::StatusOr<std::string> key = LoadPublicKey(keys + "/coordinator.pub");
    if (!key.ok()) {
      return WithContext(key.status(),
                         "the coordinator's public key is needed: give --coordinator-key, or copy "
                         "its keys/coordinator.pub here");
    }
    options.server_key = *std::move(key);
  }
  LOG(INFO) << "worker " << name << " has public key " << options.keys.public_key;
  ASSIGN_OR_RETURN(std::unique_ptr<ZmqClientChannel> channel, ZmqClientChannel::Connect(options));
  RETURN_IF_ERROR(channel->AwaitConnected(kConnectTimeout));
  return channel;
}

CpuEngineOptions EngineOptions(const Hello& hello) {
  CpuEngineOptions options;
  options.threads = hello.threads;
  options.memory_bytes = hello.memory_bytes;
  options.make_endpoint = [](const Assign& assign) {
    UcxOptions ucx;
    ucx.world_size = assign.plan.spec.WorkerCount();
    return CreateUcxEndpoint(ucx);
  };
  return options;
}

}  // namespace

absl::Status RunWorker(const WorkerFlags& flags) {
  absl::Mutex mutex;  // guards `leave` against a signal before it exists
  std::function<void()> leave;
  SignalWatch signals([&](int count) {
    if (count > 1) _exit(1);
    absl::MutexLock lock(&mutex);
    if (leave == nullptr) _exit(1);
    leave();
  });
  RETURN_IF_ERROR(CheckCpuSupported());
  ASSIGN_OR_RETURN(const Hello hello, Introduction(flags));
  ASSIGN_OR_RETURN(std::unique_ptr<Channel> channel, OpenControl(flags, hello.name));
  ActorSystem system(std::move(channel), {});
  WorkerActor::Options options;
  options.id = WorkerId{RandomId()};
  options.hello = hello;
  WorkerActor actor(options, system, [&hello](EngineListener& listener) {
    return CreateCpuEngine(EngineOptions(hello), listener);
  });
  {
    absl::MutexLock lock(&mutex);
    leave = [&system, &actor] {
      system.Post([&actor](ActorContext& ctx) { actor.Leave(ctx, "SIGTERM"); });
    };
  }
  const absl::Status reason = system.Run(actor);
  absl::MutexLock lock(&mutex);
  leave = nullptr;
  return reason;
}

}  // namespace conclave
