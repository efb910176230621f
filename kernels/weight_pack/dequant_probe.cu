#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/weight_pack/dequant.cuh"
#include "kernels/weight_pack/dequant_probe.h"

namespace conclave {
namespace {

constexpr int kWarps = 8;

// A tile type with a table says so by kTableBytes.
template <typename Tile>
constexpr int TableBytes() {
  if constexpr (requires { Tile::kTableBytes; }) return Tile::kTableBytes;
  return 0;
}
template <typename Tile>
__device__ __forceinline__ void FragmentOf(const typename Tile::Codes& codes, const uint8_t* table,
                                           int lane, int step, uint32_t (&a)[4]) {
  if constexpr (TableBytes<Tile>() > 0) {
    Tile::Fragment(codes, table, lane, step, a);
  } else {
    Tile::Fragment(codes, step, a);
  }
}
template <typename Tile>
__device__ __forceinline__ void FillTableOf(uint8_t* table, int threads) {
  if constexpr (TableBytes<Tile>() > 0) Tile::FillTable(table, threadIdx.x, threads);
}

// TableTile: Tile, or the tile type of the same bytes that has a table.
template <typename Tile, typename TableTile>
__global__ void Probe(const DequantProbe probe) {
  extern __shared__ __align__(128) uint8_t shared[];  // [table][tile]
  uint8_t* const tile = shared + TableBytes<TableTile>();
  const int lane = threadIdx.x;
  for (int i = lane; i < Tile::kTileBytes; i += 32) {
    tile[i] = static_cast<const uint8_t*>(probe.tile)[i];
  }
  FillTableOf<TableTile>(shared, 32);
  __syncwarp();
  const auto codes = Tile::LoadCodes(tile, lane);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint32_t a[3][4];
    Tile::Fragment(codes, step, a[0]);
    Tile::LoadFragment(tile, lane, step, a[1]);
    FragmentOf<TableTile>(codes, shared, lane, step, a[2]);
    for (int way = 0; way < 3; ++way) {
      for (int i = 0; i < 4; ++i) {
        probe.fragments[((way * 4 + step) * 32 + lane) * 4 + i] = a[way][i];
      }
    }
  }
  for (int s = 0; s < Tile::kSumGroups; ++s) {
    if (lane < kTileOutputs) {
      probe.row_scales[lane * Tile::kSumGroups + s] = Tile::RowScale(tile, lane, s);
    }
    const float2 scales = Tile::LaneScales(tile, lane, s);
    probe.lane_scales[(lane * Tile::kSumGroups + s) * 2] = scales.x;
    probe.lane_scales[(lane * Tile::kSumGroups + s) * 2 + 1] = scales.y;
  }
}

struct SpeedBlock {
  const uint8_t* table;
  int lane;
  uint32_t b[2];
};

template <typename Tile>
__device__ __forceinline__ void MultiplyTile(const uint8_t* tile, const SpeedBlock& block,
                                             float (&sum)[4]) {
  const auto codes = Tile::LoadCodes(tile, block.lane);
#pragma unroll
  for (int s = 0; s < Tile::kSumGroups; ++s) {
    float part[4] = {};
    float(&into)[4] = Tile::kScaledFragments ? sum : part;
    constexpr int kSteps = 4 / Tile::kSumGroups;
#pragma unroll
    for (int step = s * kSteps; step < (s + 1) * kSteps; ++step) {
      uint32_t a[4];
      FragmentOf<Tile>(codes, block.table, block.lane, step, a);
      MatrixMultiplyAdd(into, a, block.b[0], block.b[1]);
    }
    if (Tile::kScaledFragments) continue;
    const float2 scales = Tile::LaneScales(tile, block.lane, s);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = fmaf(part[i], i < 2 ? scales.x : scales.y, sum[i]);
  }
}

struct PlainTile {
  static constexpr int kTileBytes = kTileElements * 2;
};
template <>
__device__ __forceinline__ void MultiplyTile<PlainTile>(const uint8_t* tile,
                                                        const SpeedBlock& block, float (&sum)[4]) {
  const int row = block.lane % 16;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint32_t a[4];
    LoadMatrix4(tile + row * 128 + (((step * 2 + block.lane / 16) ^ (row % 8)) * 16), a);
    MatrixMultiplyAdd(sum, a, block.b[0], block.b[1]);
  }
}

