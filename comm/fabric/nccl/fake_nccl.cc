#include "comm/fabric/nccl/fake_nccl.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {
std::shared_ptr<FakeNccl> FakeNccl::Create(FakeNcclOptions options) {
  return std::shared_ptr<FakeNccl>(new FakeNccl(std::move(options)));
}

void FakeNccl::SetFaults(int gpu, const FakeNcclFaults& faults) {
  absl::MutexLock lock(&mutex_);
  faults_[gpu] = faults;
  StreamOf(gpu).lost = faults.lost;
}

void FakeNccl::ReleaseHangs(int calls) {
  absl::MutexLock lock(&mutex_);
  released_ = true;
  hangs_to_end_ += calls;
  mutex_.Await(absl::Condition(+[](int* to_end) { return *to_end <= 0; }, &hangs_to_end_));
}

void FakeNccl::Hang(bool hangs) {
  if (!hangs) return;
  mutex_.Await(absl::Condition(&released_));
  --hangs_to_end_;
}

int FakeNccl::CallCount(const std::string& function) const {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(function);
  return found == calls_.end() ? 0 : found->second;
}

int FakeNccl::OpenCommunicators() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(
      std::count_if(comms_.begin(), comms_.end(), [](const auto& c) { return !c->closed; }));
}

int FakeNccl::OpenWindows() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(windows_.size());
}

std::vector<std::string> FakeNccl::Misuse() const {
  absl::MutexLock lock(&mutex_);
  return misuse_;
}

void FakeNccl::SetLastError(std::string text) {
  last_error_ = &*errors_.insert(std::move(text)).first;
}

NcclResult FakeNccl::Wrong(std::string what) {
  SetLastError(what);
  misuse_.push_back(std::move(what));
  return NcclResult::kInvalidArgument;
}

FakeNcclComm* FakeNccl::Open(NcclComm handle, const char* function) {
  ++calls_[function];
  auto* comm = reinterpret_cast<Comm*>(handle);
  if (comm == nullptr || comm->closed) {
    Wrong(absl::StrCat(function, " on a communicator that is not open"));
    return nullptr;
  }
  return comm;
}

FakeNcclComm& FakeNccl::Make(std::shared_ptr<FakeNcclWorld> world, int rank, int gpu) {
  comms_.push_back(std::make_unique<Comm>());
  Comm& comm = *comms_.back();
  comm.world = std::move(world);
  comm.world->members[rank] = &comm;
  comm.rank = rank;
  comm.gpu = gpu;
  return comm;
}

NcclResult FakeNccl::Init(NcclComm* handle, int size, const NcclUniqueId& id, int rank,
                          const NcclConfig* config) {
  absl::MutexLock lock(&mutex_);
  ++calls_["ncclCommInitRankConfig"];
  const auto current = current_.find(std::this_thread::get_id());
  if (current == current_.end()) return Wrong("init without a current device");
  const int gpu = current->second;
  const FakeNcclFaults& faults = faults_[gpu];
  if (faults.init_result != NcclResult::kInProgress) {
    SetLastError("the fake was told to refuse");
    return faults.init_result;
  }
  if (config->magic != 0xcafebeef || config->blocking != 0) return Wrong("a config of no use");
  uint64_t number;
  std::memcpy(&number, id.bytes, sizeof(number));
  if (number == 0 || number > ids_) return Wrong("an id that nobody made");
  std::shared_ptr<FakeNcclWorld>& world = worlds_[number];
  if (world == nullptr) {
    world = std::make_shared<FakeNcclWorld>();
    world->members.resize(size);
  }
  if (static_cast<int>(world->members.size()) != size || rank < 0 || rank >= size ||
      world->members[rank] != nullptr) {
    return Wrong(absl::StrCat("rank ", rank, " of ", size, " does not fit the world"));
  }
  for (const Comm* member : world->members) {
    if (member == nullptr || member->gpu != gpu) continue;
    SetLastError(absl::StrCat("Duplicate GPU detected : rank ", rank, " and rank ", member->rank));
    return NcclResult::kInvalidUsage;
  }
  Comm& comm = Make(world, rank, gpu);
  comm.pending = Comm::Pending::kInit;
  comm.polls_left = faults.polls_in_progress;
  *handle = reinterpret_cast<NcclComm>(&comm);
  return NcclResult::kInProgress;
}

