// The products of token_step: activations staged in shared memory as pairs of bf16 whose sum keeps
// 16 bits of each number, so that tensor cores take them as two columns of B beside the weights as
// A; the walk of a warp over its tiles of the ring; the sums of the warps. Also the grid's barrier.
// Device code only.
#pragma once

#include <cstdint>

#include "kernels/token_step/token_ring.cuh"

namespace conclave {

// ---- barriers

// Of the computing warps.
__device__ __forceinline__ void TokenSync() {
  asm volatile("bar.sync 1, %0;" ::"n"(kTokenThreads) : "memory");
}

// What a block wrote before Arrive is seen by all blocks after Wait of the same target. Both are
// calls: the code of a layer must stay in the instruction cache, or fetching it is what takes time.
__device__ __noinline__ inline void GridArrive(unsigned* counter) {
  TokenSync();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
  }
}
__device__ __noinline__ inline void GridWait(const unsigned* counter, unsigned target) {
  if (threadIdx.x == 0) {
    const int64_t start = clock64();
    while (true) {
      unsigned seen;
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      if (static_cast<int>(seen - target) >= 0) break;
      if (clock64() - start > kTokenPatience) TokenStuck("the grid", target);
    }
  }
  TokenSync();
}

// ---- activations: [tile of 64][half of it][upper, lower part][lane % 4][4 words of two]

// The word of inputs k and k + 1, k even; that of their lower parts is 16 further.
__device__ __forceinline__ int XWord(int k) {
  const int column = k % kTileInputs;
  const int run = column / 16;
  return k / kTileInputs * 64 + run / 2 * 32 + column % 8 / 2 * 4 + run % 2 * 2 + column / 8 % 2;
}

// Stores inputs k..k+3; k is a multiple of 4.
__device__ __forceinline__ void StoreX(uint32_t* x, int k, float4 v) {
  uint32_t* to = x + XWord(k);
  const uint32_t high0 = PackBf16(v.x, v.y), high1 = PackBf16(v.z, v.w);
  to[0] = high0;
  to[4] = high1;
  to[16] = PackBf16(v.x - __uint_as_float(high0 << 16),
                    v.y - __uint_as_float(high0 & 0xffff0000u));
  to[20] = PackBf16(v.z - __uint_as_float(high1 << 16),
                    v.w - __uint_as_float(high1 & 0xffff0000u));
}

// Stores input k of this lane; the next lane has input k + 1, and lanes come in pairs.
__device__ __forceinline__ void StoreXPair(uint32_t* x, int k, float v) {
  const float other = __shfl_xor_sync(__activemask(), v, 1);
  const bool odd = k % 2 != 0;
  const float first = odd ? other : v, second = odd ? v : other;
  const uint32_t high = PackBf16(first, second);
  const uint32_t low = PackBf16(first - __uint_as_float(high << 16),
                                second - __uint_as_float(high & 0xffff0000u));
  x[XWord(k & ~1) + (odd ? 16 : 0)] = odd ? low : high;
}

// Activations that an earlier phase has laid out; begins a copy that FinishX ends. words: a
// multiple of 4.
__device__ __noinline__ inline void CopyX(uint32_t* x, const uint32_t* from, int words) {
#pragma unroll 1
  for (int i = threadIdx.x * 4; i < words; i += kTokenThreads * 4) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(x + i)),
                 "l"(from + i)
                 : "memory");
  }
}
__device__ __forceinline__ void FinishX() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __noinline__ inline float TokenWarpSum(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(~0u, x, lane);
  return x;
}

// 1 / rms of the residual, into Shared().scale; one warp.
__device__ __noinline__ inline void NormScale(const float* squares) {
  TokenShared& shared = Shared();
  const TokenShape& shape = shared.launch.args.shape;
  float sum = 0;
#pragma unroll 4
  for (int i = threadIdx.x % 32; i < shape.hidden / kTileOutputs; i += 32) {
    sum += __ldcg(squares + i);
  }
  sum = TokenWarpSum(sum);
  if (threadIdx.x % 32 == 0) shared.scale = rsqrtf(__fdividef(sum, shape.hidden) + shape.epsilon);
}

// ---- products

// Sums of a unit: [unit][warp][16 outputs]. Warps without a tile of a unit write none, so short
// units begin with zeros; TokenSync follows.
__device__ __noinline__ inline void ClearSums(const TokenPart& part, float* sums) {
  if (part.unit_tiles >= kTokenWarps * Shared().launch.plan.warp_tiles) return;
#pragma unroll 1
  for (int i = threadIdx.x; i < part.units * kTokenWarps * kTileOutputs; i += kTokenThreads) {
    sums[i] = 0;
  }
}

// Places of the sums in a warp's fragments: column 0 is the upper part's, column 1 the lower's.
struct TokenSums {
  float d[2][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i) d[0][i] = d[1][i] = 0;
  }
  __device__ __forceinline__ void Store(float* to) const {  // [16]
    const int lane = threadIdx.x % 32;
    if (lane % 4 != 0) return;
    to[lane / 4] = (d[0][0] + d[1][0]) + (d[0][1] + d[1][1]);
    to[lane / 4 + 8] = (d[0][2] + d[1][2]) + (d[0][3] + d[1][3]);
  }
};

