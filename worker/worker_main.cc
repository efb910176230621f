#include "worker/worker_main.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/actor/actor_system.h"
#include "comm/base/signal_watch.h"
#include "comm/base/status.h"
#include "comm/channel/curve_keys.h"
#include "comm/channel/zmq_channel.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "comm/fabric/ucx_fabric.h"
#include "glog/logging.h"
#include "kernels/tensor/cpu_support.h"
#include "worker/engine/cpu_engine.h"
#include "worker/engine/cuda_engine.h"
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

// Index of the GPU that --device means, -1 for the CPU. `auto` takes the first GPU if this binary's
// code runs on it.
absl::StatusOr<int> GpuOf(const std::string& device) {
  if (device == "cpu") return -1;
  if (device == "auto") return CheckCudaDevice(0).ok() ? 0 : -1;
  int index = 0;
  const bool named =
      absl::StartsWith(device, "cuda:") && absl::SimpleAtoi(device.substr(5), &index) && index >= 0;
  if (device != "cuda" && !named) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device '", device, "': use auto, cpu or cuda:N"));
  }
  const absl::Status usable = CheckCudaDevice(index);
  if (!usable.ok()) return WithContext(usable, absl::StrCat("--device '", device, "'"));
  return index;
}

// What a worker may use when --memory is not given: of a GPU what is free now, but for a reserve.
absl::StatusOr<int64_t> DefaultMemory(int gpu) {
  if (gpu < 0) return sysconf(_SC_PHYS_PAGES) / 10 * 9 * sysconf(_SC_PAGE_SIZE);
  RETURN_IF_ERROR(UseCudaDevice(gpu));
  ASSIGN_OR_RETURN(const CudaMemory memory, CurrentCudaMemory());
  return memory.free_bytes / 100 * 94;
}

absl::StatusOr<Hello> Introduction(const WorkerFlags& flags, int gpu) {
  Hello hello;
  hello.node = flags.node.empty() ? HostName() : flags.node;
  hello.name = flags.name.empty() ? absl::StrCat(hello.node, "-", getpid()) : flags.name;
  hello.device = gpu < 0 ? "cpu" : absl::StrCat("cuda:", gpu);
  hello.threads = flags.threads > 0
                      ? flags.threads
                      : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  hello.memory_bytes = flags.memory_bytes;
  if (flags.memory_bytes == 0) {
    ASSIGN_OR_RETURN(hello.memory_bytes, DefaultMemory(gpu));
  }
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

std::unique_ptr<Engine> MakeEngine(const Hello& hello, int gpu, EngineListener& listener) {
  const FabricEndpointFactory make_endpoint = [](const Assign& assign) {
    UcxOptions ucx;
    ucx.world_size = assign.plan.spec.WorkerCount();
    return CreateUcxEndpoint(ucx);
  };
  if (gpu >= 0) {
    CudaEngineOptions options;
    options.device = gpu;
    options.threads = hello.threads;
    options.memory_bytes = hello.memory_bytes;
    options.make_endpoint = make_endpoint;
    return CreateCudaEngine(options, listener);
  }
  CpuEngineOptions options;
  options.threads = hello.threads;
  options.memory_bytes = hello.memory_bytes;
  options.make_endpoint = make_endpoint;
  return CreateCpuEngine(options, listener);
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
  ASSIGN_OR_RETURN(const int gpu, GpuOf(flags.device));
  ASSIGN_OR_RETURN(const Hello hello, Introduction(flags, gpu));
  ASSIGN_OR_RETURN(std::unique_ptr<Channel> channel, OpenControl(flags, hello.name));
  ActorSystem system(std::move(channel), {});
  WorkerActor::Options options;
  options.id = WorkerId{RandomId()};
  options.hello = hello;
  WorkerActor actor(options, system, [&hello, gpu](EngineListener& listener) {
    return MakeEngine(hello, gpu, listener);
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
