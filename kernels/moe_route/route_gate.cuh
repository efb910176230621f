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

// A lane's experts in falling order of their logits, equal ones by rising index; taken experts and
// those past the last have key 0.
template <int kPerLane>
struct LaneOrder {
  uint32_t key[kPerLane];
  int index[kPerLane];

  __device__ __forceinline__ LaneOrder(const float (&logits)[kPerLane], int experts) {
    const int first = threadIdx.x % 32 * kPerLane;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      key[i] = first + i < experts ? LogitKey(logits[i]) : 0;
      index[i] = first + i;
    }
#pragma unroll
    for (int round = 0; round < kPerLane; ++round) {
#pragma unroll
      for (int i = round % 2; i + 1 < kPerLane; i += 2) {
        const bool swap = key[i] < key[i + 1];
        const uint32_t larger = swap ? key[i + 1] : key[i];
        key[i + 1] = swap ? key[i] : key[i + 1];
        key[i] = larger;
        const int front = swap ? index[i + 1] : index[i];
        index[i + 1] = swap ? index[i] : index[i + 1];
        index[i] = front;
      }
    }
  }
  // Drops the first.
  __device__ __forceinline__ void Pop() {
#pragma unroll
    for (int i = 0; i + 1 < kPerLane; ++i) {
      key[i] = key[i + 1];
      index[i] = index[i + 1];
    }
    key[kPerLane - 1] = 0;
  }
};

// Lane r < top_k gets the choice of rank r. logits[i] is of expert lane * kPerLane + i; past
// `experts` whatever it is.
template <int kPerLane>
__device__ __forceinline__ GateChoice WarpGate(const float (&logits)[kPerLane], int experts,
                                               int top_k, bool normalize) {
  const int lane = threadIdx.x % 32;
  const uint32_t lower_lanes = (1u << lane) - 1;
  LaneOrder<kPerLane> order(logits, experts);
  GateChoice chosen = {0, 0};
  uint32_t key = 0, largest = 0;
#pragma unroll 2
  for (int r = 0; r < top_k; ++r) {
    const uint32_t top = __reduce_max_sync(kFullWarp, order.key[0]);
    const uint32_t equal = __ballot_sync(kFullWarp, order.key[0] == top);
    const int expert = __shfl_sync(kFullWarp, order.index[0], __ffs(equal) - 1);
    if (order.key[0] == top && (equal & lower_lanes) == 0) order.Pop();
    if (r == 0) largest = top;
    if (lane == r) {
      chosen.expert = expert;
      key = top;
    }
  }
  const float max = LogitOfKey(largest);
  const float e = lane < top_k ? expf(LogitOfKey(key) - max) : 0.0f;
  float sum = e;
  if (!normalize) {
    sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane * kPerLane + i >= experts) continue;
      sum += expf(LogitOfKey(LogitKey(logits[i])) - max);
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
  chosen.weight = e / sum;
  return chosen;
}

}  // namespace conclave
