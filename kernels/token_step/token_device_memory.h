// Device memory for the tests and benches of token_step. The caller's thread; every CUDA error ends
// the program.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/device/cuda_memory.h"
#include "glog/logging.h"

namespace conclave {

class TokenBytes {
 public:
  explicit TokenBytes(int64_t bytes) : buffer_(DeviceBuffer::Create(bytes).value()) {}

  void* data() const { return buffer_.data(); }
  int64_t bytes() const { return buffer_.bytes(); }
  void Fill(uint8_t value) {
    CHECK_EQ(FillDevice(data(), value, bytes(), nullptr), absl::OkStatus());
    CHECK_EQ(SynchronizeCudaDevice(), absl::OkStatus());
  }
  void Upload(const void* from) {
    CHECK_EQ(CopyToDevice(data(), from, bytes(), nullptr), absl::OkStatus());
    CHECK_EQ(SynchronizeCudaDevice(), absl::OkStatus());
  }
  void Download(void* to) const {
    CHECK_EQ(CopyToHost(to, data(), bytes(), nullptr), absl::OkStatus());
    CHECK_EQ(SynchronizeCudaDevice(), absl::OkStatus());
  }

 private:
  DeviceBuffer buffer_;
};

template <typename T>
class TokenArray : public TokenBytes {
 public:
  explicit TokenArray(int64_t count) : TokenBytes(count * int64_t{sizeof(T)}) {}
  explicit TokenArray(const std::vector<T>& values)
      : TokenArray(static_cast<int64_t>(values.size())) {
    Upload(values.data());
  }
  T* get() const { return static_cast<T*>(data()); }
  std::vector<T> Read() const {
    std::vector<T> values(bytes() / sizeof(T));
    Download(values.data());
    return values;
  }
};

}  // namespace conclave
