// expert_ffn: the grouped SwiGLU feed-forward of the experts of a rank: for every entry e with slot
// s and row r:
//   out.row(e) = down_s( silu(gate_s x_r) * up_s x_r )
// Only slots with entries are read. Decode reads each touched expert once; prefill blocks over the
// rows of a slot. A dense FFN is one slot that serves every row. gate_up holds gate and up
// interleaved by panel (gate panel p is panel 2p, up panel p is 2p + 1), so that one pass computes
// both and the activation.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "comm/device/compute_pool.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/moe_permute/moe_permute.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// One expert, or one slice of it, or a dense FFN's tensor-parallel slice.
struct FfnWeights {
  PackedMatrix gate_up;  // [2 * ceil16(ffn), hidden], panels interleaved; padding rows are zero
  PackedMatrix down;     // [hidden, ffn]; slices(): the reduction slices that this piece holds
  int64_t ffn = 0;       // width of this piece

  int64_t bytes() const { return gate_up.bytes() + down.bytes(); }
};

// Sets row `n` of gate (or of up) in the interleaved layout; `source` has hidden elements of the
// matrix's dtype.
void SetGateRows(FfnWeights& weights, int64_t first, int64_t count, const void* source,
                 int64_t stride);
void SetUpRows(FfnWeights& weights, int64_t first, int64_t count, const void* source,
               int64_t stride);

struct ExpertFfnArgs {
  ConstRows x;                                // [rows, hidden]
  absl::Span<const int32_t> row_of_entry;     // [entries] into x
  const SlotTable* table = nullptr;           // entries by slot
  absl::Span<const FfnWeights* const> slots;  // [slots]
  Rows out;                                   // [entries, hidden]
};
// Returns the bytes of weights read.
int64_t ExpertFfn(const ExpertFfnArgs& args, ComputePool& pool);
void ExpertFfnRef(const ExpertFfnArgs& args);

// The same for a dense FFN: every row of x through `weights`.
int64_t DenseFfn(ConstRows x, const FfnWeights& weights, Rows out, ComputePool& pool);

}  // namespace conclave
