// add_norm: the residual stream takes in what an earlier product left pending, and is normed for
// the next product: residual_out = residual_in + pending, normed = bf16(residual_out * norm_weight
// / sqrt(mean(residual_out^2) + epsilon)). Pending are the slabs of a product cut along its inputs,
// or the rows of each token's experts, which makes it the weighted combine of a MoE layer. A value
// is added in a fixed order, by ascending slab or choice. The caller owns all memory; any thread,
// on its current device; capturable.
// Bytes: tokens * hidden * (8 + 2 normed + pending), each read or written once. Flops: nothing.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

enum class PendingKind : uint8_t {
  kNone,
  kSlabs,    // fp32 slabs, added in ascending order
  kRowsF32,  // rows of chosen experts, each times its weight, added in top-k order
  kRowsBf16,
};

struct PendingSum {
  PendingKind kind = PendingKind::kNone;
  const void* data = nullptr;  // slabs [count][tokens][row_stride] or rows [entries][row_stride]
  int32_t count = 0;           // slabs, or the choices of a token
  int64_t slab_stride = 0;     // elements; a multiple of 4
  int64_t row_stride = 0;      // elements, >= hidden; a multiple of 4
  const float* gate_weights = nullptr;  // [tokens, count], with rows
  // [tokens * count], with rows: where the row of entry token * count + choice stands, -1 for none.
  // Without it an entry is its row.
  const int32_t* row_of_entry = nullptr;
};

struct AddNormArgs {
  int32_t tokens = 0;
  int32_t hidden = 0;                  // a multiple of 8, at most 16384
  const float* residual_in = nullptr;  // [tokens, hidden]
  float* residual_out = nullptr;       // [tokens, hidden], may be residual_in
  PendingSum pending;
  const float* norm_weight = nullptr;  // [hidden]
  float epsilon = 1e-6f;
  void* normed = nullptr;  // bf16 [tokens, hidden]; none: the sum alone
};

// InvalidArgument when shapes do not fit together.
absl::Status CheckAddNormArgs(const AddNormArgs& args);

absl::Status AddNorm(const AddNormArgs& args, CudaStream stream, bool dependent);

// The same in double precision over host memory: all pointers of args are the host's.
void AddNormRef(const AddNormArgs& args);

}  // namespace conclave
