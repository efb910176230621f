// For tests and benches of the GPU's attention kernels: batches with shuffled pages, caches whose
// unused places hold NaN, and the comparison of results. The caller's thread; every CUDA error ends
// the program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "kernels/qkv_post/gpu_kv.h"
#include "kernels/sbi_gemm/sbi_test_kit.h"

namespace conclave {

inline constexpr uint16_t kPoison = 0xffff;  // a NaN in bf16

// A sequence's slice of a batch: `tokens` new ones from `position` on; tokens 0 is allowed.
struct SequenceSlice {
  int32_t position = 0;
  int32_t tokens = 0;
};

struct HostBatch {
  std::vector<int32_t> first_token, position, first_page, page_table;
  int32_t pages = 0;  // of the cache, some unused
  GpuBatch view() const;
};
// Pages are in random order, and each sequence has one more than it needs, poisoned by FillCache.
HostBatch MakeBatch(Rng& rng, const std::vector<SequenceSlice>& slices, int page_tokens);

struct DeviceBatch {
  explicit DeviceBatch(const HostBatch& batch);
  GpuBatch view() const;
  DeviceArray<int32_t> first_token, position, first_page, page_table;
  int32_t sequences, tokens;
};

struct CacheShape {
  int page_tokens, kv_heads, head_dim;
};
// Positions below `position + written * tokens` of each sequence are random in [-1, 1), all else is
// poison.
struct HostCache {
  HostCache(Rng& rng, const HostBatch& batch, const CacheShape& shape, bool written);
  GpuKvLayer view(void* data) const;
  GpuKvLayer view() { return view(data.data()); }
  CacheShape shape;
  int32_t pages;
  std::vector<uint16_t> data;
};

// ||got - want|| / ||want|| over bf16 values; infinite when a NaN stands in one only.
double RelativeError(const std::vector<uint16_t>& got, const std::vector<uint16_t>& want);

// Empty, or the first place where bf16 values differ by more than a rounding; poison must match.
std::string DescribeMismatch(const std::vector<uint16_t>& got, const std::vector<uint16_t>& want);

}  // namespace conclave
