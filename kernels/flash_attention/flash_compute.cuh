// The computing warpgroups of the wgmma kernel of flash_attention, 64 rows each. While one tile's
// scores are turned into probabilities, the products of the tile before with V run, and those of
// the other warpgroup. Device code only.
#pragma once

#include "kernels/flash_attention/flash_shared.cuh"
#include "kernels/flash_attention/flash_wgmma.cuh"

namespace conclave {

__device__ __forceinline__ void NamedBarrierSync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void NamedBarrierArrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// What a thread holds of its warpgroup's 64 rows: rows r and r + 8 of a fragment.
template <int kHeadDim>
struct FlashState {
  float scores[kFlashKvTokens / 2];
  uint32_t p[kFlashKvTokens / 4];
  float out[kHeadDim / 2];
  float top[2];  // largest score
  float sum[2];  // of this thread's probabilities
  int limit[2];  // last position that the row attends to
};

template <int kHeadDim>
__device__ __forceinline__ void MultiplyScores(FlashState<kHeadDim>& state, uint64_t q,
                                               uint64_t k) {
  Hold(state.scores);
  ProductFence();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const int offset = step / 4 * (kFlashColumnBytes / 16) + step % 4 * 2;
    ScoreProduct(state.scores, q + offset, k + offset, step > 0);
  }
  ProductCommit();
}

template <int kHeadDim>
__device__ __forceinline__ void MultiplyValues(FlashState<kHeadDim>& state, uint64_t v) {
  Hold(state.p);
  Hold(state.out);
  ProductFence();
#pragma unroll
  for (int step = 0; step < kFlashKvTokens / 16; ++step) {
    ValueProduct(state.out, state.p + 4 * step, v + step * (16 * 128 / 16));
  }
  ProductCommit();
}

// Scores past a row's limit become -infinity. first: position of the tile's first column.
template <int kHeadDim>
__device__ __forceinline__ void MaskScores(FlashState<kHeadDim>& state, int first) {
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < kFlashKvTokens / 2; ++i) {
    if (column + i / 4 * 8 + i % 2 > state.limit[i / 2 % 2]) state.scores[i] = -INFINITY;
  }
}

// Scores become probabilities relative to the largest score so far; returns what earlier ones are
// multiplied by.
template <int kHeadDim>
__device__ __forceinline__ float2 Probabilities(FlashState<kHeadDim>& state, float scale_log2) {
  float rescale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = state.top[half];
#pragma unroll
    for (int i = 0; i < kFlashKvTokens / 2; i += 4) {
      top = fmaxf(top, fmaxf(state.scores[i + 2 * half], state.scores[i + 2 * half + 1]));
    }
    top = QuadMax(top);
    rescale[half] = Exp2((state.top[half] - top) * scale_log2);
    state.top[half] = top;
    const float shift = top * scale_log2;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kFlashKvTokens / 2; i += 4) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        state.scores[i + e] = Exp2(fmaf(state.scores[i + e], scale_log2, -shift));
        sum += state.scores[i + e];
      }
    }
    state.sum[half] = state.sum[half] * rescale[half] + sum;
  }
  return make_float2(rescale[0], rescale[1]);
}

template <int kHeadDim>
__device__ __forceinline__ void PackProbabilities(FlashState<kHeadDim>& state) {
#pragma unroll
  for (int i = 0; i < kFlashKvTokens / 4; ++i) {
    state.p[i] = PackBf16(state.scores[2 * i], state.scores[2 * i + 1]);
  }
}

template <int kHeadDim>
__device__ __forceinline__ void Rescale(FlashState<kHeadDim>& state, float2 rescale) {
#pragma unroll
  for (int i = 0; i < kHeadDim / 2; ++i) state.out[i] *= i / 2 % 2 == 0 ? rescale.x : rescale.y;
}

// Word w of lane l of a quad moves to word l of lane w.
__device__ __forceinline__ void TransposeQuad(uint32_t (&v)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
  const uint32_t a = __shfl_xor_sync(~0u, odd ? v[0] : v[1], 1);
  const uint32_t b = __shfl_xor_sync(~0u, odd ? v[2] : v[3], 1);
  (odd ? v[0] : v[1]) = a;
  (odd ? v[2] : v[3]) = b;
  const uint32_t c = __shfl_xor_sync(~0u, high ? v[0] : v[2], 2);
  const uint32_t d = __shfl_xor_sync(~0u, high ? v[1] : v[3], 2);
  (high ? v[0] : v[2]) = c;
  (high ? v[1] : v[3]) = d;
}