NcclResult FakeNccl::Finalize(NcclComm handle) {
  absl::MutexLock lock(&mutex_);
  Comm* comm = Open(handle, "ncclCommFinalize");
  if (comm == nullptr) return NcclResult::kInvalidArgument;
  if (comm->finalized || comm->pending != Comm::Pending::kNothing) return Wrong("a late finalize");
  comm->finalized = true;
  comm->pending = Comm::Pending::kFinalize;
  comm->polls_left = faults_[comm->gpu].polls_in_progress;
  return NcclResult::kInProgress;
}

// Destroy and abort: the communicator's work leaves its stream.
NcclResult FakeNccl::Close(NcclComm handle, const char* function) {
  absl::MutexLock lock(&mutex_);
  Comm* comm = Open(handle, function);
  if (comm == nullptr) return NcclResult::kInvalidArgument;
  const bool abort = std::strcmp(function, "ncclCommAbort") == 0;
  if (!abort && !comm->finalized) return Wrong("destroy before finalize");
  Hang(abort ? faults_[comm->gpu].abort_hangs : faults_[comm->gpu].destroy_hangs);
  comm->closed = true;
  if (comm->stream != nullptr) {
    auto& tasks = comm->stream->tasks;
    std::erase_if(tasks, [&](const FakeNcclTask& task) {
      return task.launch.has_value() && task.launch->comm == comm;
    });
  }
  return NcclResult::kSuccess;
}

NcclResult FakeNccl::Shrink(NcclComm handle, const std::vector<int>& excluded, NcclComm* child,
                            const NcclConfig* config) {
  absl::MutexLock lock(&mutex_);
  Comm* comm = Open(handle, "ncclCommShrink");
  if (comm == nullptr || config->blocking != 0) return Wrong("a shrink of no use");
  const FakeNcclFaults& faults = faults_[comm->gpu];
  Hang(faults.shrink_hangs);
  if (comm->closed) return NcclResult::kInvalidUsage;  // while it hung
  if (faults.shrink_fails) {
    SetLastError("the fake was told not to shrink");
    return NcclResult::kRemoteError;
  }
  if (comm->stream != nullptr) {
    std::erase_if(comm->stream->tasks, [&](const FakeNcclTask& task) {
      return task.launch.has_value() && task.launch->comm == comm;
    });
  }
  std::shared_ptr<FakeNcclWorld> world;
  for (auto& [lost, made] : comm->world->members[comm->rank]->shrunk) {
    if (lost == excluded) world = made;
  }
  if (world == nullptr) {
    world = std::make_shared<FakeNcclWorld>();
    world->members.resize(comm->world->members.size() - excluded.size());
    for (Comm* member : comm->world->members) {
      if (member != nullptr) member->shrunk.emplace_back(excluded, world);
    }
  }
  int rank = comm->rank;
  for (const int lost : excluded) rank -= lost < comm->rank ? 1 : 0;
  comm->child = &Make(world, rank, comm->gpu);
  comm->child_slot = child;
  comm->pending = Comm::Pending::kShrink;
  comm->polls_left = faults.polls_in_progress;
  comm->error = NcclResult::kSuccess;
  return NcclResult::kInProgress;
}

bool FakeNccl::StillPending(Comm& comm) {
  using P = FakeNcclComm::Pending;
  if (comm.pending == P::kNothing) return false;
  const FakeNcclFaults& faults = faults_[comm.gpu];
  if (comm.pending == P::kInit && faults.init_never_completes) return true;
  if (comm.pending == P::kFinalize && faults.finalize_never_completes) return true;
  const auto incomplete = [](const FakeNcclWorld& world) {
    return std::count(world.members.begin(), world.members.end(), nullptr) > 0;
  };
  if (comm.pending == P::kInit && incomplete(*comm.world)) return true;
  if (comm.pending == P::kShrink && incomplete(*comm.child->world)) return true;
  if (comm.polls_left > 0) {
    --comm.polls_left;
    return true;
  }
  if (comm.pending == P::kLaunch) Launch(comm);
  if (comm.pending == P::kShrink) *comm.child_slot = reinterpret_cast<NcclComm>(comm.child);
  comm.pending = P::kNothing;
  return false;
}

