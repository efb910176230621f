// decode_attention: one new token of each sequence against its paged bf16 cache, with everything
// between the QKV product and the o projection: the sum of the product's partial results, RMS norm
// of q and k, rotary embedding, the write of the new K and V, and the attention, its context split
// over blocks (flash-decoding). A block serves the query heads of one kv head and reads its share
// of K and V once, a warp taking 16 tokens at a time through a ring of its own. The block whose
// share holds the new token computes its K and V for itself and writes them; no other needs them.
// All memory is the caller's; only enqueues, capturable in a graph, any thread on its current
// device. Bytes: K and V of every context once, the qkv rows once for each split, and splits *
// tokens * heads * head_dim * 4 of output; flops: 4 * head_dim for each (query head, context
// token).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/decode_attention/decode_attention_config.h"
#include "kernels/qkv_post/gpu_kv.h"

namespace conclave {

// The rows of the QKV product: q, k and v heads of each token.
struct DecodeQkv {
  const float* partials = nullptr;  // [splits][tokens][row_stride], summed in ascending order
  int32_t splits = 1;
  int64_t slab_stride = 0;     // floats from split to split; a multiple of 4
  const void* rows = nullptr;  // instead of partials: bf16 [tokens, row_stride]
  int64_t row_stride = 0;      // elements, a multiple of 8, >= (heads + 2 kv_heads) * head_dim
};

// Unnormalised sums of each split of the context, with the largest score m and the sum l of
// exp(score - m): result = sum_s exp(m_s - m) o_s / sum_s exp(m_s - m) l_s. A split without
// context has l = 0 and its o is not written.
struct DecodeSplits {
  float* o = nullptr;  // [splits][tokens][heads * head_dim]
  float* m = nullptr;  // [splits][tokens][heads]
  float* l = nullptr;  // [splits][tokens][heads]
};

struct DecodeAttentionArgs {
  // Token t is of sequence t: first_token is not read. position[t] is that of the new token; -1: an
  // idle row, whose result is zero (l = 0).
  GpuBatch batch;
  GpuKvLayer cache;
  int32_t heads = 0;
  float scale = 0;  // 1 / sqrt(head_dim); positive
  DecodeQkv qkv;
  QkNormWeights norm;
  const float* rope = nullptr;  // table of FillRopeTable, or null: no rotation
  DecodeSplits splits;          // not needed with `out` and one split
  void* out = nullptr;          // or null: bf16 [tokens, out_stride], the splits joined
  int64_t out_stride = 0;       // a multiple of 8
  AttentionVariant variant;
  const void* prefetch = nullptr;  // brought into L2 by idle blocks; 16-byte aligned, or null
  int64_t prefetch_bytes = 0;      // a multiple of 16
  // The batch's arrays and the cache's earlier tokens were written by kernels that had ended before
  // the one in front started: they are read before the dependency wait.
  bool history_ready_early = false;
  CudaStream stream = nullptr;
  bool dependent = false;  // programmatic dependent launch (kernels/cuda/launch.cuh)
};

// InvalidArgument names what does not fit, Unimplemented a variant.
absl::Status DecodeAttention(const DecodeAttentionArgs& args, const DecodeAttentionConfig& config);

// The same by plain loops in double precision over host memory (all pointers of args are the
// host's), as one split: o, m and l of split 0, and `out` if it is given.
void DecodeAttentionRef(const DecodeAttentionArgs& args);

}  // namespace conclave
