#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "comm/base/status.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/weight_pack/quant_codes.h"
#include "kernels/weight_pack/weight_pack.h"

namespace conclave {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kTiles = 4;  // that a warp has under way: 256 inputs of a row, the largest group

struct Job {
  PackRowsArgs args;
  int64_t stride = 0;
  int64_t chunks = 0;  // of kTiles tiles in a row
  bool pairs = false;  // two elements may be loaded at once
};

__device__ __forceinline__ float2 LoadPair(const Job& job, int64_t row, int64_t column) {
  const int64_t left = job.args.columns - column;
  const int64_t at = row * job.stride + column;
  if (left <= 0) return make_float2(0, 0);
  if (job.args.dtype == Dtype::kF32) {
    const float* from = static_cast<const float*>(job.args.source) + at;
    if (job.pairs && left > 1) return __ldcs(reinterpret_cast<const float2*>(from));
    return make_float2(from[0], left > 1 ? from[1] : 0);
  }
  const uint16_t* from = static_cast<const uint16_t*>(job.args.source) + at;
  uint32_t bits;
  if (job.pairs && left > 1) {
    bits = __ldcs(reinterpret_cast<const uint32_t*>(from));
  } else {
    bits = from[0] | (left > 1 ? uint32_t{from[1]} << 16 : 0);
  }
  if (job.args.dtype == Dtype::kBf16) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  }
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

__device__ __forceinline__ int64_t OutputOf(const PackRowsArgs& args, int64_t row) {
  const int64_t placed = args.first + row;
  if (args.placement == RowPlacement::kPlain) return placed;
  return args.placement == RowPlacement::kGate ? GateOutput(placed) : UpOutput(placed);
}

// Two neighbouring columns of a plain tile.
template <WeightFormat kFormat>
__device__ __forceinline__ void StorePlain(void* tile, int row, int column, float2 v) {
  constexpr int kBytes = CodeBits(kFormat) / 8;
  const int64_t at = TiledIndex(row, column, 1, kBytes);
  if constexpr (kFormat == WeightFormat::kF32) {
    *reinterpret_cast<float2*>(static_cast<float*>(tile) + at) = v;
  } else {
    uint32_t bits;
    if constexpr (kFormat == WeightFormat::kBf16) {
      bits = Bf16Bits(v.x) | Bf16Bits(v.y) << 16;
    } else {
      const __half2 both = __floats2half2_rn(v.x, v.y);
      bits = *reinterpret_cast<const uint32_t*>(&both);
    }
    *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(tile) + at) = bits;
  }
}

// The largest magnitude of each lane's group, for every tile of the warp's chunk.
__device__ __forceinline__ void GroupMaxima(const float2 (&v)[kTiles], int group,
                                            float (&largest)[kTiles]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) largest[i] = fmaxf(fabsf(v[i].x), fabsf(v[i].y));
  if (group >= 128) {
    largest[0] = largest[1] = fmaxf(largest[0], largest[1]);
    largest[2] = largest[3] = fmaxf(largest[2], largest[3]);
  }
  if (group >= 256) {
    largest[0] = largest[1] = largest[2] = largest[3] = fmaxf(largest[0], largest[2]);
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) {
      largest[i] = fmaxf(largest[i], __shfl_xor_sync(~0u, largest[i], lanes));
    }
    if (group > 32) largest[i] = fmaxf(largest[i], __shfl_xor_sync(~0u, largest[i], 16));
  }
}

template <WeightFormat kFormat>
__device__ __forceinline__ void StoreScale(uint8_t* tile, int group, int row, int scale_group,
                                           uint32_t stored) {
  uint8_t* to = tile + ScaleOffset(kFormat, group, row, scale_group);
  if constexpr (ScaleBytes(kFormat) == 4) {
    *reinterpret_cast<uint32_t*>(to) = stored;
  } else if constexpr (ScaleBytes(kFormat) == 2) {
    *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(stored);
  } else {
    *to = static_cast<uint8_t>(stored);
  }
}

// A warp writes one row of a tile; a lane has columns 2 lane and 2 lane + 1. Lanes whose codes
// share a word differ in bit 2 (8-bit codes), or in bits 2 and 3 (4-bit codes).
template <WeightFormat kFormat>
__device__ __forceinline__ void StoreQuantised(uint8_t* tile, int group, int row, float2 v,
                                               float largest) {
  const int lane = threadIdx.x % 32;
  const QuantScale scale = ScaleOf(kFormat, largest);
  const CodePlace place = PlaceOf(kFormat, row, lane * 2);
  uint32_t word = SpreadCode(kFormat, place.pair, 0, CodeOf(kFormat, v.x, scale.divisor)) |
                  SpreadCode(kFormat, place.pair, 1, CodeOf(kFormat, v.y, scale.divisor));
  word |= __shfl_xor_sync(~0u, word, 4);
  int sharing = 4;
  if constexpr (CodeBits(kFormat) == 4) {
    word |= __shfl_xor_sync(~0u, word, 8);
    sharing = 12;
  }
  if ((lane & sharing) == 0) *reinterpret_cast<uint32_t*>(tile + place.word) = word;
  const int scale_group = group == 32 ? lane / 16 : 0;
  if (lane % 16 == 0 && (lane == 0 || group == 32)) {
    StoreScale<kFormat>(tile, group, row, scale_group, scale.stored);
  }
}