template <typename Tile>
__global__ void __launch_bounds__(kWarps * 32) Speed(int rounds, float* sink) {
  extern __shared__ __align__(128) uint8_t shared[];  // [table][kWarps][kTileBytes]
  uint8_t* const tiles = shared + TableBytes<Tile>();
  for (int i = threadIdx.x; i < kWarps * Tile::kTileBytes; i += kWarps * 32) {
    tiles[i] = static_cast<uint8_t>(i * 37);
  }
  FillTableOf<Tile>(shared, kWarps * 32);
  __syncthreads();
  const SpeedBlock block = {
      shared, static_cast<int>(threadIdx.x % 32), {threadIdx.x, threadIdx.x + 1}};
  // Two tiles side by side, as a kernel with several sums has them.
  float sums[2][4] = {};
  int at = threadIdx.x / 32;
  for (int r = 0; r < rounds; r += 2) {
    MultiplyTile<Tile>(tiles + at * Tile::kTileBytes, block, sums[0]);
    at = (at + 1) % kWarps;
    MultiplyTile<Tile>(tiles + at * Tile::kTileBytes, block, sums[1]);
    at = (at + 1) % kWarps;
  }
  float total = 0;
  for (int i = 0; i < 4; ++i) total += sums[0][i] + sums[1][i];
  if (total == 1.2345f) *sink = total;  // keeps the sums
}

// Calls visit.operator()<Tile>() with the tile type of a format and group.
template <typename Visitor>
absl::Status VisitTile(WeightFormat format, int32_t group, Visitor visit) {
  const bool pair = group == 32;
  switch (format) {
    case WeightFormat::kFp8:
      return pair ? visit.template operator()<QuantTile<WeightFormat::kFp8, 2>>()
                  : visit.template operator()<QuantTile<WeightFormat::kFp8, 1>>();
    case WeightFormat::kInt8:
      return pair ? visit.template operator()<QuantTile<WeightFormat::kInt8, 2>>()
                  : visit.template operator()<QuantTile<WeightFormat::kInt8, 1>>();
    case WeightFormat::kInt4:
      return pair ? visit.template operator()<QuantTile<WeightFormat::kInt4, 2>>()
                  : visit.template operator()<QuantTile<WeightFormat::kInt4, 1>>();
    case WeightFormat::kNf4:
      return pair ? visit.template operator()<QuantTile<WeightFormat::kNf4, 2>>()
                  : visit.template operator()<QuantTile<WeightFormat::kNf4, 1>>();
    case WeightFormat::kMxfp4:
      return visit.template operator()<QuantTile<WeightFormat::kMxfp4, 2>>();
    default:
      return absl::InvalidArgumentError("dequant_probe: not a quantised format");
  }
}

struct ProbeLaunch {
  const DequantProbe& probe;
  template <typename Tile>
  absl::Status operator()() const {
    if constexpr (Tile::kFormat == WeightFormat::kNf4) {
      return Start<Tile, Nf4TableTile<Tile::kScaleGroups>>();
    } else {
      return Start<Tile, Tile>();
    }
  }
  template <typename Tile, typename TableTile>
  absl::Status Start() const {
    const LaunchShape shape = {.grid = dim3(1),
                               .block = dim3(32),
                               .shared_bytes = TableBytes<TableTile>() + Tile::kTileBytes,
                               .stream = probe.stream};
    return Launch("dequant_probe", shape, Probe<Tile, TableTile>, probe);
  }
};

struct SpeedLaunch {
  const DequantSpeed& speed;
  template <typename Tile>
  absl::Status operator()() const {
    const LaunchShape shape = {.grid = dim3(speed.blocks),
                               .block = dim3(kWarps * 32),
                               .shared_bytes = TableBytes<Tile>() + kWarps * Tile::kTileBytes,
                               .stream = speed.stream};
    return Launch("dequant_speed", shape, Speed<Tile>, speed.rounds, speed.sink);
  }
};

}  // namespace

absl::Status ProbeDequant(const DequantProbe& probe) {
  return VisitTile(probe.format, probe.group, ProbeLaunch{probe});
}

absl::Status ProbeDequantSpeed(const DequantSpeed& speed) {
  const SpeedLaunch launch{speed};
  if (speed.format == WeightFormat::kBf16) return launch.operator()<PlainTile>();
  if (speed.table) {
    return speed.group == 32 ? launch.operator()<Nf4TableTile<2>>()
                             : launch.operator()<Nf4TableTile<1>>();
  }
  return VisitTile(speed.format, speed.group, launch);
}

}  // namespace conclave
