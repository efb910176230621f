// The NcclDevice of a real GPU. A borrowed stream is the engine's, whose work before a fabric call
// the call then sees; without one the device makes a stream of its own, and the caller must have
// waited for what it wrote. A binary built without CUDA answers Unavailable.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "comm/device/cuda_stream.h"
#include "comm/fabric/nccl/nccl_device.h"

namespace conclave {

// Device cuda:`index`; becomes the calling thread's current one. Unavailable or InvalidArgument
// when there is no such device.
absl::StatusOr<std::unique_ptr<NcclDevice>> CreateCudaNcclDevice(int index,
                                                                 CudaStream stream = nullptr);

}  // namespace conclave
