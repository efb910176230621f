// The parts of decode_gate's kernel. A cluster of blocks serves up to 8 tokens; each block has a
// run of the hidden dimension: it adds and norms that part of each token, multiplies it with that
// part of the router, and sends its part of the logits and of the squares through distributed
// shared memory. Device code only.
#pragma once

#include <cstdint>

#include "kernels/add_norm/pending.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/moe_route/cluster.cuh"
#include "kernels/moe_route/moe_route.h"
#include "kernels/moe_route/route_table.cuh"

namespace conclave {

// Half a processor's threads and registers: the kernel before this one has the other half, and this
// one's router is loaded when that one ends.
inline constexpr int kGateThreads = 256;
inline constexpr int kGateWarps = kGateThreads / 32;
inline constexpr int kClusterTokens = 8;  // the columns of a matrix fragment
inline constexpr int kClusterMax = 8;
inline constexpr int kBlockTilesMax = 16384 / kTileInputs / kClusterMax;
inline constexpr int kUnits = 4;  // router tiles that a warp holds in registers

// Divides by multiplying, for values and divisors below 65536.
struct Divider {
  uint32_t factor = 0;  // of 1
  __device__ __forceinline__ int operator()(int value) const {
    return factor == 0 ? value : static_cast<int>(__umulhi(static_cast<uint32_t>(value), factor));
  }
};

// How a launch is cut, chosen on the host, and where things stand in dynamic shared memory.
struct DecodeGateLaunch {
  DecodeGateArgs args;
  int cluster;         // blocks of a cluster
  int gate_clusters;   // clusters with tokens; those after them prefetch
  int tiles;           // input tiles of a block
  int parts;           // warps that share a row of router tiles
  int held;            // tokens that shared memory has room for
  int row_bytes;       // of a row of bf16 activations
  int logit_stride;    // floats of a token's logits
  Divider by_quads;    // quads of a block's part of a token
  Divider by_experts;  // padded to whole tiles
  Divider by_top_k;
  int low_at, normed_at, parts_at, gathered_at, shared_bytes;
};

struct DecodeGateShared {
  ChunkShared chunk;
  float tile_squares[kClusterTokens][kBlockTilesMax];  // of this block's part of a token
  float squares[kClusterTokens][kClusterMax];          // of each block's part
  bool last;                                           // this cluster builds the table
};

// A block with tokens, and its shared memory.
struct GateBlock {
  int rank;  // in its cluster
  int tokens;
  int64_t first_token;
  DecodeGateShared& shared;
  uint8_t* dynamic;
};

// The tiles of the router that a warp multiplies: of each of its rows of tiles, every `parts`-th
// tile of the block, in unit order by row.
struct WarpUnits {
  int row, rows, tile, row_units;
};
// A unit's place: of the warp's rows, of the row's units.
struct UnitPlace {
  int row = 0, unit = 0;
  __device__ __forceinline__ void Advance(const WarpUnits& units) {
    if (++unit < units.row_units) return;
    unit = 0;
    ++row;
  }
};

__device__ __forceinline__ WarpUnits UnitsOfWarp(const DecodeGateLaunch& launch, int rank) {
  const int warp = threadIdx.x / 32, rows = launch.args.router.output_tiles();
  WarpUnits units = {.row = warp, .rows = 0, .tile = 0, .row_units = 0};
  if (rows >= kGateWarps) {
    units.rows = (rows - warp + kGateWarps - 1) / kGateWarps;
  } else {
    units.row = warp % rows;
    units.tile = warp / rows;
    units.rows = units.tile < launch.parts ? 1 : 0;
  }
  const int tiles =
      min(max(launch.args.router.input_tiles() - rank * launch.tiles, 0), launch.tiles);
  if (units.tile < tiles) {
    units.row_units = (tiles - units.tile + launch.parts - 1) / launch.parts;
  }
  return units;
}

__device__ __forceinline__ uint4 LoadWeights16(const uint8_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// The unit j after `place` goes to tile[j]. Lane (g, t) takes chunks t and t + 4 of rows g and
// g + 8: in k-step s the fragment's inputs 2t, 2t+1 are the tile's 8t + 2s, + 1, and the fragment's
// 2t + 8, 2t + 9 the tile's 32 + 8t + 2s, + 1; the activations are read to match.
__device__ __forceinline__ void LoadUnits(const DecodeGateLaunch& launch, const WarpUnits& units,
                                          int rank, UnitPlace place, uint4 (&tile)[kUnits][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int input_tiles = launch.args.router.input_tiles();
  const auto* first = static_cast<const uint8_t*>(launch.args.router.data) +
                      int64_t{rank * launch.tiles + units.tile} * 2048 + g * 128;
#pragma unroll
  for (int j = 0; j < kUnits; ++j) {
    if (place.row >= units.rows || units.row_units == 0) break;
    const int row = units.row + place.row * kGateWarps;
    const auto* from = first + (int64_t{row} * input_tiles + place.unit * launch.parts) * 2048;
    tile[j][0] = LoadWeights16(from + (t ^ g) * 16);
    tile[j][1] = LoadWeights16(from + 8 * 128 + (t ^ g) * 16);
    tile[j][2] = LoadWeights16(from + ((t + 4) ^ g) * 16);
    tile[j][3] = LoadWeights16(from + 8 * 128 + ((t + 4) ^ g) * 16);
    place.Advance(units);
  }
}

// sums[0..1] take even and odd k-steps of a unit.
__device__ __forceinline__ void MultiplyUnit(const uint4 (&tile)[4], const uint4& b0,
                                             const uint4& b1, float (&sums)[2][4]) {
  MatrixMultiplyAdd(sums[0], {tile[0].x, tile[1].x, tile[2].x, tile[3].x}, b0.x, b1.x);
  MatrixMultiplyAdd(sums[1], {tile[0].y, tile[1].y, tile[2].y, tile[3].y}, b0.y, b1.y);
  MatrixMultiplyAdd(sums[0], {tile[0].z, tile[1].z, tile[2].z, tile[3].z}, b0.z, b1.z);
  MatrixMultiplyAdd(sums[1], {tile[0].w, tile[1].w, tile[2].w, tile[3].w}, b0.w, b1.w);
}

// Of a row of tiles: by the high and the low halves of activations, even and odd k-steps.
struct LogitSums {
  float high[2][4] = {};
  float low[2][4] = {};
};

// Writes a row of tiles' sums: [part][token][expert]; and clears them.
__device__ __forceinline__ void StoreLogits(const DecodeGateLaunch& launch, const WarpUnits& units,
                                            int row, const GateBlock& block, LogitSums& sums) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  auto* parts = reinterpret_cast<float*>(block.dynamic + launch.parts_at);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = 2 * t + i % 2, expert = row * kTileOutputs + g + i / 2 * 8;
    if (token < block.tokens) {
      parts[(units.tile * launch.held + token) * launch.logit_stride + expert] =
          (sums.high[0][i] + sums.high[1][i]) + (sums.low[0][i] + sums.low[1][i]);
    }
  }
  sums = {};
}

// The block's part of the logits, from activations as pairs of bf16 whose sum they are.
__device__ __forceinline__ void MultiplyRouter(const DecodeGateLaunch& launch,
                                               const WarpUnits& units, const GateBlock& block,
                                               uint4 (&tile)[kUnits][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const bool given = g < block.tokens;
  const uint8_t* x = block.dynamic + g * launch.row_bytes + t * 16;
  const uint4 zero = {0, 0, 0, 0};
  LogitSums sums;
  if (units.row_units == 0) {  // a block past the last input
    for (int r = 0; r < units.rows; ++r) {
      StoreLogits(launch, units, units.row + r * kGateWarps, block, sums);
    }
    return;
  }
  UnitPlace place;
  while (true) {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      if (place.row >= units.rows) return;
      const uint8_t* at = x + (units.tile + place.unit * launch.parts) * 128;
      const auto* high = reinterpret_cast<const uint4*>(at);
      const auto* low = reinterpret_cast<const uint4*>(at + launch.low_at);
      MultiplyUnit(tile[j], given ? high[0] : zero, given ? high[4] : zero, sums.high);
      MultiplyUnit(tile[j], given ? low[0] : zero, given ? low[4] : zero, sums.low);
      const int row = place.row;
      place.Advance(units);
      if (place.row != row) {
        StoreLogits(launch, units, units.row + row * kGateWarps, block, sums);
      }
    }
    LoadUnits(launch, units, block.rank, place, tile);
  }
}

// Adds what is pending to the block's part of its tokens; leaves residual_out * norm_weight as
// floats and as pairs of bf16, and the squares of each tile's width. `first_weight` is the norm's
// at the thread's first quad.
__device__ __forceinline__ void StageTokens(const DecodeGateLaunch& launch, const GateBlock& block,
                                            const float4& first_weight) {
  const AddNormArgs& norm = launch.args.norm;
  const int quads = launch.tiles * kTileInputs / 4;
  for (int base = 0; base < block.tokens * quads; base += kGateThreads) {
    const int i = base + threadIdx.x;
    const int t = launch.by_quads(i), q = i - t * quads;
    const int quad = block.rank * quads + q;  // of the token's row
    float squares = 0;
    if (t < block.tokens) {
      float4 v[1] = {};
      float4 w[1] = {first_weight};
      const QuadRange range = {quad, 1, norm.hidden / 4};
      if (quad < range.end) {
        const int64_t row = (block.first_token + t) * norm.hidden;
        if (base > 0) LoadQuads(norm.norm_weight, range, w);
        LoadQuads(norm.residual_in + row, range, v);
        AddPending<1, 8>(norm.pending, block.first_token + t, range, v);
        reinterpret_cast<float4*>(norm.residual_out + row)[quad] = v[0];
      }
      squares = v[0].x * v[0].x + v[0].y * v[0].y + v[0].z * v[0].z + v[0].w * v[0].w;
      const float4 x = {v[0].x * w[0].x, v[0].y * w[0].y, v[0].z * w[0].z, v[0].w * w[0].w};
      reinterpret_cast<float4*>(block.dynamic + launch.normed_at)[i] = x;
      const uint2 high = {PackBf16(x.x, x.y), PackBf16(x.z, x.w)};
      const float4 h = QuadOf<__nv_bfloat16>::Widen(high);
      uint8_t* row = block.dynamic + t * launch.row_bytes + q * 8;
      *reinterpret_cast<uint2*>(row) = high;
      *reinterpret_cast<uint2*>(row + launch.low_at) = {PackBf16(x.x - h.x, x.y - h.y),
                                                        PackBf16(x.z - h.z, x.w - h.w)};
    }
    // A tile is 16 quads, so half a warp has one token's.
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(kFullWarp, squares, offset);
    }
    if (t < block.tokens && q % 16 == 0) block.shared.tile_squares[t][q / 16] = squares;
  }
}

