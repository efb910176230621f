// FakeNccl: NCCL and its GPUs in one process, for tests. Ranks are threads, device memory is host
// memory that the fake knows, a stream is a queue of tasks, and a group of operations waits, as
// NCCL's kernels do, until its counterparts are at the head of their streams. It behaves as the
// nonblocking mode of NCCL 2.28 does: launches happen some polls after the call, sums are in an
// order of its own, messages of unequal sizes never match. Faults can be set for each GPU. What a
// caller does wrong (a closed communicator, a pointer that is no device memory) fails and is noted.
// Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "comm/fabric/nccl/fake_nccl_work.h"
#include "comm/fabric/nccl/nccl_api.h"
#include "comm/fabric/nccl/nccl_device.h"

namespace conclave {

struct FakeNcclOptions {
  int version = NcclVersionCode(2, 28, 9);
  std::set<std::string> missing;  // "ncclAlltoAll"; of the optional functions and ncclSend
};

// Of one GPU.
struct FakeNcclFaults {
  bool init_never_completes = false;
  NcclResult init_result = NcclResult::kInProgress;  // what the init call itself returns
  int polls_in_progress = 0;      // polls that each asynchronous call stays in progress
  int launches_until_error = -1;  // launches that go well before one ends with async_error
  NcclResult async_error = NcclResult::kRemoteError;
  bool lost = false;  // stopped: what it launches never runs
  bool abort_hangs = false;
  bool destroy_hangs = false;
  bool shrink_hangs = false;
  bool finalize_never_completes = false;
  bool shrink_fails = false;
  bool device_fails = false;  // Done tells of an error
  bool no_symmetric_memory = false;
};

class FakeNccl : public std::enable_shared_from_this<FakeNccl> {
 public:
  static std::shared_ptr<FakeNccl> Create(FakeNcclOptions options = {});

  NcclApi UncheckedApi();
  std::shared_ptr<const NcclApi> Api();  // CHECKs that it is taken
  // The stream and memory of GPU `gpu`.
  std::unique_ptr<NcclDevice> CreateDevice(int gpu);

  void SetFaults(int gpu, const FakeNcclFaults& faults);
  // Lets calls that hang return, and waits until `calls` of them have come and gone.
  void ReleaseHangs(int calls);

  int CallCount(const std::string& function) const;  // "ncclAllReduce"
  int OpenCommunicators() const;                     // not destroyed nor aborted
  int OpenWindows() const;
  std::vector<std::string> Misuse() const;

 private:
  friend class FakeNcclDevice;
  using Comm = FakeNcclComm;

  explicit FakeNccl(FakeNcclOptions options) : options_(std::move(options)) {}

  // fake_nccl_table.cc
  void BindCommunicatorCalls(NcclApi& api);
  void BindOperations(NcclApi& api);

  // fake_nccl.cc: the functions of the table
  NcclResult Init(NcclComm* comm, int size, const NcclUniqueId& id, int rank,
                  const NcclConfig* config);
  NcclResult Finalize(NcclComm comm);
  NcclResult Close(NcclComm comm, const char* function);
  NcclResult Shrink(NcclComm comm, const std::vector<int>& excluded, NcclComm* child,
                    const NcclConfig* config);
  NcclResult AsyncError(NcclComm comm, NcclResult* result);
  NcclResult GroupStart();
  NcclResult GroupEnd();
  NcclResult Enqueue(const char* function, NcclComm comm, FakeNcclOp op);
  NcclResult RegisterWindow(NcclComm comm, void* data, size_t bytes, NcclWindow* window);
  void SetLastError(std::string text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  NcclResult Wrong(std::string what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Comm* Open(NcclComm comm, const char* function) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Comm& Make(std::shared_ptr<FakeNcclWorld> world, int rank, int gpu)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Hang(bool hangs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StillPending(Comm& comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Launch(Comm& comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // fake_nccl_device.cc: streams and memory
  FakeNcclStream& StreamOf(int gpu) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool InDeviceMemory(const void* data, size_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<void> AllocateDevice(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Progress() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const FakeNcclOptions options_;
  mutable absl::Mutex mutex_;
  uint64_t ids_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, std::shared_ptr<FakeNcclWorld>> worlds_ ABSL_GUARDED_BY(mutex_);  // by id
  std::vector<std::unique_ptr<Comm>> comms_ ABSL_GUARDED_BY(mutex_);  // also the closed ones
  std::map<int, std::unique_ptr<FakeNcclStream>> streams_ ABSL_GUARDED_BY(mutex_);  // by GPU
  std::map<int, FakeNcclFaults> faults_ ABSL_GUARDED_BY(mutex_);                    // by GPU
  std::map<std::thread::id, int> current_ ABSL_GUARDED_BY(mutex_);
  std::map<std::thread::id, FakeNcclGroup> groups_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> calls_ ABSL_GUARDED_BY(mutex_);
  std::map<uintptr_t, size_t> memory_ ABSL_GUARDED_BY(mutex_);  // device memory: begin, bytes
  std::map<void*, std::shared_ptr<void>> windows_memory_ ABSL_GUARDED_BY(mutex_);
  std::set<void*> windows_ ABSL_GUARDED_BY(mutex_);
  // Texts stay, because ncclGetLastError hands out a pointer.
  std::set<std::string> errors_ ABSL_GUARDED_BY(mutex_) = {""};
  const std::string* last_error_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::vector<std::string> misuse_ ABSL_GUARDED_BY(mutex_);
  int hangs_to_end_ ABSL_GUARDED_BY(mutex_) = 0;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace conclave
