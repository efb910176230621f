// Softmax and top-k of one token by one warp: kPerLane neighbouring experts in each lane. Device
// code only.
#pragma once

#include <cmath>
#include <cstdint>

namespace conclave {

inline constexpr uint32_t kFullWarp = 0xffffffffu;

// Orders as floats do, NaN as -inf; never 0, and zeros of both signs are equal.
__device__ __forceinline__ uint32_t LogitKey(float logit) {
  const float x = logit == logit ? logit + 0.0f : -INFINITY;
  const uint32_t bits = __float_as_uint(x);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float LogitOfKey(uint32_t key) {
  return __uint_as_float((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

struct GateChoice {
  int expert;
  float weight;
};

// Lane r < top_k gets the choice of rank r. logits[i] is of expert lane * kPerLane + i; past
// `experts` whatever it is.
template <int kPerLane>
__device__ __forceinline__ GateChoice WarpGate(const float (&logits)[kPerLane], int experts,
                                               int top_k, bool normalize) {
  const int lane = threadIdx.x % 32;
  uint32_t key[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    key[i] = lane * kPerLane + i < experts ? LogitKey(logits[i]) : 0;
  }
  GateChoice chosen = {0, 0};
  float logit = 0, largest = 0;
  for (int r = 0; r < top_k; ++r) {
    uint32_t best = key[0];
    int index = 0;
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) {
      if (key[i] > best) index = i;
      best = max(best, key[i]);
    }
    const uint32_t top = __reduce_max_sync(kFullWarp, best);
    const int source = __ffs(__ballot_sync(kFullWarp, best == top)) - 1;
    const int expert = __shfl_sync(kFullWarp, lane * kPerLane + index, source);
    if (r == 0) largest = LogitOfKey(top);
    if (lane == r) {
      chosen.expert = expert;
      logit = LogitOfKey(top);
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane * kPerLane + i == expert) key[i] = 0;
    }
  }
  const float e = lane < top_k ? expf(logit - largest) : 0.0f;
  float sum = e;
  if (!normalize) {
    sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane * kPerLane + i >= experts) continue;
      sum += expf(LogitOfKey(LogitKey(logits[i])) - largest);
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
  chosen.weight = e / sum;
  return chosen;
}

}  // namespace conclave
