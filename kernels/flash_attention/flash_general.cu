// The kernel for head sizes and pages that the wgmma one does not take: blocks of four warps, 64
// rows, context tiles of 64 tokens double-buffered by 16-byte copies, products by mma.sync. kDim is
// head_dim rounded up; the columns between are zeros in shared memory.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/flash_attention/flash_launch.h"
#include "kernels/flash_attention/flash_work.cuh"
#include "kernels/qkv_post/paged_device.cuh"

namespace conclave {
namespace {

constexpr int kRows = 64;
constexpr int kKvTokens = 64;
constexpr int kThreads = 128;

template <int kDim>
struct GeneralShared {
  static constexpr int kRowBytes = kDim * 2 + 16;  // rows start in different banks
  static constexpr int kTileBytes = kKvTokens * kRowBytes;
  static constexpr int kQ = 0;
  static constexpr int kK = kRows * kRowBytes;
  static constexpr int kV = kK + 2 * kTileBytes;
  static constexpr int kItem = kV + 2 * kTileBytes;
  static constexpr int kTiles = kItem + 32;
  static constexpr int kTotal = kTiles + kGpuSequencesMax * 4;
};

// Rows of q of the item's kv head; rows that no token has are zeros.
template <int kDim>
__device__ void LoadQ(const FlashAttentionArgs& args, const FlashTiling& tiling,
                      const FlashItem& item, uint8_t* shared) {
  constexpr int kChunks = kDim / 8;
  const int head_dim = args.cache.head_dim;
  const auto* q = static_cast<const __nv_bfloat16*>(args.q);
  for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int token = row / tiling.group, head = item.kv_head * tiling.group + row % tiling.group;
    const bool valid = token < item.tokens && chunk * 8 < head_dim;
    const int64_t from = (item.first_token + token) * args.q_stride + head * head_dim + chunk * 8;
    CopyOrZero16(shared + row * GeneralShared<kDim>::kRowBytes + chunk * 16, valid ? q + from : q,
                 valid);
  }
}

// A tile of K and V; tokens past the context are zeros.
template <int kDim>
__device__ void LoadKv(const FlashAttentionArgs& args, const FlashItem& item, int first, uint8_t* k,
                       uint8_t* v) {
  constexpr int kChunks = kDim / 8;
  const GpuKvLayer& cache = args.cache;
  const int32_t* pages = args.batch.page_table + args.batch.first_page[item.sequence];
  const auto* data = static_cast<const __nv_bfloat16*>(cache.data);
  for (int i = threadIdx.x; i < kKvTokens * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < item.context && chunk * 8 < cache.head_dim;
    const __nv_bfloat16* from = data;
    if (valid) {
      from += int64_t{PositionRow(cache, pages, item.kv_head, first + row)} * cache.head_dim +
              chunk * 8;
    }
    const int to = row * GeneralShared<kDim>::kRowBytes + chunk * 16;
    CopyOrZero16(k + to, from, valid);
    CopyOrZero16(v + to, from + (valid ? int64_t{VRowOffset(cache)} * cache.head_dim : 0), valid);
  }
  CopyCommit();
}

template <int kDim>
struct GeneralState {
  float out[kDim / 8][4];
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
  int limit[2];
};

// scores [16 rows of the warp x 64 tokens]
template <int kDim>
__device__ __forceinline__ void Scores(const uint8_t* q, const uint8_t* k,
                                       float (&scores)[kKvTokens / 8][4]) {
  constexpr int kRowBytes = GeneralShared<kDim>::kRowBytes;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int b = 0; b < kKvTokens / 8; ++b) {
    scores[b][0] = scores[b][1] = scores[b][2] = scores[b][3] = 0;
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[4];
    LoadMatrix4(q + lane % 16 * kRowBytes + step * 32 + lane / 16 * 16, a);
#pragma unroll
    for (int b = 0; b < kKvTokens / 8; b += 2) {
      uint32_t bs[4];
      LoadMatrix4(
          k + (b * 8 + lane % 8 + lane / 16 * 8) * kRowBytes + step * 32 + lane / 8 % 2 * 16, bs);
      MatrixMultiplyAdd(scores[b], a, bs[0], bs[1]);
      MatrixMultiplyAdd(scores[b + 1], a, bs[2], bs[3]);
    }
  }
}

// One tile: probabilities of `scores`, and their sum over V.
template <int kDim>
__device__ __forceinline__ void Attend(GeneralState<kDim>& state, float (&scores)[kKvTokens / 8][4],
                                       const uint8_t* v, int first, float scale_log2) {
  constexpr int kRowBytes = GeneralShared<kDim>::kRowBytes;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = state.top[half];
#pragma unroll
    for (int b = 0; b < kKvTokens / 8; ++b) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        if (first + b * 8 + lane % 4 * 2 + e % 2 > state.limit[half]) scores[b][e] = -INFINITY;
        top = fmaxf(top, scores[b][e]);
      }
    }
    top = QuadMax(top);
    const float rescale = Exp2((state.top[half] - top) * scale_log2);
    state.top[half] = top;
    float sum = 0;
#pragma unroll
    for (int b = 0; b < kKvTokens / 8; ++b) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        scores[b][e] = Exp2(fmaf(scores[b][e], scale_log2, -top * scale_log2));
        sum += scores[b][e];
      }
    }
    state.sum[half] = state.sum[half] * rescale + sum;
