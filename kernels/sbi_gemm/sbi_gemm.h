// sbi_gemm: y = W x for the few tokens of a decode step (1..64), bound by reading W once from HBM
// (paper, section III-C). Weights stand in WeightView tiles; every block streams its share through
// shared memory, starting before the kernel in front of it has ended, since weights depend on
// nothing. Activations are bf16, sums fp32; what comes before the product (residual, norm, the
// combine of attention splits) and after it (SwiGLU) is fused. All sums have a fixed order: equal
// inputs and config give equal bits. The caller owns all memory; nothing is allocated or waited for
// on the host; any thread, on its current device; capturable in a graph.
// Bytes: the weights of the touched matrices once, plus tokens * (inputs * 2 per block + outputs *
// 4 * splits). Flops: 2 * rows * outputs * inputs.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"
#include "kernels/sbi_gemm/sbi_gemm_config.h"

namespace conclave {

// SbiPrologue::kRows: x is given.
struct SbiRows {
  const void* x = nullptr;  // bf16 [tokens, stride]; of kDown [entries, stride]; 16-byte aligned
  int64_t stride = 0;       // elements, a multiple of 8, >= inputs
};

// SbiPrologue::kNorm: residual_out = residual_in + pending, x = bf16(residual_out * norm_weight /
// sqrt(mean(residual_out^2) + epsilon)). `pending` sums slabs in ascending order, or, with
// gate_weights, the rows of a token's chosen experts in top-k order, each times its weight. Every
// block computes x for itself; residual_out is another buffer than residual_in. inputs: a multiple
// of 4, at most 8192.
struct SbiNorm {
  const float* residual_in = nullptr;  // [tokens, inputs]
  float* residual_out = nullptr;       // [tokens, inputs]
  const float* norm_weight = nullptr;  // [inputs]
  float epsilon = 1e-6f;
  const float* partials = nullptr;      // [pending][tokens][row_stride], or [tokens * pending]
                                        // [row_stride] with gate_weights
  int32_t pending = 0;                  // slabs, or the top k of gate_weights
  int64_t slab_stride = 0;              // floats; a multiple of 4
  int64_t row_stride = 0;               // floats; a multiple of 4
  const float* gate_weights = nullptr;  // [tokens, pending]
};

// SbiPrologue::kAttention: x = sum_s exp(m_s - m) o_s / sum_s exp(m_s - m) l_s over the splits of
// the context, m being the largest m_s. A split with l_s = 0 contributes nothing, whatever it
// holds.
struct SbiAttention {
  const float* o = nullptr;  // [splits][tokens][inputs]
  const float* m = nullptr;  // [splits][tokens][heads]
  const float* l = nullptr;  // [splits][tokens][heads]
  int32_t splits = 1;
  int32_t heads = 1;  // inputs / heads is a multiple of 4
};

// Which matrices serve which rows (MoE), written on the device. An entry is token * top_k + choice.
// Without `active_count` matrix 0 serves all tokens and an entry is a token (a dense FFN).
struct SbiTable {
  const int32_t* active_count = nullptr;  // [1] slots with entries
  const int32_t* active_slot = nullptr;   // [min(slots, entries)], the first active_count are valid
  const int32_t* slot_first = nullptr;    // [slots + 1] into order
  const int32_t* order = nullptr;         // [entries] entries by slot
  int32_t top_k = 1;
  bool ready_early = false;  // written by a kernel that had ended before the one in front started
};

// Shapes as in the SbiShape that the config was chosen for; SbiGemm checks that they fit together.
struct SbiArgs {
  SbiKind kind = SbiKind::kDense;
  SbiPrologue prologue = SbiPrologue::kRows;  // kDown takes kRows only
  WeightView weights;  // kGateUp: 2 * ffn outputs in GateOutput / UpOutput order
  int32_t tokens = 0;
  SbiRows rows;
  SbiNorm norm;
  SbiAttention attention;
  SbiTable table;               // kGateUp, kDown
  const float* bias = nullptr;  // [matrices, outputs] or none; in the weights' order; not kDown
  // kDense: [splits][tokens][out_stride], summed over splits by the reader, ascending; kDown:
  // [entries][out_stride]. Outputs up to the next multiple of 16 are written where out_stride has
  // room for them.
  float* out = nullptr;
  int64_t out_stride = 0;     // floats, >= outputs
  int64_t slab_stride = 0;    // floats from split to split
  void* hidden = nullptr;     // kGateUp: bf16 [entries][hidden_stride], silu(gate) * up
  int64_t hidden_stride = 0;  // elements, >= ffn
};

struct SbiLaunchOptions {
  CudaStream stream = nullptr;
  bool dependent = false;  // programmatic dependent launch (kernels/cuda/launch.cuh)
};

// InvalidArgument when args and config do not fit together. Calls the triggers of dependent launch
// late, once its last weights are on their way: by then the kernel before it has long ended.
absl::Status SbiGemm(const SbiArgs& args, const SbiConfig& config, const SbiLaunchOptions& options);

// The same by plain loops in double precision over host memory: all pointers of args are the
// host's. Dense sums stand in slab 0; further slabs are untouched.
absl::Status SbiGemmRef(const SbiArgs& args);

}  // namespace conclave
