// AlignedFloats: growing scratch memory of kernels, 64-byte aligned, contents undefined. A kernel
// keeps one per thread (thread_local) so that a step allocates nothing once the largest shape has
// been seen. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace conclave {

class AlignedFloats {
 public:
  // At least `count` floats; what an earlier call returned is no longer valid.
  float* Get(int64_t count) {
    if (count > capacity_) {
      data_.reset();
      data_.reset(static_cast<float*>(
          ::operator new(static_cast<size_t>(count) * sizeof(float), kAlignment)));
      capacity_ = count;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<float, Free> data_;
  int64_t capacity_ = 0;
};

}  // namespace conclave
