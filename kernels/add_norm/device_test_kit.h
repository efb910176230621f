// For tests and benches of kernels: arrays on the device with their host copies, poisoned outputs,
// random values, timing of captured graphs. The caller's thread; every error ends the program.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/base/rng.h"
#include "comm/device/cuda_memory.h"
#include "glog/logging.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

// Memory of the current device.
template <typename T>
class OnDevice {
 public:
  // Every byte is 0xff: a NaN, or -1.
  explicit OnDevice(int64_t count) : count_(count) {
    auto buffer = DeviceBuffer::Create(std::max<int64_t>(count, 1) * int64_t{sizeof(T)});
    CHECK(buffer.ok()) << buffer.status();
    buffer_ = std::move(*buffer);
    Fill(0xff);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(static_cast<int64_t>(values.size())) {
    const auto status = CopyToDevice(get(), values.data(), bytes(), nullptr);
    CHECK(status.ok()) << status;
  }
  void Fill(uint8_t byte) {
    auto status = FillDevice(get(), byte, bytes(), nullptr);
    CHECK(status.ok()) << status;
    status = SynchronizeCudaDevice();
    CHECK(status.ok()) << status;
  }
  T* get() const { return buffer_.template as<T>(); }
  int64_t bytes() const { return count_ * int64_t{sizeof(T)}; }
  // Waits for all work of the device.
  std::vector<T> Read() const {
    auto status = SynchronizeCudaDevice();
    CHECK(status.ok()) << status;
    std::vector<T> values(count_);
    status = CopyToHost(values.data(), get(), bytes(), nullptr);
    CHECK(status.ok()) << status;
    return values;
  }

 private:
  int64_t count_;
  DeviceBuffer buffer_;
};

// Uniform in [-scale, scale).
inline std::vector<float> RandomValues(Rng& rng, int64_t count, float scale) {
  std::vector<float> values(count);
  for (float& v : values) v = (static_cast<float>(rng.Uniform()) * 2 - 1) * scale;
  return values;
}
inline std::vector<uint16_t> RandomBf16Values(Rng& rng, int64_t count, float scale) {
  std::vector<uint16_t> values(count);
  for (uint16_t& v : values) v = FloatToBf16((static_cast<float>(rng.Uniform()) * 2 - 1) * scale);
  return values;
}

// A random bf16 matrix in tiles.
struct RandomTiles {
  RandomTiles(Rng& rng, int outputs, int inputs, float scale) {
    view = {.outputs = outputs, .inputs = inputs};
    tiles.resize(int64_t{view.output_tiles()} * view.input_tiles() * kTileElements);
    view.matrix_bytes = static_cast<int64_t>(tiles.size()) * 2;
    for (int o = 0; o < outputs; ++o) {
      for (int k = 0; k < inputs; ++k) {
        tiles[TiledIndex(o, k, view.input_tiles(), 2)] =
            FloatToBf16((static_cast<float>(rng.Uniform()) * 2 - 1) * scale);
      }
    }
    view.data = tiles.data();
  }
  float At(int output, int input) const {
    return Bf16ToFloat(tiles[TiledIndex(output, input, view.input_tiles(), 2)]);
  }
  WeightView On(const OnDevice<uint16_t>& device) const {
    WeightView on = view;
    on.data = device.get();
    return on;
  }
  WeightView view;
  std::vector<uint16_t> tiles;
};

inline std::vector<float> Widen(const std::vector<uint16_t>& values) {
  std::vector<float> wide;
  for (uint16_t v : values) wide.push_back(Bf16ToFloat(v));
  return wide;
}

// ||a - b|| / ||b||; NaN where either has one.
inline double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK_EQ(a.size(), b.size());
  double difference = 0, norm = 1e-30;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

// Median microseconds of a graph of what `record` enqueues.
inline double GraphMicroseconds(const std::function<absl::Status(CudaStream)>& record, int runs) {
  auto stream = CudaStreamOwner::Create();
  auto start = CudaEvent::Create(), end = CudaEvent::Create();
  CHECK(stream.ok() && start.ok() && end.ok()) << stream.status();
  const auto graph = CudaGraph::Capture(stream->get(), [&] { return record(stream->get()); });
  CHECK(graph.ok()) << graph.status();
  std::vector<double> us;
  for (int i = 0; i < runs + 2; ++i) {
    CHECK(start->Record(stream->get()).ok());
    CHECK(graph->Launch(stream->get()).ok());
    CHECK(end->Record(stream->get()).ok());
    const auto done = end->Synchronize();
    CHECK(done.ok()) << done;
    if (i >= 2) us.push_back(end->MicrosecondsSince(*start).value());
  }
  std::nth_element(us.begin(), us.begin() + runs / 2, us.end());
  return us[runs / 2];
}

}  // namespace conclave