// Multiplies the block's tiles as they come, from the ring's slot `at` on, and returns the slot
// after them. Format: static Multiply(tile, b, group, sums).
template <typename Format>
__device__ __noinline__ TokenSlot Gemv(const TokenPart& part, TokenSlot at) {
  TokenShared& shared = Shared();
  constexpr int kWarpTiles = Format::kWarpTiles;
  constexpr int kStageTiles = kTokenStageWarps * kWarpTiles;
  const int stages = shared.launch.plan.stages;
  const int tile_bytes = shared.launch.plan.tile_bytes;
  const int stage_bytes = shared.launch.plan.stage_bytes;
  const int group = shared.launch.args.shape.group;
  const int count = part.count, unit_tiles = part.unit_tiles, x_tiles = part.x_tiles;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int stage_count = (count + kStageTiles - 1) / kStageTiles;
  // Warps 0-7 take the even stages, 8-15 the odd ones.
  const int parity = warp / kTokenStageWarps;
  const int in_stage = warp % kTokenStageWarps * kWarpTiles;
  const uint32_t ring = SharedAddress(SharedAt(shared.launch.plan.shared_ring)) +
                        in_stage * tile_bytes;
  const uint4* x = reinterpret_cast<const uint4*>(SharedAt(shared.launch.plan.shared_x)) + lane;
  float* sums = reinterpret_cast<float*>(SharedAt(shared.launch.plan.shared_sums)) +
                warp * kTileOutputs;
  int tile = parity * kStageTiles + in_stage;  // of the part
  int x_tile = (part.first + tile) % x_tiles;
  int unit = tile / unit_tiles;
  int unit_left = unit_tiles - (tile - unit * unit_tiles);
  TokenSums acc;
  acc.Clear();
  bool dirty = false;
  TokenSlot slot = at;
  slot.Advance(parity, stages);
#pragma unroll 1
  for (int stage = parity; stage < stage_count; stage += 2) {
    WaitOrStop(&shared.full[slot.slot], slot.parity, "weights");
    uint32_t from = ring + slot.slot * stage_bytes;
#pragma unroll
    for (int j = 0; j < kWarpTiles; ++j) {
      if (tile < count) {
        uint4 b[2] = {};
        if (lane < 8) {
          b[0] = x[x_tile * 16];
          b[1] = x[x_tile * 16 + 8];
        }
        Format::Multiply(from, b, group, acc);
        dirty = true;
      }
      from += tile_bytes;
      const int step = j + 1 < kWarpTiles ? 1 : 2 * kStageTiles - kWarpTiles + 1;
      tile += step;
      x_tile += step;
      while (x_tile >= x_tiles) x_tile -= x_tiles;
      unit_left -= step;
      if (unit_left <= 0) {
        if (dirty) acc.Store(sums + unit * (kTokenWarps * kTileOutputs));
        acc.Clear();
        dirty = false;
        while (unit_left <= 0) {
          unit_left += unit_tiles;
          ++unit;
        }
      }
    }
    __syncwarp();
    if (lane == 0) BarrierArrive(&shared.empty[slot.slot]);
    slot.Advance(2, stages);
  }
  if (dirty) acc.Store(sums + unit * (kTokenWarps * kTileOutputs));
  at.Advance(stage_count, stages);
  return at;
}

// The sum of an output of a unit over the warps; after TokenSync.
__device__ __noinline__ inline float UnitSum(int unit, int output) {
  const float* from = reinterpret_cast<const float*>(SharedAt(Shared().launch.plan.shared_sums)) +
                      unit * kTokenWarps * kTileOutputs + output;
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kTokenWarps; ++warp) sum += from[warp * kTileOutputs];
  return sum;
}

struct TokenBf16 {
  static constexpr int kWarpTiles = 1;

  // tile: shared address; b: of lanes 0-7, else zeros.
  static __device__ __forceinline__ void Multiply(uint32_t tile, const uint4 (&b)[2], int,
                                                  TokenSums& sums) {
    const int lane = threadIdx.x % 32;
    const int row = lane & 15;
    const uint32_t a_row = tile + row * 128;
    const uint32_t a_chunk = ((lane >> 4) ^ (row & 7)) << 4;
    uint32_t a[4][4];
#pragma unroll
    for (int run = 0; run < 4; ++run) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(a[run][0]), "=r"(a[run][1]), "=r"(a[run][2]), "=r"(a[run][3])
                   : "r"(a_row + (a_chunk ^ (run * 32))));
    }
    MatrixMultiplyAdd(sums.d[0], a[0], b[0].x, b[0].y);
    MatrixMultiplyAdd(sums.d[1], a[1], b[0].z, b[0].w);
    MatrixMultiplyAdd(sums.d[0], a[2], b[1].x, b[1].y);
    MatrixMultiplyAdd(sums.d[1], a[3], b[1].z, b[1].w);
  }
};

}  // namespace conclave
