#include "comm/fabric/nccl/nccl_fabric.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/fabric_error.h"
#include "glog/logging.h"

namespace conclave {
namespace {

WireOp StartOp(const FabricOp& op) {
  const absl::Duration bounded = std::clamp(op.timeout, absl::ZeroDuration(), absl::Hours(24));
  return {op, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(bounded)};
}

std::vector<int> AllRanks(int size) {
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

template <typename T>
absl::Span<uint8_t> BytesOf(std::vector<T>& values) {
  return {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(T)};
}

// What each rank tells the others first.
struct Greeting {
  uint64_t epoch = 0;
  uint64_t rank = 0;
};

}  // namespace

NcclFabric::NcclFabric(std::shared_ptr<const NcclApi> api, std::unique_ptr<NcclDevice> device,
                       const World& world, const NcclFabricOptions& options)
    : api_(std::move(api)),
      device_(std::move(device)),
      rank_(world.rank),
      size_(world.size),
      options_(options),
      stager_(*device_),
      sent_(world.size),
      received_(world.size) {}

NcclCommunicatorOptions NcclFabric::CommunicatorOptions(std::vector<int> ranks, int index) const {
  NcclCommunicatorOptions options;
  options.api = api_;
  options.device = device_.get();
  options.cancel = cancel_.get();
  options.ranks = std::move(ranks);
  options.index = index;
  options.spin = options_.spin;
  options.abort_timeout = options_.abort_timeout;
  return options;
}

absl::StatusOr<std::unique_ptr<NcclFabric>> NcclFabric::Connect(std::shared_ptr<const NcclApi> api,
                                                                std::unique_ptr<NcclDevice> device,
                                                                const World& world,
                                                                const NcclFabricOptions& options) {
  CHECK(world.rank >= 0 && world.rank < world.size) << "no such rank: " << world.rank;
  std::unique_ptr<NcclFabric> made(
      new NcclFabric(std::move(api), std::move(device), world, options));
  const WireOp op = StartOp({"connect", -1, options.connect_timeout});
  ASSIGN_OR_RETURN(made->world_,
                   NcclCommunicator::Init(
                       made->CommunicatorOptions(AllRanks(world.size), world.rank), world.id, op));
  RETURN_IF_ERROR(made->CompareEpochs(world.epoch, op));
  if (options.symmetric_window_bytes > 0) RETURN_IF_ERROR(made->RegisterWindow(op));
  return made;
}

absl::Status NcclFabric::CompareEpochs(uint64_t epoch, const WireOp& op) {
  std::vector<Greeting> own = {{epoch, static_cast<uint64_t>(rank_)}};
  std::vector<Greeting> all(size_);
  stager_.Clear();
  const size_t in = stager_.AddIn(BytesOf(own));
  const size_t out = stager_.AddOut(BytesOf(all));
  RETURN_IF_ERROR(stager_.Map());
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    return api_->all_gather(stager_.device(in), stager_.device(out), sizeof(Greeting),
                            NcclType::kUint8, comm, device_->stream());
  };
  work.then = [&] { return stager_.CopyBack(); };
  RETURN_IF_ERROR(world_->Run(work, op));
  stager_.Finish();
  for (int rank = 0; rank < size_; ++rank) {
    if (all[rank].rank == static_cast<uint64_t>(rank) && all[rank].epoch == epoch) continue;
    return FabricError(absl::StatusCode::kFailedPrecondition, rank_, op.op,
                       absl::StrCat("rank ", rank, " answers as rank ", all[rank].rank,
                                    " of epoch ", all[rank].epoch, ", not of epoch ", epoch,
                                    "; commit the same epoch to all workers"));
  }
  return absl::OkStatus();
}

absl::Status NcclFabric::RegisterWindow(const WireOp& op) {
  const size_t bytes = options_.symmetric_window_bytes;
  for (const NcclFeature& feature : api_->features) {
    if (feature.name != "symmetric_windows" || feature.present) continue;
    return FabricError(absl::StatusCode::kFailedPrecondition, rank_, op.op,
                       absl::StrCat("symmetric windows were asked for, and ", api_->library, " (",
                                    NcclVersionText(api_->version), ") has ", feature.detail,
                                    "; set symmetric_window_bytes to 0 or use a newer NCCL"));
  }
  void* data = nullptr;
  if (api_->mem_alloc(&data, bytes) != NcclResult::kSuccess || data == nullptr) {
    return FabricError(absl::StatusCode::kResourceExhausted, rank_, op.op,
                       absl::StrCat("ncclMemAlloc gives no ", bytes,
                                    " bytes; set symmetric_window_bytes to less, or 0"));
  }
  window_.device = static_cast<uint8_t*>(data);
  window_.owner = std::shared_ptr<void>(data, [api = api_](void* p) { api->mem_free(p); });
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    return api_->comm_window_register(comm, data, bytes, &window_handle_, kNcclWindowSymmetric);
  };
  RETURN_IF_ERROR(world_->Run(work, op));
  if (window_handle_ == nullptr) {  // ranks that do not reach each other's memory
    LOG(WARNING) << "fabric rank " << rank_ << ": NCCL has no symmetric memory among these GPUs";
    window_ = {};
    return absl::OkStatus();
  }
  window_span_ = absl::MakeSpan(window_.device, bytes);
  return absl::OkStatus();
}

