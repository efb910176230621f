// WeightUploader: brings rows of weights from host memory into tiles on a GPU: a copy into pinned
// memory, a copy to the device, and a kernel that lays them out and quantises, each behind the
// other, several blocks under way. Made for one load; threads of a pool call it at once.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_memory.h"
#include "kernels/weight_pack/weight_pack.h"

namespace conclave {

class WeightUploader {
 public:
  // Blocks of at most `block_bytes` each.
  static absl::StatusOr<std::unique_ptr<WeightUploader>> Create(int device, int64_t block_bytes);

  // `rows` says where the rows go and what they are; its source and stream are filled in here.
  // `data` holds rows.count dense rows; it is free on return.
  absl::Status Upload(PackRowsArgs rows, const void* data, int64_t bytes);
  // A vector, whole.
  absl::Status UploadFloats(const std::vector<float>& values, float* to);
  // Waits for all of it; errors of kernels show here.
  absl::Status Finish();

 private:
  struct Slot {
    PinnedBuffer host;
    DeviceBuffer device;
    CudaEvent free;  // recorded when its kernel is enqueued
    bool used = false;
  };
  explicit WeightUploader(int device) : device_(device) {}

  const int device_;
  absl::Mutex mutex_;
  CudaStreamOwner stream_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Slot>> slots_ ABSL_GUARDED_BY(mutex_);  // those not in use
};

}  // namespace conclave
