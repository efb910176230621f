// For tests and benches of sbi_gemm: device buffers, random weight tiles, activations and expert
// tables. The caller's thread; every CUDA error ends the program.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/rng.h"
#include "comm/device/cuda_stream.h"
#include "kernels/sbi_gemm/sbi_gemm.h"

namespace conclave {

// Memory of the current device that its object owns.
class DeviceBytes {
 public:
  explicit DeviceBytes(int64_t bytes);
  ~DeviceBytes();
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  // Fills all of it with one byte.
  void Fill(uint8_t value);
  void Upload(const void* from);
  void Download(void* to) const;

 private:
  void* data_ = nullptr;
  int64_t bytes_;
};

template <typename T>
class DeviceArray : public DeviceBytes {
 public:
  explicit DeviceArray(int64_t count) : DeviceBytes(count * int64_t{sizeof(T)}) {}
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    Upload(values.data());
  }
  T* get() const { return static_cast<T*>(data()); }
  std::vector<T> Read() const {
    std::vector<T> values(bytes() / sizeof(T));
    Download(values.data());
    return values;
  }
};

// Waits for the device and ends the program if anything failed.
void SynchronizeDevice();

// Uniform in [-scale, scale).
std::vector<float> RandomFloats(Rng& rng, int64_t count, float scale);
std::vector<uint16_t> RandomBf16(Rng& rng, int64_t count, float scale);

// Tiles of `matrices` random matrices; `view.data` is theirs.
struct HostWeights {
  WeightView view;
  std::vector<uint8_t> tiles;
};
HostWeights RandomWeights(Rng& rng, int outputs, int inputs, int matrices);

// An expert table on the host.
struct HostTable {
  std::vector<int32_t> active_count, active_slot, slot_first, order;
  SbiTable view(int top_k) const;
};
// slot_of_entry [entries]
HostTable MakeTable(const std::vector<int>& slot_of_entry, int slots);
// top_k different slots for each token.
std::vector<int> RandomRouting(Rng& rng, int tokens, int top_k, int slots);

// The same table on the device.
struct DeviceTable {
  explicit DeviceTable(const HostTable& table);
  SbiTable view(int top_k) const;
  DeviceArray<int32_t> active_count, active_slot, slot_first, order;
};

}  // namespace conclave
