// flash_attention: causal grouped-query attention over the paged bf16 cache for sequences of any
// number of new tokens, with any context before them (prefill, chunked prefill, mixed batches).
// Blocks take tiles of 128 (token, query head) rows that share a kv head, those with the longest
// context first, and walk the context in tiles of 128 tokens with an online softmax (FlashAttention
// 3, arXiv 2407.08608); head_dim 64 and 128 on wgmma, other shapes on a plainer kernel. All memory
// is the caller's; only enqueues, capturable in a graph, any thread on its current device. Flops:
// 4 * head_dim for each (row, context token); bytes: q and out once, K and V of a sequence once for
// each of its tiles, mostly from L2.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/qkv_post/gpu_kv.h"

namespace conclave {

inline constexpr int kFlashGroupMax = 64;  // query heads of a kv head

enum class FlashKernel : uint8_t {
  kAuto = 0,
  kWgmma = 1,    // head_dim 64 or 128; page_tokens 8, 16, 32, 64 or 128
  kGeneral = 2,  // any head_dim that is a multiple of 8, any page_tokens
};

struct FlashAttentionArgs {
  GpuBatch batch;
  GpuKvLayer cache;  // keys and values of the batch's tokens already written
  int32_t heads = 0;
  float scale = 0;             // 1 / sqrt(head_dim); positive
  const void* q = nullptr;     // bf16 [tokens, q_stride], 16-byte aligned
  int64_t q_stride = 0;        // a multiple of 8, >= heads * head_dim
  void* out = nullptr;         // bf16 [tokens, out_stride], 16-byte aligned
  int64_t out_stride = 0;      // a multiple of 8, >= heads * head_dim
  int32_t* counter = nullptr;  // device, [1]: zero before the first launch, each leaves it zero;
                               // not shared by launches that may overlap
  AttentionVariant variant;
  FlashKernel kernel = FlashKernel::kAuto;
  int32_t sm_count = 132;
  CudaStream stream = nullptr;
  bool dependent = false;  // programmatic dependent launch (kernels/cuda/launch.cuh)
};

// InvalidArgument names what does not fit, Unimplemented a variant. Rows of out that no sequence
// has are left alone.
absl::Status FlashAttention(const FlashAttentionArgs& args);

// Whether the wgmma kernel takes the shape.
bool FlashTakesWgmma(const GpuKvLayer& cache, int32_t heads);

// One row of the result [head_dim], not rounded, as FlashAttentionRef.
struct FlashRefPlace {
  int32_t sequence;
  int32_t token;  // row of q
  int32_t head;
};
std::vector<double> FlashAttentionRefAt(const FlashAttentionArgs& args, FlashRefPlace at);

// The same by plain loops in double precision over host memory: all pointers of args are the
// host's.
void FlashAttentionRef(const FlashAttentionArgs& args);

}  // namespace conclave