// A warp takes kTiles tiles of one row; the warps of a block take neighbouring rows, so that lines
// of the tiles come together in L2.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads) PackKernel(const __grid_constant__ Job job) {
  const PackRowsArgs& args = job.args;
  const int64_t task = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t row = task % args.count;
  const int64_t chunk = task / args.count;
  if (chunk >= job.chunks) return;
  float2 v[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    v[i] = LoadPair(job, row, (chunk * kTiles + i) * kTileInputs + lane * 2);
  }
  const WeightView& out = args.out;
  const int64_t output = OutputOf(args, row);
  const int64_t first_tile = args.first_column / kTileInputs + chunk * kTiles;
  const int tile_bytes = TileBytes(kFormat, out.group);
  uint8_t* tiles = static_cast<uint8_t*>(const_cast<void*>(out.data)) +
                   args.matrix * out.matrix_bytes +
                   (output / kTileOutputs * out.input_tiles() + first_tile) * tile_bytes;
  const int tile_row = static_cast<int>(output % kTileOutputs);
  float largest[kTiles];
  if constexpr (IsQuantised(kFormat)) GroupMaxima(v, out.group, largest);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    if ((chunk * kTiles + i) * kTileInputs >= args.columns) break;
    if constexpr (IsQuantised(kFormat)) {
      StoreQuantised<kFormat>(tiles + i * tile_bytes, out.group, tile_row, v[i], largest[i]);
    } else {
      StorePlain<kFormat>(tiles + i * tile_bytes, tile_row, lane * 2, v[i]);
    }
  }
}

template <WeightFormat kFormat>
absl::Status LaunchPack(const Job& job) {
  const int64_t blocks = (job.args.count * job.chunks + kWarps - 1) / kWarps;
  if (blocks > INT32_MAX) return absl::InvalidArgumentError("pack_rows: pack fewer rows at once");
  const LaunchShape shape = {.grid = dim3(static_cast<unsigned>(blocks)),
                             .block = dim3(kThreads),
                             .stream = job.args.stream};
  return Launch("pack_rows", shape, PackKernel<kFormat>, job);
}

}  // namespace

absl::Status PackRows(const PackRowsArgs& args) {
  RETURN_IF_ERROR(CheckPackRows(args));
  if (args.count == 0) return absl::OkStatus();
  Job job = {.args = args};
  job.stride = args.source_stride == 0 ? args.columns : args.source_stride;
  job.chunks = (args.columns + kTiles * kTileInputs - 1) / (kTiles * kTileInputs);
  const uintptr_t pair_bytes = 2 * DtypeBytes(args.dtype);
  job.pairs = job.stride % 2 == 0 && reinterpret_cast<uintptr_t>(args.source) % pair_bytes == 0;
  switch (args.out.format) {
    case WeightFormat::kBf16:
      return LaunchPack<WeightFormat::kBf16>(job);
    case WeightFormat::kF16:
      return LaunchPack<WeightFormat::kF16>(job);
    case WeightFormat::kF32:
      return LaunchPack<WeightFormat::kF32>(job);
    case WeightFormat::kFp8:
      return LaunchPack<WeightFormat::kFp8>(job);
    case WeightFormat::kInt8:
      return LaunchPack<WeightFormat::kInt8>(job);
    case WeightFormat::kInt4:
      return LaunchPack<WeightFormat::kInt4>(job);
    case WeightFormat::kNf4:
      return LaunchPack<WeightFormat::kNf4>(job);
    default:
      return LaunchPack<WeightFormat::kMxfp4>(job);
  }
}

absl::Status ZeroMatrix(const WeightView& view, int32_t matrix, CudaStream stream) {
  uint8_t* const to =
      static_cast<uint8_t*>(const_cast<void*>(view.data)) + matrix * view.matrix_bytes;
  const int64_t bytes = view.output_tiles() * RowGroupBytes(view);
  return CudaStatus(cudaMemsetAsync(to, 0, bytes, stream), "clearing a weight matrix");
}

}  // namespace conclave