#pragma unroll
    for (int b = 0; b < kDim / 8; ++b) {
      state.out[b][2 * half] *= rescale;
      state.out[b][2 * half + 1] *= rescale;
    }
  }
#pragma unroll
  for (int step = 0; step < kKvTokens / 16; ++step) {
    const float(&low)[4] = scores[2 * step];
    const float(&high)[4] = scores[2 * step + 1];
    const uint32_t p[4] = {PackBf16(low[0], low[1]), PackBf16(low[2], low[3]),
                           PackBf16(high[0], high[1]), PackBf16(high[2], high[3])};
#pragma unroll
    for (int b = 0; b < kDim / 8; b += 2) {
      uint32_t bs[4];
      LoadMatrix4Transposed(v + (step * 16 + lane % 16) * kRowBytes + b * 16 + lane / 16 * 16, bs);
      MatrixMultiplyAdd(state.out[b], p, bs[0], bs[1]);
      MatrixMultiplyAdd(state.out[b + 1], p, bs[2], bs[3]);
    }
  }
}

template <int kDim>
__device__ __forceinline__ void Store(const FlashAttentionArgs& args, const FlashTiling& tiling,
                                      const FlashItem& item, const GeneralState<kDim>& state) {
  const int lane = threadIdx.x % 32, head_dim = args.cache.head_dim;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float inverse = 1.0f / QuadSum(state.sum[half]);
    const int row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4 + 8 * half;
    const int token = row / tiling.group;
    if (token >= item.tokens) continue;
    const int head = item.kv_head * tiling.group + row % tiling.group;
    auto* to = static_cast<__nv_bfloat16*>(args.out) +
               (item.first_token + token) * args.out_stride + head * head_dim + lane % 4 * 2;
#pragma unroll
    for (int b = 0; b < kDim / 8; ++b) {
      if (b * 8 >= head_dim) continue;
      *reinterpret_cast<uint32_t*>(to + b * 8) =
          PackBf16(state.out[b][2 * half] * inverse, state.out[b][2 * half + 1] * inverse);
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    FlashGeneralKernel(const FlashAttentionArgs args, const FlashTiling tiling) {
  using Shared = GeneralShared<kDim>;
  extern __shared__ __align__(16) uint8_t shared[];
  auto* tiles = reinterpret_cast<int32_t*>(shared + Shared::kTiles);
  auto* shared_item = reinterpret_cast<FlashItem*>(shared + Shared::kItem);
  GridDependencyWait();
  LaunchDependents();
  CountTiles(args.batch, tiling.tile_tokens, tiles);
  __syncthreads();
  if (threadIdx.x < 32) {
    FlashCursor cursor(args, tiling, tiles);
    FlashItem found;
    if (static_cast<int>(blockIdx.x) < cursor.Total()) found = cursor.Find(blockIdx.x);
    if (threadIdx.x == 0) *shared_item = found;
  }
  __syncthreads();
  const FlashItem item = *shared_item;
  if (item.kv_tokens == 0) return;

  GeneralState<kDim> state;
#pragma unroll
  for (int b = 0; b < kDim / 8; ++b) {
    state.out[b][0] = state.out[b][1] = state.out[b][2] = state.out[b][3] = 0;
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  state.limit[0] = item.position + row / tiling.group;
  state.limit[1] = item.position + (row + 8) / tiling.group;
  const float scale_log2 = args.scale * 1.4426950408889634f;
  const int count = (item.kv_tokens + kKvTokens - 1) / kKvTokens;
  LoadQ<kDim>(args, tiling, item, shared + Shared::kQ);
  LoadKv<kDim>(args, item, 0, shared + Shared::kK, shared + Shared::kV);
  for (int tile = 0; tile < count; ++tile) {
    const int now = tile % 2 * Shared::kTileBytes, next = Shared::kTileBytes - now;
    if (tile + 1 < count) {
      LoadKv<kDim>(args, item, (tile + 1) * kKvTokens, shared + Shared::kK + next,
                   shared + Shared::kV + next);
      CopyWait<1>();
    } else {
      CopyWait<0>();
    }
    __syncthreads();
    float scores[kKvTokens / 8][4];
    Scores<kDim>(shared + Shared::kQ + warp * 16 * Shared::kRowBytes, shared + Shared::kK + now,
                 scores);
    Attend<kDim>(state, scores, shared + Shared::kV + now, tile * kKvTokens, scale_log2);
    __syncthreads();
  }
  Store<kDim>(args, tiling, item, state);
}

template <int kDim>
absl::Status LaunchDim(const FlashAttentionArgs& args) {
  const FlashTiling tiling = FlashTiling::Of(args, kRows);
  const LaunchShape shape = {dim3(tiling.items_max), dim3(kThreads), GeneralShared<kDim>::kTotal,
                             args.stream, args.dependent};
  return Launch("flash_attention", shape, FlashGeneralKernel<kDim>, args, tiling);
}

}  // namespace

absl::Status LaunchFlashGeneral(const FlashAttentionArgs& args) {
  const int head_dim = args.cache.head_dim;
  if (head_dim <= 32) return LaunchDim<32>(args);
  if (head_dim <= 64) return LaunchDim<64>(args);
  if (head_dim <= 128) return LaunchDim<128>(args);
  return LaunchDim<256>(args);
}

}  // namespace conclave
