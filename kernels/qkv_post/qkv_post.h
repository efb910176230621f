// qkv_post: what stands between the QKV product and prefill attention: RMS norm of q and k, rotary
// embedding, and the write of K and V into their pages, in one pass. A block takes one token and
// finds its sequence in the batch's metadata. All memory is the caller's; only enqueues, capturable
// in a graph, any thread on its current device. Bytes: the tokens' qkv rows read and written once
// (full-width norm reads them twice, from L1 the second time); flops: a few per element.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/qkv_post/gpu_kv.h"

namespace conclave {

struct QkvPostArgs {
  GpuBatch batch;
  GpuKvLayer cache;
  int32_t heads = 0;            // of q; a multiple of cache.kv_heads
  const void* qkv = nullptr;    // bf16 [tokens, qkv_stride]: q, k, v heads; 16-byte aligned
  int64_t qkv_stride = 0;       // a multiple of 8, >= (heads + 2 kv_heads) * head_dim
  void* q = nullptr;            // bf16 [tokens, q_stride], may be qkv itself
  int64_t q_stride = 0;         // a multiple of 8, >= heads * head_dim
  QkNormWeights norm;           // 16-byte aligned
  const float* rope = nullptr;  // table of FillRopeTable, or null: no rotation
  CudaStream stream = nullptr;
  bool dependent = false;  // programmatic dependent launch (kernels/cuda/launch.cuh)
};

// InvalidArgument names what does not fit. Rows that no sequence has are left alone.
absl::Status QkvPost(const QkvPostArgs& args);

// The same in double precision over host memory: all pointers of args are the host's.
void QkvPostRef(const QkvPostArgs& args);

}  // namespace conclave
