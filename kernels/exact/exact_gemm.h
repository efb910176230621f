// exact_gemm: y = x W^T and the SwiGLU feed-forward of dense layers and experts, bit for bit as
// kernels/gemm and kernels/expert_ffn. Few rows stream the weights once, a chain of multiply-adds
// for each (output, slice); many rows go through register tiles, one slice after the other. The
// caller owns all memory; any thread, on its current device; capturable. Bytes: the weights of the
// touched matrices once for each group of up to 8 (few rows) or 128 rows (many), most of it from
// L2, and x once for each 16 or 128 outputs. Flops: 2 * rows * outputs * inputs.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/base/reduction.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

// Formats kBf16, kF16, kF32. `slices` of the 8 reduction slices lie in the matrix: 1, 2, 4 or 8.
// Fastest where x is 16-byte aligned and x_stride a multiple of 4.
struct ExactGemmArgs {
  const float* x = nullptr;  // [rows, x_stride]
  int64_t x_stride = 0;      // elements, >= inputs
  int64_t rows = 0;
  WeightView weights;  // [outputs, inputs], matrix 0
  int slices = kReductionSlices;
  float* y = nullptr;    // [rows, y_stride]; columns past outputs are left alone
  int64_t y_stride = 0;  // elements, >= outputs
};
absl::Status ExactGemm(const ExactGemmArgs& args, CudaStream stream);

// Entry e of slot s and row r: out row e = down_s(silu(gate_s x_r) * up_s x_r). Slot s serves the
// entries order[slot_first[s] .. slot_first[s + 1]). Without slot_first the FFN is dense: entry e
// is row e of x and matrix 0 serves all.
struct ExactFfnArgs {
  const float* x = nullptr;  // [.., x_stride]
  int64_t x_stride = 0;
  WeightView gate_up;  // [slots][2 * ffn padded to 8, hidden], GateOutput / UpOutput order
  WeightView down;     // [slots][hidden, ffn]
  int down_slices = kReductionSlices;  // of the 8 that lie in `down`
  int32_t entries = 0;
  const int32_t* slot_first = nullptr;    // [slots + 1]
  const int32_t* order = nullptr;         // [entries]
  const int32_t* row_of_entry = nullptr;  // [entries] into x; none: entry e reads row e
  float* inner = nullptr;                 // scratch [entries, inner_stride]
  int64_t inner_stride = 0;               // elements, >= ffn
  float* out = nullptr;                   // [entries, out_stride]
  int64_t out_stride = 0;                 // elements, >= hidden
};
absl::Status ExactFfn(const ExactFfnArgs& args, CudaStream stream);

}  // namespace conclave
