// GrowBuffer: memory that grows to the largest request and stays, so that steps after warm-up
// allocate nothing. Contents are not initialised, nor kept when it grows: pages that no message
// fills are never touched. Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/types/span.h"
#include "glog/logging.h"

namespace conclave {

class GrowBuffer {
 public:
  static constexpr size_t kAlignment = 64;

  // At least `bytes` bytes, aligned to kAlignment; what an earlier call returned is void.
  absl::Span<uint8_t> Bytes(size_t bytes) {
    if (bytes > capacity_) {
      capacity_ = (bytes + bytes / 4 + kAlignment) / kAlignment * kAlignment;
      data_.reset();
      data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, capacity_)));
      CHECK(data_ != nullptr) << "no memory for a buffer of " << capacity_ << " bytes";
    }
    return absl::MakeSpan(data_.get(), bytes);
  }

  float* Floats(size_t count) {
    return reinterpret_cast<float*>(Bytes(count * sizeof(float)).data());
  }

  // What the last request returned, or null.
  const uint8_t* data() const { return data_.get(); }
  size_t capacity() const { return capacity_; }

 private:
  struct Free {
    void operator()(uint8_t* data) const { std::free(data); }
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace conclave
