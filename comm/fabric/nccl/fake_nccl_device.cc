// The GPUs of FakeNccl: streams, memory, and the device that a fabric is given.
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/fabric/nccl/fake_nccl.h"
#include "glog/logging.h"

namespace conclave {

class FakeNcclDevice final : public NcclDevice {
 public:
  FakeNcclDevice(std::shared_ptr<FakeNccl> nccl, int gpu) : nccl_(std::move(nccl)), gpu_(gpu) {}

  NcclDeviceId id() const override {
    NcclDeviceId id;
    id.uuid[0] = static_cast<uint8_t>(gpu_ + 1);
    id.host = 1;
    id.index = gpu_;
    const std::string bus = absl::StrCat("0000:", gpu_, ":00.0");
    std::memcpy(id.bus_id.data(), bus.data(), bus.size());
    return id;
  }

  absl::Status MakeCurrent() override {
    absl::MutexLock lock(&nccl_->mutex_);
    nccl_->current_[std::this_thread::get_id()] = gpu_;
    return absl::OkStatus();
  }

  CudaStream stream() const override {
    absl::MutexLock lock(&nccl_->mutex_);
    return reinterpret_cast<CudaStream>(&nccl_->StreamOf(gpu_));
  }

  bool IsDeviceMemory(const void* data) const override {
    absl::MutexLock lock(&nccl_->mutex_);
    return nccl_->InDeviceMemory(data, 1);
  }

  absl::StatusOr<NcclMemory> Allocate(size_t bytes, Sides sides) override {
    NcclMemory memory;
    memory.bytes = bytes;
    std::shared_ptr<void> device = nccl_->AllocateDevice(bytes);
    memory.device = static_cast<uint8_t*>(device.get());
    std::shared_ptr<void> host;
    if (sides == Sides::kBoth) {
      host = std::shared_ptr<void>(std::malloc(bytes + 1), std::free);
      memory.host = static_cast<uint8_t*>(host.get());
      std::memset(memory.host, 0x5a, bytes);
    }
    memory.owner = std::make_shared<std::pair<std::shared_ptr<void>, std::shared_ptr<void>>>(
        std::move(device), std::move(host));
    return memory;
  }

  absl::Status Copy(void* to, const void* from, size_t bytes) override {
    FakeNcclTask task;
    task.copy = FakeNcclCopy{to, from, bytes};
    return Put(std::move(task));
  }

  absl::Status TreeSum(const NcclRows& rows, float* out) override {
    FakeNcclTask task;
    task.sum = FakeNcclSum{rows, out};
    return Put(std::move(task));
  }

  absl::StatusOr<bool> Done() override {
    absl::MutexLock lock(&nccl_->mutex_);
    if (nccl_->faults_[gpu_].device_fails) return absl::InternalError("the fake GPU failed");
    nccl_->Progress();
    return nccl_->StreamOf(gpu_).tasks.empty();
  }

 private:
  absl::Status Put(FakeNcclTask task) {
    absl::MutexLock lock(&nccl_->mutex_);
    nccl_->StreamOf(gpu_).tasks.push_back(std::move(task));
    return absl::OkStatus();
  }

  const std::shared_ptr<FakeNccl> nccl_;
  const int gpu_;
};

std::unique_ptr<NcclDevice> FakeNccl::CreateDevice(int gpu) {
  return std::make_unique<FakeNcclDevice>(shared_from_this(), gpu);
}

FakeNcclStream& FakeNccl::StreamOf(int gpu) {
  std::unique_ptr<FakeNcclStream>& stream = streams_[gpu];
  if (stream == nullptr) {
    stream = std::make_unique<FakeNcclStream>();
    stream->lost = faults_[gpu].lost;
  }
  return *stream;
}

bool FakeNccl::InDeviceMemory(const void* data, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  auto next = memory_.upper_bound(begin);
  if (next == memory_.begin()) return false;
  --next;
  return begin + bytes <= next->first + next->second;
}

std::shared_ptr<void> FakeNccl::AllocateDevice(size_t bytes) {
  void* data = std::aligned_alloc(256, (bytes + 256) / 256 * 256);
  CHECK(data != nullptr);
  std::memset(data, 0xa5, bytes);
  {
    absl::MutexLock lock(&mutex_);
    memory_[reinterpret_cast<uintptr_t>(data)] = bytes;
  }
  return std::shared_ptr<void>(data, [self = shared_from_this()](void* p) {
    {
      absl::MutexLock lock(&self->mutex_);
      self->memory_.erase(reinterpret_cast<uintptr_t>(p));
    }
    std::free(p);
  });
}

void FakeNccl::Progress() {
  bool advanced = true;
  while (advanced) {
    advanced = false;
    for (auto& [gpu, stream] : streams_) advanced |= AdvanceHead(*stream);
  }
}

}  // namespace conclave
