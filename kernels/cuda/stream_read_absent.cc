#include "comm/device/cuda_memory.h"
#include "kernels/cuda/stream_read.h"

namespace conclave {

absl::StatusOr<double> MeasureDeviceReadBandwidth(int64_t) {
  return CurrentCudaMemory().status();  // says that the binary was built without CUDA
}

}  // namespace conclave
