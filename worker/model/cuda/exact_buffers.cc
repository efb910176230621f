#include "worker/model/cuda/exact_buffers.h"

#include <algorithm>

#include "comm/base/status.h"

namespace conclave {

absl::Status GrowingBuffer::Reserve(int64_t bytes) {
  if (bytes <= buffer_.bytes() && buffer_.data() != nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(SynchronizeCudaDevice());
  const int64_t want = std::max<int64_t>({bytes, buffer_.bytes() + buffer_.bytes() / 2, 256});
  buffer_ = DeviceBuffer();
  ASSIGN_OR_RETURN(buffer_, DeviceBuffer::Create(want));
  return absl::OkStatus();
}

absl::StatusOr<DeviceRows> GrowingBuffer::Rows(int64_t rows, int64_t cols) {
  RETURN_IF_ERROR(Reserve(rows * cols * static_cast<int64_t>(sizeof(float))));
  return DeviceRows{buffer_.as<float>(), rows, cols, cols};
}

// Pageable memory is copied aside before the call returns.
absl::StatusOr<const int32_t*> GrowingBuffer::Ints(absl::Span<const int32_t> values,
                                                   CudaStream stream) {
  RETURN_IF_ERROR(Reserve(static_cast<int64_t>(values.size()) * 4));
  RETURN_IF_ERROR(
      CopyToDevice(buffer_.data(), values.data(), static_cast<int64_t>(values.size()) * 4, stream));
  return buffer_.as<const int32_t>();
}

absl::StatusOr<const float*> GrowingBuffer::Floats(absl::Span<const float> values,
                                                   CudaStream stream) {
  RETURN_IF_ERROR(Reserve(static_cast<int64_t>(values.size()) * 4));
  RETURN_IF_ERROR(
      CopyToDevice(buffer_.data(), values.data(), static_cast<int64_t>(values.size()) * 4, stream));
  return buffer_.as<const float>();
}

}  // namespace conclave
