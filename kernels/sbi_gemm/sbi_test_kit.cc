#include "kernels/sbi_gemm/sbi_test_kit.h"

#include <algorithm>
#include <cstring>

#include "comm/base/dtype.h"
#include "glog/logging.h"
#if CONCLAVE_CUDA
#include <cuda_runtime.h>
#endif

namespace conclave {

#if CONCLAVE_CUDA
namespace {
void Check(cudaError_t error) { CHECK(error == cudaSuccess) << cudaGetErrorString(error); }
}  // namespace

DeviceBytes::DeviceBytes(int64_t bytes) : bytes_(bytes) { Check(cudaMalloc(&data_, bytes)); }
DeviceBytes::~DeviceBytes() { Check(cudaFree(data_)); }
void DeviceBytes::Fill(uint8_t value) { Check(cudaMemset(data_, value, bytes_)); }
void DeviceBytes::Upload(const void* from) {
  Check(cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice));
}
void DeviceBytes::Download(void* to) const {
  Check(cudaMemcpy(to, data_, bytes_, cudaMemcpyDeviceToHost));
}
void SynchronizeDevice() {
  Check(cudaGetLastError());
  Check(cudaDeviceSynchronize());
}
#else
DeviceBytes::DeviceBytes(int64_t bytes) : bytes_(bytes) {
  LOG(FATAL) << "device memory without a CUDA toolkit";
}
DeviceBytes::~DeviceBytes() = default;
void DeviceBytes::Fill(uint8_t) {}
void DeviceBytes::Upload(const void*) {}
void DeviceBytes::Download(void*) const {}
void SynchronizeDevice() {}
#endif

std::vector<float> RandomFloats(Rng& rng, int64_t count, float scale) {
  std::vector<float> values(count);
  for (float& v : values) v = (static_cast<float>(rng.Uniform()) * 2 - 1) * scale;
  return values;
}

std::vector<uint16_t> RandomBf16(Rng& rng, int64_t count, float scale) {
  std::vector<uint16_t> values(count);
  for (uint16_t& v : values) {
    v = FloatToBf16((static_cast<float>(rng.Uniform()) * 2 - 1) * scale);
  }
  return values;
}

HostWeights RandomWeights(Rng& rng, int outputs, int inputs, int matrices) {
  HostWeights weights;
  WeightView& view = weights.view;
  view = {.outputs = outputs, .inputs = inputs, .matrices = matrices};
  const int64_t elements = int64_t{view.output_tiles()} * view.input_tiles() * kTileElements;
  view.matrix_bytes = (elements * 2 + 1023) / 1024 * 1024;
  weights.tiles.resize(view.matrix_bytes * matrices);
  for (int m = 0; m < matrices; ++m) {
    auto* tiles = reinterpret_cast<uint16_t*>(weights.tiles.data() + m * view.matrix_bytes);
    for (int o = 0; o < outputs; ++o) {
      const std::vector<uint16_t> row = RandomBf16(rng, inputs, 1);
      for (int k = 0; k < inputs; ++k) {
        tiles[TiledIndex(o, k, view.input_tiles(), 2)] = row[k];
      }
    }
  }
  view.data = weights.tiles.data();
  return weights;
}

SbiTable HostTable::view(int top_k) const {
  return {.active_count = active_count.data(),
          .active_slot = active_slot.data(),
          .slot_first = slot_first.data(),
          .order = order.data(),
          .top_k = top_k};
}

HostTable MakeTable(const std::vector<int>& slot_of_entry, int slots) {
  HostTable table;
  const int entries = static_cast<int>(slot_of_entry.size());
  for (int s = 0; s < slots; ++s) {
    const auto first = static_cast<int32_t>(table.order.size());
    table.slot_first.push_back(first);
    for (int e = 0; e < entries; ++e) {
      if (slot_of_entry[e] == s) table.order.push_back(e);
    }
    if (static_cast<int32_t>(table.order.size()) > first) table.active_slot.push_back(s);
  }
  table.slot_first.push_back(static_cast<int32_t>(table.order.size()));
  table.active_count = {static_cast<int32_t>(table.active_slot.size())};
  // As a reused buffer is: what stands past the active slots means nothing.
  table.active_slot.resize(std::min(slots, entries), -1);
  return table;
}

std::vector<int> RandomRouting(Rng& rng, int tokens, int top_k, int slots) {
  std::vector<int> slot_of_entry;
  for (int t = 0; t < tokens; ++t) {
    std::vector<int> left(slots);
    for (int s = 0; s < slots; ++s) left[s] = s;
    for (int c = 0; c < top_k; ++c) {
      const auto i = static_cast<int>(rng.Below(left.size()));
      slot_of_entry.push_back(left[i]);
      left.erase(left.begin() + i);
    }
  }
  return slot_of_entry;
}

DeviceTable::DeviceTable(const HostTable& table)
    : active_count(table.active_count),
      active_slot(table.active_slot),
      slot_first(table.slot_first),
      order(table.order) {}

SbiTable DeviceTable::view(int top_k) const {
  return {.active_count = active_count.get(),
          .active_slot = active_slot.get(),
          .slot_first = slot_first.get(),
          .order = order.get(),
          .top_k = top_k};
}

}  // namespace conclave
