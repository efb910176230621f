#include "worker/weights/weight_uploader.h"

#include <cstring>
#include <utility>

#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// More than the threads that read, so that a slot whose copy runs holds nobody up.
constexpr int kSlots = 40;

}  // namespace

absl::StatusOr<std::unique_ptr<WeightUploader>> WeightUploader::Create(int device,
                                                                       int64_t block_bytes) {
  RETURN_IF_ERROR(UseCudaDevice(device));
  std::unique_ptr<WeightUploader> uploader(new WeightUploader(device));
  absl::MutexLock lock(&uploader->mutex_);
  ASSIGN_OR_RETURN(uploader->stream_, CudaStreamOwner::Create());
  for (int i = 0; i < kSlots; ++i) {
    auto slot = std::make_unique<Slot>();
    ASSIGN_OR_RETURN(slot->host, PinnedBuffer::Create(block_bytes));
    ASSIGN_OR_RETURN(slot->device, DeviceBuffer::Create(block_bytes));
    ASSIGN_OR_RETURN(slot->free, CudaEvent::Create());
    uploader->slots_.push_back(std::move(slot));
  }
  return uploader;
}

absl::Status WeightUploader::Upload(PackRowsArgs rows, const void* data, int64_t bytes) {
  RETURN_IF_ERROR(UseCudaDevice(device_));
  std::unique_ptr<Slot> slot;
  {
    absl::MutexLock lock(&mutex_);
    // One for each thread of the pool and more: there is always one.
    CHECK(!slots_.empty()) << "more than " << kSlots << " threads load weights";
    slot = std::move(slots_.front());
    slots_.erase(slots_.begin());
  }
  CHECK_LE(bytes, slot->host.bytes());
  if (slot->used) RETURN_IF_ERROR(slot->free.Synchronize());
  std::memcpy(slot->host.data(), data, bytes);
  absl::MutexLock lock(&mutex_);
  rows.source = slot->device.data();
  rows.stream = stream_.get();
  RETURN_IF_ERROR(CopyToDevice(slot->device.data(), slot->host.data(), bytes, stream_.get()));
  RETURN_IF_ERROR(PackRows(rows));
  RETURN_IF_ERROR(slot->free.Record(stream_.get()));
  slot->used = true;
  slots_.push_back(std::move(slot));
  return absl::OkStatus();
}

absl::Status WeightUploader::UploadFloats(const std::vector<float>& values, float* to) {
  RETURN_IF_ERROR(UseCudaDevice(device_));
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(CopyToDevice(to, values.data(),
                               static_cast<int64_t>(values.size() * sizeof(float)), stream_.get()));
  return stream_.Synchronize();
}

absl::Status WeightUploader::Finish() {
  absl::MutexLock lock(&mutex_);
  return stream_.Synchronize();
}

}  // namespace conclave
