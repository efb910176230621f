// What the warps of the wgmma kernel of flash_attention share: the layout of a block's shared
// memory, its barriers, and the tensor maps it loads by. Device code only.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/flash_attention/flash_work.cuh"
#include "kernels/qkv_post/paged_device.cuh"

namespace conclave {

inline constexpr int kFlashRows = 128;
inline constexpr int kFlashKvTokens = 128;
inline constexpr int kFlashThreads = 3 * 128;
inline constexpr int kFlashConsumers = 2 * 128;
inline constexpr int kFlashColumnBytes = 128 * 128;  // 128 rows of 64 elements

template <int kHeadDim>
struct FlashShared {
  static constexpr int kColumns = kHeadDim / 64;
  static constexpr int kTileBytes = kColumns * kFlashColumnBytes;
  static constexpr int kStages = kHeadDim == 64 ? 4 : 2;
  static constexpr int kQ = 0;
  static constexpr int kK = kTileBytes;
  static constexpr int kV = kK + kStages * kTileBytes;
  static constexpr int kBarriers = kV + kStages * kTileBytes;
  static constexpr int kItem = kBarriers + (2 + 4 * kStages) * 8;
  static constexpr int kTiles = kItem + 32;
  static constexpr int kTotal = kTiles + kGpuSequencesMax * 4 + 1024;  // 1024: to align
};
static_assert(sizeof(FlashItem) <= 32);

// Both maps give boxes of columns of 64 elements with the 128-byte swizzle.
struct FlashMaps {
  CUtensorMap q;   // [tokens][heads][head_dim], boxes of a tile's tokens of one kv head's group
  CUtensorMap kv;  // rows of the cache, boxes of a page
};

// "full" is completed by bytes, "empty" by one arrival of each consumer warp.
template <int kHeadDim>
struct FlashBarriers {
  uint64_t q_full;
  uint64_t q_empty;
  uint64_t k_full[FlashShared<kHeadDim>::kStages];
  uint64_t k_empty[FlashShared<kHeadDim>::kStages];
  uint64_t v_full[FlashShared<kHeadDim>::kStages];
  uint64_t v_empty[FlashShared<kHeadDim>::kStages];
};

// A place in a ring of stages.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace conclave
