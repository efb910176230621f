// exact_attention: causal grouped-query attention over the paged cache and the writing of keys and
// values, bit for bit as kernels/attention: page by page, sixteen-lane sums, one running maximum
// for each (token, head). The caller owns all memory; any thread, on its current device;
// capturable. Bytes: keys and values of a sequence once for each 16 (token, query head) rows of a
// kv head; flops: 4 * head_dim * context for each (token, head).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/exact/exact_rows.h"

namespace conclave {

// PagedBatch in device memory. Sequences without tokens are legal.
struct ExactPages {
  const int32_t* first_token = nullptr;  // [sequences + 1], the last is `tokens`
  const int32_t* position = nullptr;     // [sequences]
  const int32_t* first_page = nullptr;   // [sequences + 1]
  const int32_t* page_table = nullptr;
  int32_t sequences = 0;
  int32_t tokens = 0;
};

// k, v [tokens, kv_heads * head_dim] into their pages of `cache`, whose data is device memory,
// rounded to nearest even.
struct ExactWriteKvArgs {
  ExactPages batch;
  ExactRows k;
  ExactRows v;
  KvLayer cache;
};
absl::Status ExactWriteKv(const ExactWriteKvArgs& args, CudaStream stream);

// page_tokens at most 64; head_dim a multiple of 4, at most 256.
struct ExactAttentionArgs {
  ExactPages batch;
  ExactRows q;    // [tokens, heads * head_dim]
  KvLayer cache;  // keys and values of these tokens already written
  int heads = 0;  // a multiple of cache.kv_heads
  float scale = 0;
  ExactRows out;  // [tokens, heads * head_dim]
};
absl::Status ExactPagedAttention(const ExactAttentionArgs& args, CudaStream stream);

}  // namespace conclave
