// Matrix products of many rows on the tensor cores (wgmma, bf16 operands, fp32 accumulation): for
// prefill and for decode batches of more tokens than sbi_gemm takes. One weight matrix for all
// rows, or one for each group of rows (the experts), whose sizes only the device knows. All memory
// is the caller's; TileGemm only enqueues and may be captured in a graph; any thread. Does 2 * rows
// * outputs * inputs flops; reads each weight touched, and each row once for every band of 128 *
// kTileBand rows, from memory, and (rows + outputs of a tile) * 128 bytes for each step of 64
// inputs from L2.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"
#include "kernels/tile_gemm/tile_gemm_config.h"

namespace conclave {

enum class TileEpilogue : uint8_t {
  kBf16 = 0,     // out bf16 [rows, outputs]
  kFp32 = 1,     // out fp32 [rows, outputs]
  kFp32Add = 2,  // out fp32 [rows, outputs] += the product, as one addition (the residual stream)
  kSwiGlu = 3,   // out bf16 [rows, outputs / 2] = silu(gate) * up, weights by GateOutput, UpOutput
};
inline constexpr int kTileEpilogues = 4;

// out[row, n] = sum over k of x[row, k] * W[n, k] (+ bias[n]).
struct TileGemmArgs {
  WeightView weights;       // kBf16
  const void* x = nullptr;  // bf16 [rows, inputs], 16-byte aligned
  int64_t x_stride = 0;     // elements, >= inputs, a multiple of 8
  int32_t rows = 0;         // dense: exact; grouped: the rows that x and out have room for
  // Device, [matrices + 1], ascending: rows group_first[m] .. group_first[m + 1] of x and out use
  // matrix m. Null: all rows use matrix 0. Rows outside all groups are neither read into a result
  // nor written.
  const int32_t* group_first = nullptr;
  const float* bias = nullptr;  // [matrices, outputs] or none, in the weights' order
  TileEpilogue epilogue = TileEpilogue::kBf16;
  void* out = nullptr;     // 16-byte aligned; columns past the last are not written
  int64_t out_stride = 0;  // elements, a multiple of 16 bytes
  CudaStream stream = nullptr;
  bool dependent = false;  // programmatic dependent launch (kernels/cuda/launch.cuh)
};

// InvalidArgument names what does not fit. The config is that of ChooseTileConfig for these sizes.
absl::Status TileGemm(const TileGemmArgs& args, const TileConfig& config);

// One value of the result by a plain loop in double precision over host memory (all pointers of
// args are the host's), before it is rounded to the type of out; kFp32Add adds out's present value.
double TileGemmRefAt(const TileGemmArgs& args, int64_t row, int64_t column);

// All of them, into out.
void TileGemmRef(const TileGemmArgs& args);

// Columns of out.
inline int32_t TileOutColumns(const TileGemmArgs& args) {
  return args.epilogue == TileEpilogue::kSwiGlu ? args.weights.outputs / 2 : args.weights.outputs;
}

}  // namespace conclave