void FakeNccl::Launch(Comm& comm) {
  const FakeNcclFaults& faults = faults_[comm.gpu];
  if (faults.launches_until_error >= 0 && comm.launches >= faults.launches_until_error) {
    comm.error = faults.async_error;
    SetLastError("the fake was told to fail this launch");
  }
  ++comm.launches;
  FakeNcclTask task;
  task.launch = std::move(comm.launch);
  comm.launch = {};
  comm.stream = reinterpret_cast<FakeNcclStream*>(task.launch->ops[0].stream);
  if (comm.error == NcclResult::kSuccess) comm.stream->tasks.push_back(std::move(task));
}

NcclResult FakeNccl::AsyncError(NcclComm handle, NcclResult* result) {
  absl::MutexLock lock(&mutex_);
  Comm* comm = Open(handle, "ncclCommGetAsyncError");
  if (comm == nullptr) return NcclResult::kInvalidArgument;
  *result = StillPending(*comm) ? NcclResult::kInProgress : comm->error;
  Progress();
  return NcclResult::kSuccess;
}

NcclResult FakeNccl::GroupStart() {
  absl::MutexLock lock(&mutex_);
  ++groups_[std::this_thread::get_id()].depth;
  return NcclResult::kSuccess;
}

NcclResult FakeNccl::GroupEnd() {
  absl::MutexLock lock(&mutex_);
  FakeNcclGroup& group = groups_[std::this_thread::get_id()];
  if (group.depth == 0) return Wrong("ncclGroupEnd without ncclGroupStart");
  if (--group.depth > 0) return NcclResult::kSuccess;
  FakeNcclGroup ended = std::move(group);
  groups_.erase(std::this_thread::get_id());
  if (ended.error != NcclResult::kSuccess) return ended.error;
  for (FakeNcclLaunch& launch : ended.launches) {
    Comm& comm = *launch.comm;
    comm.launch = std::move(launch);
    comm.pending = Comm::Pending::kLaunch;
    comm.polls_left = faults_[comm.gpu].polls_in_progress;
  }
  return ended.launches.empty() ? NcclResult::kSuccess : NcclResult::kInProgress;
}

NcclResult FakeNccl::Enqueue(const char* function, NcclComm handle, FakeNcclOp op) {
  absl::MutexLock lock(&mutex_);
  FakeNcclGroup& group = groups_[std::this_thread::get_id()];
  const auto refuse = [&](std::string what) {
    mutex_.AssertHeld();
    return group.error = Wrong(absl::StrCat(function, ": ", what));
  };
  Comm* comm = Open(handle, function);
  if (comm == nullptr) return refuse("closed");
  if (group.depth == 0) return refuse("outside a group");
  if (comm->pending != Comm::Pending::kNothing) return refuse("before the last call was complete");
  const int size = static_cast<int>(comm->world->members.size());
  if (op.peer < 0 || op.peer >= size) return refuse("no such peer");
  const FakeNcclExtent extent = ExtentOf(op, comm->rank, size);
  if ((extent.from > 0 && !InDeviceMemory(op.from, extent.from)) ||
      (extent.to > 0 && !InDeviceMemory(op.to, extent.to))) {
    return refuse("a buffer that is not in device memory");
  }
  if (!IsPointToPoint(op.kind)) op.sequence = comm->collectives++;
  for (FakeNcclLaunch& launch : group.launches) {
    if (launch.comm != comm) continue;
    launch.ops.push_back(op);
    return NcclResult::kSuccess;
  }
  group.launches.push_back({comm, {op}});
  return NcclResult::kSuccess;
}

NcclResult FakeNccl::RegisterWindow(NcclComm handle, void* data, size_t bytes, NcclWindow* window) {
  absl::MutexLock lock(&mutex_);
  Comm* comm = Open(handle, "ncclCommWindowRegister");
  if (comm == nullptr) return NcclResult::kInvalidArgument;
  if (!InDeviceMemory(data, bytes)) return Wrong("a window that is not in device memory");
  if (faults_[comm->gpu].no_symmetric_memory) return NcclResult::kSuccess;
  windows_.insert(data);
  *window = reinterpret_cast<NcclWindow>(data);
  return NcclResult::kSuccess;
}

}  // namespace conclave