// Sends the block's logits to the cluster's first block, and its squares to all.
__device__ __forceinline__ void SendParts(const DecodeGateLaunch& launch, const GateBlock& block) {
  const int t = threadIdx.x % kClusterTokens, target = threadIdx.x / kClusterTokens;
  if (t < block.tokens && target < launch.cluster) {
    float sum = 0;
    for (int i = 0; i < launch.tiles; ++i) sum += block.shared.tile_squares[t][i];
    StoreRemote(RemoteAddress(&block.shared.squares[t][block.rank], target), sum);
  }
  const int experts = launch.args.router.output_tiles() * kTileOutputs;
  const auto* parts = reinterpret_cast<const float*>(block.dynamic + launch.parts_at);
  const uint32_t gathered = RemoteAddress(block.dynamic + launch.gathered_at, 0);
  for (int i = threadIdx.x; i < block.tokens * experts; i += kGateThreads) {
    const int token = launch.by_experts(i), expert = i - token * experts;
    float sum = 0;
    for (int p = 0; p < launch.parts; ++p) {
      sum += parts[(p * launch.held + token) * launch.logit_stride + expert];
    }
    const int place = (block.rank * launch.held + token) * launch.logit_stride + expert;
    StoreRemote(gathered + place * 4, sum);
  }
}