// Writes the normalised rows; to[half] null: no such row.
template <int kHeadDim>
__device__ __forceinline__ void StoreRows(const FlashState<kHeadDim>& state,
                                          __nv_bfloat16* const (&to)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float inverse = 1.0f / QuadSum(state.sum[half]);
#pragma unroll
    for (int first = 0; first < kHeadDim / 8; first += 4) {
      uint32_t words[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int i = (first + w) * 4 + 2 * half;
        words[w] = PackBf16(state.out[i] * inverse, state.out[i + 1] * inverse);
      }
      TransposeQuad(words);
      if (to[half] == nullptr) continue;
      *reinterpret_cast<uint4*>(to[half] + (first + threadIdx.x % 4) * 8) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

// Values past the context may be anything, also NaN, which a probability of zero does not undo.
// Both warpgroups call together.
template <int kHeadDim>
__device__ __forceinline__ void ZeroValuesFrom(int row, uint8_t* tile) {
  const int thread = threadIdx.x - 128;
#pragma unroll
  for (int column = 0; column < FlashShared<kHeadDim>::kColumns; ++column) {
    uint8_t* base = tile + column * kFlashColumnBytes;
    for (int at = row * 128 + thread * 16; at < kFlashColumnBytes; at += kFlashConsumers * 16) {
      *reinterpret_cast<uint4*>(base + at) = make_uint4(0, 0, 0, 0);
    }
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  NamedBarrierSync(3, kFlashConsumers);
}

__device__ __forceinline__ void ArriveOfWarp(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) BarrierArrive(barrier);
}

// One item's context: places in the rings advance by its tiles.
template <int kHeadDim>
__device__ __forceinline__ void AttendTiles(const FlashItem& item, float scale_log2,
                                            uint8_t* shared,
                                            RingPlace<FlashShared<kHeadDim>::kStages>& place,
                                            FlashState<kHeadDim>& state) {
  using Shared = FlashShared<kHeadDim>;
  auto& barriers = *reinterpret_cast<FlashBarriers<kHeadDim>*>(shared + Shared::kBarriers);
  const int warpgroup = static_cast<int>(threadIdx.x) / 128 - 1;
  const uint32_t base = SharedAddress(shared);
  const uint64_t q = AttentionDescriptor(base + Shared::kQ + warpgroup * 64 * 128, 16);
  const uint64_t k = AttentionDescriptor(base + Shared::kK, 16);
  const uint64_t v = AttentionDescriptor(base + Shared::kV, kFlashColumnBytes);
  const int tiles = (item.kv_tokens + kFlashKvTokens - 1) / kFlashKvTokens;
  const int first_masked = (item.position + 1) / kFlashKvTokens;

  BarrierWait(&barriers.k_full[place.stage], place.parity);
  MultiplyScores(state, q, k + place.stage * (Shared::kTileBytes / 16));
  ProductWait<0>();
  Hold(state.scores);
  ArriveOfWarp(&barriers.k_empty[place.stage]);
  if (first_masked == 0) MaskScores(state, 0);
  Probabilities(state, scale_log2);
  PackProbabilities(state);

  RingPlace<Shared::kStages> last = place;
  place.Next();
  for (int tile = 1; tile < tiles; ++tile) {
    BarrierWait(&barriers.k_full[place.stage], place.parity);
    NamedBarrierSync(1 + warpgroup, kFlashConsumers);
    MultiplyScores(state, q, k + place.stage * (Shared::kTileBytes / 16));
    BarrierWait(&barriers.v_full[last.stage], last.parity);
    MultiplyValues(state, v + last.stage * (Shared::kTileBytes / 16));
    NamedBarrierArrive(2 - warpgroup, kFlashConsumers);
    ProductWait<1>();
    Hold(state.scores);
    ArriveOfWarp(&barriers.k_empty[place.stage]);
    if (tile >= first_masked) MaskScores(state, tile * kFlashKvTokens);
    const float2 rescale = Probabilities(state, scale_log2);
    ProductWait<0>();
    Hold(state.out);
    Hold(state.p);
    ArriveOfWarp(&barriers.v_empty[last.stage]);
    Rescale(state, rescale);
    PackProbabilities(state);
    last = place;
    place.Next();
  }
  ArriveOfWarp(&barriers.q_empty);
  BarrierWait(&barriers.v_full[last.stage], last.parity);
  const int end = item.context - (tiles - 1) * kFlashKvTokens;
  if (end < kFlashKvTokens) {
    ZeroValuesFrom<kHeadDim>(end, shared + Shared::kV + last.stage * Shared::kTileBytes);
  }
  MultiplyValues(state, v + last.stage * (Shared::kTileBytes / 16));
  ProductWait<0>();
  Hold(state.out);
  ArriveOfWarp(&barriers.v_empty[last.stage]);
}

template <int kHeadDim>
__device__ __forceinline__ void ConsumeTiles(const FlashAttentionArgs& args,
                                             const FlashTiling& tiling, uint8_t* shared) {
  using Shared = FlashShared<kHeadDim>;
  auto& barriers = *reinterpret_cast<FlashBarriers<kHeadDim>*>(shared + Shared::kBarriers);
  const volatile FlashItem* slot_item =
      reinterpret_cast<const volatile FlashItem*>(shared + Shared::kItem);
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const int row = thread / 32 * 16 + thread % 32 / 4;
  const int row_token[2] = {row / tiling.group, (row + 8) / tiling.group};
  const int row_head[2] = {row % tiling.group, (row + 8) % tiling.group};
  const float scale_log2 = args.scale * 1.4426950408889634f;
  RingPlace<Shared::kStages> place;
  uint32_t q_parity = 0;
  // The first warpgroup may begin.
  if (thread >= 128) NamedBarrierArrive(1, kFlashConsumers);
  while (true) {
    BarrierWait(&barriers.q_full, q_parity);
    q_parity ^= 1;
    FlashItem item;
    item.kv_head = slot_item->kv_head;
    item.first_token = slot_item->first_token;
    item.tokens = slot_item->tokens;
    item.position = slot_item->position;
    item.context = slot_item->context;
    item.kv_tokens = slot_item->kv_tokens;
    if (item.kv_tokens == 0) break;
    FlashState<kHeadDim> state;
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) state.out[i] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      state.top[half] = -INFINITY;
      state.sum[half] = 0;
      state.limit[half] = item.position + row_token[half];
    }
    AttendTiles<kHeadDim>(item, scale_log2, shared, place, state);
    __nv_bfloat16* to[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t head = item.kv_head * tiling.group + row_head[half];
      to[half] = row_token[half] >= item.tokens
                     ? nullptr
                     : static_cast<__nv_bfloat16*>(args.out) +
                           (item.first_token + row_token[half]) * args.out_stride + head * kHeadDim;
    }
    StoreRows(state, to);
  }
}

}  // namespace conclave
