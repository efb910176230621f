// paged_attention: causal grouped-query attention over a paged KV cache, prefill chunks and decode
// tokens in one batch. Each (token, query head) walks the cache positions 0..position in pages of
// page_tokens in order, with a running maximum (online softmax), so its result depends on its own
// prefix alone, not on the batch or the chunking. Bytes: the sequence's K and V once per kv head
// group; flops: 4 * head_dim * context per (token, head).
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "comm/base/dtype.h"
#include "comm/device/compute_pool.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// The cache of one layer on one rank: `pages` pages, each [2 (K,
// V)][kv_heads][page_tokens][head_dim] of dtype (kF32, kF16 or kBf16). Borrowed memory, 64-byte
// aligned.
struct KvLayer {
  void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int32_t pages = 0;
  int32_t page_tokens = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;

  int64_t PageBytes() const {
    return 2LL * kv_heads * page_tokens * head_dim * static_cast<int64_t>(DtypeBytes(dtype));
  }
};

// Where the tokens of a batch live: sequence s has tokens [first_token[s], first_token[s + 1]) of
// the batch, at positions position[s], position[s] + 1, ..., and its cache in
// page_table[first_page[s] .. first_page[s + 1]).
struct PagedBatch {
  absl::Span<const int32_t> first_token;  // [sequences + 1]
  absl::Span<const int32_t> position;     // [sequences]
  absl::Span<const int32_t> first_page;   // [sequences + 1]
  absl::Span<const int32_t> page_table;   // page numbers

  int sequences() const { return static_cast<int>(position.size()); }
};

// Stores k and v [tokens, kv_heads * head_dim] of the batch's tokens into their pages.
void WriteKv(const PagedBatch& batch, ConstRows k, ConstRows v, const KvLayer& cache);

struct AttentionArgs {
  PagedBatch batch;
  ConstRows q;    // [tokens, heads * head_dim], heads a multiple of cache.kv_heads
  KvLayer cache;  // keys and values of these tokens already written
  int heads = 0;
  float scale = 0;  // 1 / sqrt(head_dim)
  Rows out;         // [tokens, heads * head_dim]
};
// Query head h reads kv head h / (heads / cache.kv_heads).
void PagedAttention(const AttentionArgs& args, ComputePool& pool);
void PagedAttentionRef(const AttentionArgs& args);

}  // namespace conclave