__device__ __forceinline__ float NormScale(const DecodeGateLaunch& launch,
                                           const DecodeGateShared& shared, int token) {
  float squares = 0;
#pragma unroll
  for (int r = 0; r < kClusterMax; ++r) {
    squares += r < launch.cluster ? shared.squares[token][r] : 0.0f;
  }
  const AddNormArgs& norm = launch.args.norm;
  return rsqrtf(squares / static_cast<float>(norm.hidden) + norm.epsilon);
}

// The last threads have the first quads: the first warps are the ones that gate.
__device__ __forceinline__ void WriteNormed(const DecodeGateLaunch& launch,
                                            const GateBlock& block) {
  const AddNormArgs& norm = launch.args.norm;
  const int quads = launch.tiles * kTileInputs / 4;
  for (int i = kGateThreads - 1 - threadIdx.x; i < block.tokens * quads; i += kGateThreads) {
    const int t = launch.by_quads(i), quad = block.rank * quads + i - t * quads;
    if (quad >= norm.hidden / 4) continue;
    const float scale = NormScale(launch, block.shared, t);
    const float4 x = reinterpret_cast<const float4*>(block.dynamic + launch.normed_at)[i];
    reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(norm.normed) +
                             (block.first_token + t) * norm.hidden)[quad] = {
        PackBf16(x.x * scale, x.y * scale), PackBf16(x.z * scale, x.w * scale)};
  }
}

// Blocks without tokens share the range, in pieces.
__device__ __forceinline__ void PrefetchShare(const DecodeGateLaunch& launch) {
  constexpr int64_t kPiece = 16 * 1024;
  const int64_t blocks = gridDim.x - launch.gate_clusters * launch.cluster;
  const int64_t block = blockIdx.x - launch.gate_clusters * launch.cluster;
  const int64_t bytes = launch.args.prefetch_bytes, step = blocks * kPiece;
  const auto* from = static_cast<const uint8_t*>(launch.args.prefetch);
  int64_t at = block * kPiece + threadIdx.x * step;
  for (; at < bytes; at += kGateThreads * step) {
    BulkPrefetchToL2(from + at, static_cast<uint32_t>(min(kPiece, bytes - at)));
  }
}

}  // namespace conclave
