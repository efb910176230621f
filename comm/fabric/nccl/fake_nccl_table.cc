// The table of functions that FakeNccl fills.
#include <cstring>
#include <utility>

#include "comm/fabric/nccl/fake_nccl.h"
#include "glog/logging.h"

namespace conclave {
namespace {

size_t BytesOf(size_t count, NcclType type) {
  return type == NcclType::kFloat32 ? count * sizeof(float) : count;
}

}  // namespace

std::shared_ptr<const NcclApi> FakeNccl::Api() {
  auto api = std::make_shared<NcclApi>(UncheckedApi());
  const absl::Status status = CheckNcclApi(*api);
  CHECK(status.ok()) << status;
  return api;
}

NcclApi FakeNccl::UncheckedApi() {
  NcclApi api;
  api.library = "fake_nccl";
  BindCommunicatorCalls(api);
  BindOperations(api);
  const auto has = [&](const char* name) { return !options_.missing.contains(name); };
  if (!has("ncclSend")) api.send = nullptr;
  if (!has("ncclCommShrink")) api.comm_shrink = nullptr;
  if (!has("ncclAlltoAll")) api.all_to_all = nullptr;
  if (!has("ncclCommWindowRegister")) api.comm_window_register = nullptr;
  api.has_device_api = has("ncclDevCommCreate");
  return api;
}

void FakeNccl::BindCommunicatorCalls(NcclApi& api) {
  const auto self = shared_from_this();
  api.get_version = [self](int* version) {
    *version = self->options_.version;
    return NcclResult::kSuccess;
  };
  api.get_unique_id = [self](NcclUniqueId* id) {
    absl::MutexLock lock(&self->mutex_);
    ++self->calls_["ncclGetUniqueId"];
    *id = {};
    const uint64_t number = ++self->ids_;
    std::memcpy(id->bytes, &number, sizeof(number));
    return NcclResult::kSuccess;
  };
  api.comm_init_rank_config = [self](NcclComm* comm, int size, NcclUniqueId id, int rank,
                                     NcclConfig* config) {
    return self->Init(comm, size, id, rank, config);
  };
  api.comm_finalize = [self](NcclComm comm) { return self->Finalize(comm); };
  api.comm_destroy = [self](NcclComm comm) { return self->Close(comm, "ncclCommDestroy"); };
  api.comm_abort = [self](NcclComm comm) { return self->Close(comm, "ncclCommAbort"); };
  api.comm_shrink = [self](NcclComm comm, int* excluded, int count, NcclComm* child,
                           NcclConfig* config, int flags) {
    CHECK_EQ(flags, kNcclShrinkAbort);
    return self->Shrink(comm, {excluded, excluded + count}, child, config);
  };
  api.comm_get_async_error = [self](NcclComm comm, NcclResult* result) {
    return self->AsyncError(comm, result);
  };
  api.get_error_string = [](NcclResult result) {
    return result == NcclResult::kRemoteError ? "remote process exited or there was a network error"
           : result == NcclResult::kInvalidUsage ? "invalid usage"
                                                 : "some other NCCL error";
  };
  api.get_last_error = [self](NcclComm) {
    absl::MutexLock lock(&self->mutex_);
    return self->last_error_ == nullptr ? "" : self->last_error_->c_str();
  };
  api.comm_window_register = [self](NcclComm comm, void* data, size_t bytes, NcclWindow* window,
                                    int) {
    return self->RegisterWindow(comm, data, bytes, window);
  };
  api.comm_window_deregister = [self](NcclComm comm, NcclWindow window) {
    absl::MutexLock lock(&self->mutex_);
    if (self->Open(comm, "ncclCommWindowDeregister") == nullptr) {
      return NcclResult::kInvalidArgument;
    }
    return self->windows_.erase(window) == 1 ? NcclResult::kSuccess
                                             : self->Wrong("a window that is not registered");
  };
  api.mem_alloc = [self](void** data, size_t bytes) {
    std::shared_ptr<void> memory = self->AllocateDevice(bytes);
    absl::MutexLock lock(&self->mutex_);
    *data = memory.get();
    self->windows_memory_[*data] = std::move(memory);
    return NcclResult::kSuccess;
  };
  api.mem_free = [self](void* data) {
    std::shared_ptr<void> memory;  // freed after the lock, which its deleter takes
    absl::MutexLock lock(&self->mutex_);
    memory = std::move(self->windows_memory_[data]);
    self->windows_memory_.erase(data);
    return NcclResult::kSuccess;
  };
}

void FakeNccl::BindOperations(NcclApi& api) {
  const auto self = shared_from_this();
  using K = FakeNcclKind;
  api.group_start = [self] { return self->GroupStart(); };
  api.group_end = [self] { return self->GroupEnd(); };
  api.send = [self](const void* from, size_t count, NcclType type, int peer, NcclComm comm,
                    CudaStream stream) {
    return self->Enqueue("ncclSend", comm,
                         {K::kSend, from, nullptr, BytesOf(count, type), peer, stream});
  };
  api.recv = [self](void* to, size_t count, NcclType type, int peer, NcclComm comm,
                    CudaStream stream) {
    return self->Enqueue("ncclRecv", comm,
                         {K::kRecv, nullptr, to, BytesOf(count, type), peer, stream});
  };
  const auto collective = [self](const char* name, K kind) {
    return [self, name, kind](const void* from, void* to, size_t count, NcclType type,
                              NcclComm comm, CudaStream stream) {
      return self->Enqueue(name, comm, {kind, from, to, BytesOf(count, type), 0, stream});
    };
  };
  api.all_gather = collective("ncclAllGather", K::kAllGather);
  api.all_to_all = collective("ncclAlltoAll", K::kAllToAll);
  const auto reduction = [self](const char* name, K kind) {
    return [self, name, kind](const void* from, void* to, size_t count, NcclType type,
                              NcclReduction, NcclComm comm, CudaStream stream) {
      return self->Enqueue(name, comm, {kind, from, to, BytesOf(count, type), 0, stream});
    };
  };
  api.all_reduce = reduction("ncclAllReduce", K::kAllReduce);
  api.reduce_scatter = reduction("ncclReduceScatter", K::kReduceScatter);
  api.broadcast = [self](const void* from, void* to, size_t count, NcclType type, int root,
                         NcclComm comm, CudaStream stream) {
    return self->Enqueue("ncclBroadcast", comm,
                         {K::kBroadcast, from, to, BytesOf(count, type), root, stream});
  };
}

}  // namespace conclave
