// KvPool: the memory of a rank's KV pages, for all layers of its stage. A page number means the
// same page in every layer; which sequence owns which page is the coordinator's decision, so the
// pool keeps no lists. Memory is reserved at once and touched as pages are first written, so an
// idle or small cluster pays for what it uses only. Owned by the engine; move-only; the views are
// used on the engine's thread.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "comm/types/worker_facts.h"
#include "kernels/attention/paged_attention.h"

namespace conclave {

// What one page holds on this rank.
struct KvGeometry {
  int32_t layers = 0;    // of the rank's stage
  int32_t kv_heads = 0;  // of the rank
  int32_t head_dim = 0;
  int32_t page_tokens = 16;
  Dtype dtype = Dtype::kF32;

  // Bytes of one page over all layers.
  int64_t PageBytes() const;
  bool operator==(const KvGeometry&) const = default;
};

// Pages when the user bounds neither memory nor pages: enough for small machines, little in page
// tables.
inline constexpr int32_t kKvPagesUnbounded = 1 << 16;

// Pages that fit: cache.memory_bytes, or when that is 0 what `memory_bytes` (the worker's budget,
// 0: unbounded) leaves after `weight_bytes`; at most cache.pages_max when that is set.
// ResourceExhausted says budget, need and remedy when not one page fits; InvalidArgument names a
// field that makes no sense.
absl::StatusOr<int32_t> KvPagesFor(const KvGeometry& geometry, const CacheOptions& cache,
                                   int64_t memory_bytes, int64_t weight_bytes);

class KvPool {
 public:
  // ResourceExhausted when the address space cannot be reserved.
  static absl::StatusOr<std::unique_ptr<KvPool>> Create(const KvGeometry& geometry, int32_t pages);
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  int32_t pages() const { return pages_; }
  const KvGeometry& geometry() const { return geometry_; }
  // Layer `index` of the stage, from 0.
  KvLayer Layer(int index) const;

 private:
  KvPool(const KvGeometry& geometry, int32_t pages, uint8_t* data, int64_t mapped_bytes)
      : geometry_(geometry), pages_(pages), data_(data), mapped_bytes_(mapped_bytes) {}
  int64_t LayerBytes() const;

  KvGeometry geometry_;
  int32_t pages_;
  uint8_t* data_;
  int64_t mapped_bytes_;
};

}  // namespace conclave
