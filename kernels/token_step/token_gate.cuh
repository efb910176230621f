// The router of token_step. A block that has made 16 numbers of the new residual multiplies them
// with their columns of the router at once and adds to the logits of all blocks, instead of a phase
// and a barrier of its own. The sums are of integers, hence of one value whatever the order. Then
// every block chooses for itself. Device code only.
#pragma once

#include <cstdint>

#include "kernels/token_step/token_gemv.cuh"

namespace conclave {

// 2^n: a logit of 1 is about 2^32, so that sums cannot overflow unless a layer makes the residual
// a billion times larger. scale: 1 / rms of the residual before attention; whatever it is, logits
// stay numbers, so that as many experts are chosen as are waited for.
__device__ __forceinline__ float LogitUnit(float scale) {
  const uint32_t power = __float_as_uint(scale) & 0x7f800000u;
  return __uint_as_float(min(max(power, 0x20000000u), 0x60000000u)) * 0x1p32f;
}

// Items of a unit's share of the router: [expert, padded to 16][half of its 16 columns].
__device__ __forceinline__ int RouterItems(const WeightView& router) {
  return router.output_tiles() * kTileOutputs * 2;
}
// first_row: of the unit, in the residual.
__device__ __forceinline__ uint4 LoadRouter(const WeightView& router, int first_row, int item) {
  const int expert = item / 2;
  const int chunk = (first_row % kTileInputs / 8 + item % 2) ^ (expert % 8);
  const int64_t tile = int64_t{expert / 16} * router.input_tiles() + first_row / kTileInputs;
  return __ldg(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(router.data) +
                                              tile * 2048 + expert % 16 * 128 + chunk * 16));
}

// Adds the units' parts of the logits; Shared().row has their inputs. `first` is the thread's first
// item, loaded before.
__device__ __forceinline__ void AddLogits(const WeightView& router, int first_row, int units,
                                          uint4 first, unsigned long long* logits) {
  const float scale = LogitUnit(Shared().scale);
  const int items = RouterItems(router);
#pragma unroll 1
  for (int unit = 0; unit < units; ++unit) {
#pragma unroll 1
    for (int item = threadIdx.x; item < items; item += kTokenThreads) {
      const uint4 w = unit == 0 && item < kTokenThreads
                          ? first
                          : LoadRouter(router, first_row + unit * kTileOutputs, item);
      const float* row = Shared().row + unit * kTileOutputs + item % 2 * 8;
      const uint32_t words[4] = {w.x, w.y, w.z, w.w};
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum += __uint_as_float(words[j] << 16) * row[2 * j];
        sum += __uint_as_float(words[j] & 0xffff0000u) * row[2 * j + 1];
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      if (item % 2 == 0 && item / 2 < router.outputs) {
        atomicAdd(logits + item / 2, static_cast<unsigned long long>(__float2ll_rn(sum * scale)));
      }
    }
  }
}

// ---- the choice

// scale: that of the phase that added, not yet of the new residual.
__device__ __forceinline__ void LoadLogits(const long long* logits, int experts, float scale) {
  const float inverse = __uint_as_float(0x7f000000u - __float_as_uint(LogitUnit(scale)));
#pragma unroll 1
  for (int e = threadIdx.x; e < experts; e += kTokenThreads) {
    Shared().logits[e] = __ll2float_rn(__ldcg(logits + e)) * inverse;
  }
}

// After TokenSync. Rank by counting, many threads an expert: ties go to the lower expert. Chosen
// experts are published to the producer.
__device__ __noinline__ inline void Choose() {
  TokenShared& shared = Shared();
  const int experts = shared.launch.args.shape.experts;
  const int top_k = shared.launch.args.shape.top_k;
  int per_expert = 1;  // threads, a power of two up to 8
  while (per_expert < 8 && per_expert * 2 * experts <= kTokenThreads) per_expert *= 2;
  const int part = threadIdx.x % per_expert;
  const int expert = threadIdx.x / per_expert;
  const bool real = expert < experts;
  const float logit = real ? shared.logits[expert] : 0;
  int rank = 0;
#pragma unroll 4
  for (int other = part; other < experts; other += per_expert) {
    const float its = shared.logits[other];
    rank += its > logit || (its == logit && other < expert) ? 1 : 0;
  }
#pragma unroll 1
  for (int lanes = 1; lanes < per_expert; lanes *= 2) {
    rank += __shfl_xor_sync(~0u, rank, lanes);
  }
  if (real && part == 0 && rank < top_k) {
    shared.choice[rank] = expert;
    shared.chosen_logits[rank] = logit;
    BarrierArrive(&shared.routed);
  }
}

// Weights of the chosen; one warp, after `routed`.
__device__ __noinline__ inline void WeighChoices() {
  TokenShared& shared = Shared();
  const TokenShape& shape = shared.launch.args.shape;
  const int lane = threadIdx.x % 32;
  const float scale = shared.scale;
  const float largest = shared.chosen_logits[0];
  const float mine =
      lane < shape.top_k ? __expf((shared.chosen_logits[lane] - largest) * scale) : 0.0f;
  float sum = mine;
  if (!shape.normalize) {
    sum = 0;
#pragma unroll 1
    for (int e = lane; e < shape.experts; e += 32) {
      sum += __expf((shared.logits[e] - largest) * scale);
    }
  }
  sum = TokenWarpSum(sum);
  if (lane < shape.top_k) shared.gate_weights[lane] = __fdividef(mine, sum);
}

}  // namespace conclave
