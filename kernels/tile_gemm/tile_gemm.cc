#include "kernels/tile_gemm/tile_gemm.h"

#include "absl/strings/str_cat.h"

#if CONCLAVE_CUDA
#include <cuda_runtime.h>

#include "kernels/tile_gemm/tile_launch.h"
#endif

namespace conclave {
namespace {

absl::Status Refuse(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tile_gemm: ", what));
}

bool Aligned(const void* p, int64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

absl::Status CheckArgs(const TileGemmArgs& args, const TileConfig& config) {
  const WeightView& weights = args.weights;
  if (weights.format != WeightFormat::kBf16) return Refuse("weights must be bf16");
  if (weights.data == nullptr || !Aligned(weights.data, 128) || weights.outputs <= 0 ||
      weights.inputs <= 0 || weights.matrices < 1 || weights.matrices > kTileMatricesMax ||
      (weights.matrices > 1 && weights.matrix_bytes % 128 != 0)) {
    return Refuse(absl::StrCat("weights of ", weights.matrices, " x ", weights.outputs, " x ",
                               weights.inputs, ", ", weights.matrix_bytes, " bytes each: at most ",
                               kTileMatricesMax, ", 128-byte aligned"));
  }
  if (args.x == nullptr || !Aligned(args.x, 16) || args.x_stride < weights.inputs ||
      args.x_stride % 8 != 0) {
    return Refuse(absl::StrCat("rows of stride ", args.x_stride, " for ", weights.inputs,
                               " inputs; it must be a multiple of 8, x 16-byte aligned"));
  }
  const bool full = args.epilogue == TileEpilogue::kFp32 || args.epilogue == TileEpilogue::kFp32Add;
  if (args.out == nullptr || !Aligned(args.out, 16) || args.out_stride < TileOutColumns(args) ||
      args.out_stride % (full ? 4 : 8) != 0) {
    return Refuse(absl::StrCat("out of stride ", args.out_stride, " for ", TileOutColumns(args),
                               " columns; it must be a multiple of 16 bytes, out 16-byte aligned"));
  }
  if (args.epilogue == TileEpilogue::kSwiGlu && weights.outputs % 16 != 0) {
    return Refuse(absl::StrCat("SwiGLU of ", weights.outputs,
                               " outputs; gate and up come in whole tiles of 16"));
  }
  if (config.blocks < 1) {
    return Refuse(absl::StrCat("a config of ", config.blocks, " blocks"));
  }
  return absl::OkStatus();
}

#if CONCLAVE_CUDA

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's encoder; null when the driver is older than CUDA 12.
EncodeTiled FindEncoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<EncodeTiled>(found);
}

bool EncodeRows(EncodeTiled encode, const TileGemmArgs& args, TileKind kind, CUtensorMap& map) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(args.weights.inputs),
                               static_cast<cuuint64_t>(args.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(args.x_stride) * 2};
  const cuuint32_t box[2] = {kTileInputs, static_cast<cuuint32_t>(TileBoxRows(kind))};
  const cuuint32_t steps[2] = {1, 1};
  return encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(args.x), sizes,
                strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Tiles of 2 KB are copied as they lie, swizzled by the layout: 256 elements of 8 bytes.
bool EncodeWeights(EncodeTiled encode, const WeightView& weights, TileKind kind, CUtensorMap& map) {
  constexpr cuuint64_t kTileBytes = kTileElements * 2;
  const cuuint64_t input_tiles = weights.input_tiles(), output_tiles = weights.output_tiles();
  const cuuint64_t sizes[4] = {kTileBytes / 8, input_tiles, output_tiles,
                               static_cast<cuuint64_t>(weights.matrices)};
  const cuuint64_t matrix_bytes = weights.matrices > 1
                                      ? static_cast<cuuint64_t>(weights.matrix_bytes)
                                      : input_tiles * output_tiles * kTileBytes;
  const cuuint64_t strides[3] = {kTileBytes, input_tiles * kTileBytes, matrix_bytes};
  const cuuint32_t box[4] = {kTileBytes / 8, 1,
                             static_cast<cuuint32_t>(ExtentOf(kind).outputs / kTileOutputs), 1};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  return encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT64, 4, const_cast<void*>(weights.data), sizes,
                strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

absl::Status Run(const TileGemmArgs& args, const TileConfig& config) {
  static const EncodeTiled encode = FindEncoder();
  if (encode == nullptr) {
    return absl::FailedPreconditionError(
        "tile_gemm: the driver has no cuTensorMapEncodeTiled; it needs CUDA 12 or newer");
  }
  TileLaunch launch;
  if (!EncodeRows(encode, args, config.kind, launch.x) ||
      !EncodeWeights(encode, args.weights, config.kind, launch.weights)) {
    return Refuse(absl::StrCat("no tensor map for ", args.rows, " rows of stride ", args.x_stride,
                               " and ", args.weights.matrices, " matrices of ",
                               args.weights.outputs, " x ", args.weights.inputs));
  }
  const int32_t tile_outputs = ExtentOf(config.kind).outputs;
  launch.out = args.out;
  launch.out_stride = args.out_stride;
  launch.bias = args.bias;
  launch.group_first = args.group_first;
  launch.rows = args.rows;
  launch.outputs = args.weights.outputs;
  launch.matrices = args.weights.matrices;
  launch.steps = args.weights.input_tiles();
  launch.output_tiles = (args.weights.outputs + tile_outputs - 1) / tile_outputs;
  switch (config.kind) {
    case TileKind::kWide:
      return LaunchTileWide(launch, args, config.blocks);
    case TileKind::kSquare:
      return LaunchTileSquare(launch, args, config.blocks);
    case TileKind::kNarrow:
      return LaunchTileNarrow(launch, args, config.blocks);
  }
  return Refuse("no such kind of tile");
}

#endif

}  // namespace

absl::Status TileGemm(const TileGemmArgs& args, const TileConfig& config) {
  if (args.rows == 0) return absl::OkStatus();
  if (absl::Status status = CheckArgs(args, config); !status.ok()) return status;
#if CONCLAVE_CUDA
  return Run(args, config);
#else
  return absl::UnimplementedError("tile_gemm: built without a CUDA toolkit");
#endif
}

}  // namespace conclave
