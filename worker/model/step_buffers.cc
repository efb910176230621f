#include "worker/model/step_buffers.h"

#include <algorithm>
#include <cstdlib>

#include "glog/logging.h"

namespace conclave {

FloatBuffer::~FloatBuffer() { std::free(data_); }

Rows FloatBuffer::Take(int64_t rows, int64_t cols) {
  const int64_t count = rows * cols;
  if (count > capacity_) {
    // A half more than asked for when it had been used before, so that slow growth allocates
    // rarely.
    constexpr int64_t kLine = 16;  // floats of 64 bytes
    const int64_t want = capacity_ == 0 ? count : std::max(count, capacity_ + capacity_ / 2);
    capacity_ = (want + kLine - 1) / kLine * kLine;
    std::free(data_);
    data_ = static_cast<float*>(std::aligned_alloc(64, capacity_ * sizeof(float)));
    CHECK(data_ != nullptr) << "out of memory: " << capacity_ << " floats of step buffers";
  }
  return {data_, rows, cols, cols};
}

}  // namespace conclave
