// exact_route: what moves rows around the products: router gate, combine, gather, embedding,
// residual add; bit for bit as kernels/moe_gate, moe_permute and embedding. The caller owns all
// memory; any thread, on its current device; capturable. All are bound by reading and writing their
// rows once.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"
#include "kernels/exact/exact_rows.h"

namespace conclave {

inline constexpr int kExactTopKMax = 32;

// Softmax over all experts, the top_k largest (ties to the lower expert, NaN lowest), optionally
// scaled to sum to 1.
struct ExactGateArgs {
  const float* logits = nullptr;  // [tokens, logits_stride]
  int64_t logits_stride = 0;      // elements, >= experts
  int64_t tokens = 0;
  int experts = 0;
  int top_k = 0;  // at most kExactTopKMax
  bool normalize = true;
  int32_t* chosen = nullptr;  // out [tokens, top_k], in order of falling probability
  float* weights = nullptr;   // out [tokens, top_k]
};
absl::Status ExactGate(const ExactGateArgs& args, CudaStream stream);

// out row t += the sum over choices c in order of weights[t, c] * (the tree over slices s of parts
// row part_row[(t * top_k + c) * slices + s]).
struct ExactCombineArgs {
  const float* parts = nullptr;  // [.., parts_stride]
  int64_t parts_stride = 0;
  const int32_t* part_row = nullptr;  // [tokens, top_k, slices]
  const float* weights = nullptr;     // [tokens, top_k]
  int top_k = 0;
  int slices = 1;  // 1, 2, 4 or 8
  ExactRows out;   // [tokens, hidden]
};
absl::Status ExactCombine(const ExactCombineArgs& args, CudaStream stream);

// out row i = row index[i] of x.
struct ExactGatherArgs {
  const float* x = nullptr;  // [.., x_stride]
  int64_t x_stride = 0;
  const int32_t* index = nullptr;  // [out.rows]
  ExactRows out;
};
absl::Status ExactGatherRows(const ExactGatherArgs& args, CudaStream stream);

// Rows of the table by token id; ids outside [vocab_begin, vocab_begin + table.outputs) give zeros,
// and -0 becomes 0, so that the sum over a tensor-parallel group is the row.
struct ExactEmbedArgs {
  WeightView table;  // [vocabulary rows, hidden]; kBf16, kF16 or kF32
  int64_t vocab_begin = 0;
  const int32_t* ids = nullptr;  // [tokens]
  int64_t tokens = 0;
  float* out = nullptr;    // [tokens, out_stride]
  int64_t out_stride = 0;  // elements, >= hidden
};
absl::Status ExactEmbed(const ExactEmbedArgs& args, CudaStream stream);

// x[i] += delta[i], i < count.
absl::Status ExactAdd(float* x, const float* delta, int64_t count, CudaStream stream);

}  // namespace conclave
