// References shared by qkv_post, flash_attention and decode_attention, in double precision over
// host memory: what happens to a token's q, k and v before attention, and the attention of one
// query head. Pure; any thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/qkv_post/gpu_kv.h"

namespace conclave {

// All pointers are the host's.
struct QkvRowRef {
  int32_t heads = 0;
  GpuKvLayer cache;
  QkNormWeights norm;
  const float* rope = nullptr;  // or none
};

// Norm and rotation of the heads of q and k of `row` [(heads + 2 kv_heads) * head_dim], in place.
void NormRopeRowRef(const QkvRowRef& shape, int32_t position, std::vector<double>& row);

// Stores k and v of the row, as bf16, at a position of the sequence with these pages.
void WriteKvRowRef(const QkvRowRef& shape, const int32_t* pages, int32_t position,
                   const std::vector<double>& row);

// A query head's view of a sequence.
struct AttendRef {
  GpuKvLayer cache;
  const int32_t* pages = nullptr;
  int32_t kv_head = 0;
  int32_t context = 0;  // attends to positions 0 .. context - 1
  float scale = 0;
};
// out [head_dim] = sum of exp(score - top) v, not divided by `sum`.
struct AttendResult {
  double top = -INFINITY;
  double sum = 0;
  std::vector<double> out;
};
AttendResult AttendRowRef(const AttendRef& view, const std::vector<double>& q);

}  // namespace conclave
