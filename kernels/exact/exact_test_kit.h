// For tests and benches of the exact kernels: device copies of host values, weight tiles from
// packed matrices, and comparison of bits. The caller's thread; every CUDA error ends the program.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "comm/device/cuda_memory.h"
#include "glog/logging.h"
#include "gtest/gtest.h"
#include "kernels/cuda/weight_tiles.h"
#include "kernels/exact/exact_rows.h"
#include "kernels/gemm/packed_matrix.h"

namespace conclave {

// Skips where there is no device that this binary has code for.
class ExactTest : public ::testing::Test {
 protected:
  void SetUp() override;
};

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    auto buffer = DeviceBuffer::Create(std::max<int64_t>(bytes(), 16));
    CHECK(buffer.ok()) << buffer.status();
    buffer_ = *std::move(buffer);
    const absl::Status copied = CopyToDevice(buffer_.data(), values.data(), bytes(), nullptr);
    CHECK(copied.ok()) << copied;
  }
  // Poisoned: every byte 0xff, which is NaN in every format.
  static OnDevice Poisoned(int64_t count) { return OnDevice(Poison(count)); }
  static std::vector<T> Poison(int64_t count) {
    std::vector<T> values(count);
    std::memset(values.data(), 0xff, values.size() * sizeof(T));
    return values;
  }

  T* get() const { return buffer_.as<T>(); }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    absl::Status done = CopyToHost(values.data(), buffer_.data(), bytes(), nullptr);
    if (done.ok()) done = SynchronizeCudaDevice();
    CHECK(done.ok()) << done;
    return values;
  }

 private:
  int64_t bytes() const { return static_cast<int64_t>(count_ * sizeof(T)); }

  size_t count_;
  DeviceBuffer buffer_;
};

// Tiles of `matrices` matrices, zeros at first.
struct HostTiles {
  HostTiles(int outputs, int inputs, int matrices, Dtype dtype);
  void Set(int matrix, int64_t output, int64_t input, float value);
  // Everything of `packed` into a matrix, output n at placed(n).
  void SetAll(int matrix, const PackedMatrix& packed, int64_t (*placed)(int64_t));

  WeightView view;
  std::vector<uint8_t> bytes;
};
HostTiles TilesOf(const PackedMatrix& packed);

struct DeviceTiles {
  explicit DeviceTiles(const HostTiles& tiles) : memory(tiles.bytes), view(tiles.view) {
    view.data = memory.get();
  }
  OnDevice<uint8_t> memory;
  WeightView view;
};

// Uniform in [-1, 1).
std::vector<float> UniformFloats(int64_t count, uint64_t seed);

// The same bits; else says where and how many.
void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want,
                    const std::string& what);

void ExpectOk(const absl::Status& status);

}  // namespace conclave