void NcclFabric::ReleaseWindow() {
  if (window_handle_ == nullptr || world_->state() != NcclState::kReady) return;
  NcclWork work;
  work.enqueue = [&](NcclComm comm) { return api_->comm_window_deregister(comm, window_handle_); };
  const absl::Status status =
      world_->Run(work, StartOp({"release_window", -1, options_.abort_timeout}));
  if (!status.ok()) LOG(WARNING) << status;
  window_handle_ = nullptr;
  window_span_ = {};
}

NcclFabric::~NcclFabric() {
  // A rank that is done early must not cut off what its peers still receive.
  if (world_ == nullptr || !dead_.ok() || !cancel_->reason().ok()) return;
  const absl::Status status = Finalize({"finalize", -1, options_.abort_timeout});
  if (!status.ok()) LOG(WARNING) << status;
}

absl::Status NcclFabric::Finalize(const FabricOp& op) {
  return Operate(op, [&](const WireOp& wire) {
    ReleaseWindow();
    absl::Status status;
    for (auto& [ranks, communicator] : groups_) status.Update(communicator->Finalize(wire));
    status.Update(world_->Finalize(wire));
    dead_ = FabricError(absl::StatusCode::kFailedPrecondition, rank_, op,
                        "the fabric was finalized; connect a new one");
    return status;
  });
}

absl::Status NcclFabric::Fail(absl::Status error) {
  dead_ = std::move(error);
  for (auto& [ranks, communicator] : groups_) {
    if (const absl::Status status = communicator->Abort(); !status.ok()) LOG(ERROR) << status;
  }
  if (const absl::Status status = world_->Abort(); !status.ok()) LOG(ERROR) << status;
  return dead_;
}

absl::Status NcclFabric::Operate(const FabricOp& op,
                                 absl::FunctionRef<absl::Status(const WireOp&)> body) {
  if (!dead_.ok()) return dead_;
  if (const absl::Status reason = cancel_->reason(); !reason.ok()) {
    return Fail(CancelledError(rank_, op, reason));
  }
  RETURN_IF_ERROR(device_->MakeCurrent());
  absl::Status status = body(StartOp(op));
  return status.ok() ? status : Fail(std::move(status));
}

void NcclFabric::CheckGroup(const FabricGroup& group) const {
  CHECK(group.index >= 0 && group.index < group.size()) << "index " << group.index;
  CHECK_EQ(group.ranks[group.index], rank_) << "the group gives another rank the caller's index";
}

absl::Status NcclFabric::ShareId(const FabricGroup& group, NcclUniqueId& id, const WireOp& op) {
  if (group.index == 0 && api_->get_unique_id(&id) != NcclResult::kSuccess) {
    return FabricError(absl::StatusCode::kInternal, rank_, op.op,
                       absl::StrCat("ncclGetUniqueId failed: ", api_->get_last_error(nullptr)));
  }
  stager_.Clear();
  const absl::Span<uint8_t> bytes(reinterpret_cast<uint8_t*>(id.bytes), sizeof(id.bytes));
  const size_t index = group.index == 0 ? stager_.AddIn(bytes) : stager_.AddOut(bytes);
  RETURN_IF_ERROR(stager_.Map());
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    uint8_t* data = stager_.device(index);
    if (group.index != 0) {
      return api_->recv(data, sizeof(id.bytes), NcclType::kUint8, group.ranks[0], comm,
                        device_->stream());
    }
    for (int i = 1; i < group.size(); ++i) {
      const NcclResult result = api_->send(data, sizeof(id.bytes), NcclType::kUint8, group.ranks[i],
                                           comm, device_->stream());
      if (result != NcclResult::kSuccess && result != NcclResult::kInProgress) return result;
    }
    return NcclResult::kSuccess;
  };
  work.then = [&] { return stager_.CopyBack(); };
  work.awaited = [&] {
    AwaitedPeers awaited;
    if (group.index != 0) {
      awaited.receive_from = {group.ranks[0]};
    } else {
      awaited.send_to.assign(group.ranks.begin() + 1, group.ranks.end());
    }
    return awaited;
  };
  RETURN_IF_ERROR(world_->Run(work, op));
  stager_.Finish();
  return absl::OkStatus();
}

absl::StatusOr<NcclCommunicator*> NcclFabric::CommunicatorOf(const FabricGroup& group,
                                                             const WireOp& op) {
  if (group.ranks == AllRanks(size_)) return world_.get();
  if (const auto found = groups_.find(group.ranks); found != groups_.end()) {
    return found->second.get();
  }
  if (groups_.size() == kGroupsMax) {
    return FabricError(absl::StatusCode::kResourceExhausted, rank_, op.op,
                       absl::StrCat("a communicator for one more group, beyond ", kGroupsMax,
                                    "; use fewer distinct groups"));
  }
  NcclUniqueId id = {};
  RETURN_IF_ERROR(ShareId(group, id, op));
  ASSIGN_OR_RETURN(auto made,
                   NcclCommunicator::Init(CommunicatorOptions(group.ranks, group.index), id, op));
  return (groups_[group.ranks] = std::move(made)).get();
}

absl::StatusOr<float*> NcclFabric::Rows(size_t floats) {
  const size_t bytes = floats * sizeof(float);
  if (bytes > rows_.bytes) {
    rows_ = {};
    ASSIGN_OR_RETURN(rows_, device_->Allocate(bytes + bytes / 4, NcclDevice::Sides::kDevice));
  }
  return reinterpret_cast<float*>(rows_.device);
}

void NcclFabric::Count(int64_t messages, int64_t bytes) {
  counters_.messages_sent += messages;
  counters_.bytes_sent += bytes;
}

}  // namespace conclave
