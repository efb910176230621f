// The kernel of decode_attention for head_dim up to kDim; the columns between are zeros in shared
// memory. Each warp has a ring of tiles of 16 tokens that it fills by 16-byte copies and walks with
// an online softmax of its own; the block joins its four warps at the end. Query heads are the rows
// of the matrix fragments, up to 16. Instantiated by decode_attention_*.cu. Device code and its
// launch.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/decode_attention/decode_prologue.cuh"

namespace conclave {

template <int kDim>
struct DecodeShared {
  static constexpr int kRowBytes = kDim * 2 + 16;  // rows start in different banks
  static constexpr int kStageBytes = 2 * kDecodeTileTokens * kRowBytes;  // K, then V
  static constexpr int kStages = kDim <= 64 ? 4 : kDim <= 128 ? 3 : 2;
  static constexpr int kRing = 0;  // [warps][stages]; at the end the sums of the warps
  static constexpr int kQ = kRing + kDecodeWarps * kStages * kStageBytes;
  static constexpr int kNewK = kQ + kDecodeGroupRows * kRowBytes;
  static constexpr int kNewV = kNewK + kDim * 2;
  static constexpr int kTop = kNewV + kDim * 2;  // [warps][16]
  static constexpr int kSum = kTop + kDecodeWarps * kDecodeGroupRows * 4;
  static constexpr int kScratch = kSum + kDecodeWarps * kDecodeGroupRows * 4;
  static constexpr int kTotal = kScratch + kDecodeWarps * 4;
  static_assert(kDecodeWarps * kDecodeGroupRows * kDim * 4 <= kQ);
};

// A warp's tiles: `first`, `first` + kDecodeWarps, ...
struct DecodeTiles {
  int first;
  int count;
  int ahead_row;  // HistoryRow of the tile after those under way

  __device__ __forceinline__ int Token(int i) const {
    return (first + i * kDecodeWarps) * kDecodeTileTokens;
  }
};

// The cache row of K of this lane's token (lane % 16) of tile i; -1: nothing to read. The new
// token is not read: its block computes it.
__device__ __forceinline__ int HistoryRow(const DecodeAttentionArgs& args, const DecodeWork& work,
                                          const DecodeTiles& tiles, int i) {
  if (i >= tiles.count) return -1;
  const int token = tiles.Token(i) + static_cast<int>(threadIdx.x) % kDecodeTileTokens;
  if (token >= min(work.end, work.position)) return -1;
  return PositionRow(args.cache, work.pages, work.kv_head, token);
}

// Copies tile i into its stage and commits, also when there is no such tile.
template <int kDim>
__device__ __forceinline__ void LoadTile(const DecodeAttentionArgs& args, bool exists,
                                         int history_row, uint8_t* stage) {
  constexpr int kChunks = kDim / 8, kRows = 32 / kChunks;  // rows at a time
  using Shared = DecodeShared<kDim>;
  if (exists) {
    const int lane = threadIdx.x % 32, chunk = lane % kChunks;
    const int head_dim = args.cache.head_dim;
    const auto* data = static_cast<const __nv_bfloat16*>(args.cache.data);
    const int64_t v_offset = int64_t{VRowOffset(args.cache)} * head_dim;
#pragma unroll
    for (int first = 0; first < kDecodeTileTokens; first += kRows) {
      const int token = first + lane / kChunks;
      const int row = __shfl_sync(~0u, history_row, token);
      const bool valid = row >= 0 && chunk * 8 < head_dim;
      const __nv_bfloat16* from = valid ? data + int64_t{row} * head_dim + chunk * 8 : data;
      uint8_t* to = stage + token * Shared::kRowBytes + chunk * 16;
      CopyOrZero16(to, from, valid);
      CopyOrZero16(to + kDecodeTileTokens * Shared::kRowBytes, valid ? from + v_offset : from,
                   valid);
    }
  }
  CopyCommit();
}

template <int kDim>
struct DecodeState {
  float out[kDim / 8][4];
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this lane's columns
};

// Scores of 16 rows x 16 tokens of a tile in two fragments, tokens from `limit` on at -infinity.
template <int kDim>
__device__ __forceinline__ void TileScores(const uint32_t (&q)[kDim / 16][4], const uint8_t* k,
                                           int limit, float (&scores)[2][4]) {
  const int lane = threadIdx.x % 32;
  const uint8_t* row =
      k + (lane % 8 + lane / 16 * 8) * DecodeShared<kDim>::kRowBytes + lane / 8 % 2 * 16;
#pragma unroll
  for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t b[4];
    LoadMatrix4(row + step * 32, b);
    MatrixMultiplyAdd(scores[0], q[step], b[0], b[1]);
    MatrixMultiplyAdd(scores[1], q[step], b[2], b[3]);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= limit) scores[i / 4][i % 4] = -INFINITY;
  }
}

template <int kDim>
__device__ __forceinline__ void AttendTile(DecodeState<kDim>& state, float (&scores)[2][4],
                                           const uint8_t* v, float scale_log2) {
  float rescale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int e = 2 * half;
    const float largest = QuadMax(
        fmaxf(fmaxf(scores[0][e], scores[0][e + 1]), fmaxf(scores[1][e], scores[1][e + 1])));
    const float top = fmaxf(state.top[half], largest);
    rescale[half] = Exp2((state.top[half] - top) * scale_log2);
    state.top[half] = top;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& score = scores[i / 2][e + i % 2];
      score = Exp2(fmaf(score, scale_log2, -top * scale_log2));
      sum += score;
    }
    state.sum[half] = state.sum[half] * rescale[half] + sum;
  }
  if (__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
    for (int b = 0; b < kDim / 8; ++b) {
      state.out[b][0] *= rescale[0], state.out[b][1] *= rescale[0];
      state.out[b][2] *= rescale[1], state.out[b][3] *= rescale[1];
    }
  }
  const uint32_t p[4] = {PackBf16(scores[0][0], scores[0][1]), PackBf16(scores[0][2], scores[0][3]),
                         PackBf16(scores[1][0], scores[1][1]),
                         PackBf16(scores[1][2], scores[1][3])};
  const int lane = threadIdx.x % 32;
  const uint8_t* row = v + lane % 16 * DecodeShared<kDim>::kRowBytes + lane / 16 * 16;
#pragma unroll
  for (int b = 0; b < kDim / 8; b += 2) {
    uint32_t bs[4];
    LoadMatrix4Transposed(row + b * 16, bs);
    MatrixMultiplyAdd(state.out[b], p, bs[0], bs[1]);
    MatrixMultiplyAdd(state.out[b + 1], p, bs[2], bs[3]);
  }
}

// K and V of the new token in place of the zeros that its row was filled with.
template <int kDim>
__device__ __forceinline__ void InsertNewToken(const uint8_t* shared, int row, uint8_t* stage) {
  using Shared = DecodeShared<kDim>;
  __syncwarp();
  for (int chunk = threadIdx.x % 32; chunk < kDim / 8; chunk += 32) {
    uint8_t* to = stage + row * Shared::kRowBytes + chunk * 16;
    *reinterpret_cast<uint4*>(to) =
        *reinterpret_cast<const uint4*>(shared + Shared::kNewK + chunk * 16);
    *reinterpret_cast<uint4*>(to + kDecodeTileTokens * Shared::kRowBytes) =
        *reinterpret_cast<const uint4*>(shared + Shared::kNewV + chunk * 16);
  }
  __syncwarp();
}

// Leaves the warp's sums in shared memory, in place of the rings.
template <int kDim>
__device__ __forceinline__ void PublishState(DecodeState<kDim>& state, int rows, uint8_t* shared) {
  using Shared = DecodeShared<kDim>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
  auto* out = reinterpret_cast<float*>(shared + Shared::kRing) + warp * kDecodeGroupRows * kDim;
  auto* tops = reinterpret_cast<float*>(shared + Shared::kTop) + warp * kDecodeGroupRows;
  auto* sums = reinterpret_cast<float*>(shared + Shared::kSum) + warp * kDecodeGroupRows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const float sum = QuadSum(state.sum[half]);
    if (row >= rows) continue;
    if (lane % 4 == 0) {
      tops[row] = state.top[half];
      sums[row] = sum;
    }
#pragma unroll
    for (int b = 0; b < kDim / 8; ++b) {
      *reinterpret_cast<float2*>(out + row * kDim + b * 8 + lane % 4 * 2) =
          make_float2(state.out[b][2 * half], state.out[b][2 * half + 1]);
    }
  }
}

// Joins the warps and writes the block's result.
template <int kDim>
__device__ __forceinline__ void WriteResult(const DecodeAttentionArgs& args, const DecodeGrid& grid,
                                            const DecodeWork& work, const uint8_t* shared) {
  using Shared = DecodeShared<kDim>;
  const auto* out = reinterpret_cast<const float*>(shared + Shared::kRing);
  const auto* tops = reinterpret_cast<const float*>(shared + Shared::kTop);
  const auto* sums = reinterpret_cast<const float*>(shared + Shared::kSum);
  const int head_dim = args.cache.head_dim, quads = head_dim / 4;
  const float scale_log2 = args.scale * 1.4426950408889634f;
  const int64_t split_row = int64_t{work.split} * args.batch.tokens + work.token;
  for (int i = threadIdx.x; i < work.rows * quads; i += kDecodeThreads) {
    const int row = i / quads, column = i % quads * 4, head = work.first_head + row;
    float top = tops[row];
#pragma unroll
    for (int w = 1; w < kDecodeWarps; ++w) top = fmaxf(top, tops[w * kDecodeGroupRows + row]);
    float sum = 0;
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float weight = Exp2((tops[w * kDecodeGroupRows + row] - top) * scale_log2);
      const float4 part =
          *reinterpret_cast<const float4*>(out + (w * kDecodeGroupRows + row) * kDim + column);
      sum = fmaf(weight, sums[w * kDecodeGroupRows + row], sum);
      total.x = fmaf(weight, part.x, total.x), total.y = fmaf(weight, part.y, total.y);
      total.z = fmaf(weight, part.z, total.z), total.w = fmaf(weight, part.w, total.w);
    }
    if (args.out != nullptr && grid.splits == 1) {
      const float inverse = 1.0f / sum;
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(args.out) +
                                work.token * args.out_stride + head * head_dim + column) =
          make_uint2(PackBf16(total.x * inverse, total.y * inverse),
                     PackBf16(total.z * inverse, total.w * inverse));
      continue;
    }
    const int64_t at = split_row * args.heads + head;
    *reinterpret_cast<float4*>(args.splits.o + at * head_dim + column) = total;
    if (column == 0) {
      args.splits.m[at] = top * args.scale;
      args.splits.l[at] = sum;
    }
  }
}

// The result of a split without context.
__device__ inline void WriteNothing(const DecodeAttentionArgs& args, const DecodeGrid& grid,
                                    const DecodeWork& work) {
  if (args.out != nullptr && grid.splits == 1) {
    const int words = work.rows * args.cache.head_dim / 2;
    auto* to = reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(args.out) +
                                           work.token * args.out_stride +
                                           work.first_head * args.cache.head_dim);
    for (int i = threadIdx.x; i < words; i += kDecodeThreads) to[i] = 0;
    return;
  }
  const int64_t at =
      (int64_t{work.split} * args.batch.tokens + work.token) * args.heads + work.first_head;
  for (int row = threadIdx.x; row < work.rows; row += kDecodeThreads) {
    args.splits.m[at + row] = -INFINITY;
    args.splits.l[at + row] = 0;
  }
}

// A block's share of the weights, in pieces of 16 KB.
__device__ inline void PrefetchShare(const DecodeAttentionArgs& args, const DecodeGrid& grid) {
  constexpr int64_t kPiece = 16 * 1024;
  const int64_t step = kPiece * grid.prefetch_blocks;
  // A lane a piece, so that blocks take turns over the range.
  for (int64_t i = threadIdx.x;; i += kDecodeThreads) {
    const int64_t at = i * step + kPiece * (static_cast<int>(blockIdx.x) - grid.work_blocks);
    if (at >= args.prefetch_bytes) return;
    const int64_t left = args.prefetch_bytes - at;
    BulkPrefetchToL2(static_cast<const uint8_t*>(args.prefetch) + at,
                     static_cast<uint32_t>(left < kPiece ? left : kPiece));
  }
}

template <int kDim>
__device__ __forceinline__ void WalkContext(const DecodeAttentionArgs& args, const DecodeWork& work,
                                            const DecodeTiles& tiles, uint8_t* shared,
                                            DecodeState<kDim>& state) {
  using Shared = DecodeShared<kDim>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
  uint8_t* ring = shared + Shared::kRing + warp * Shared::kStages * Shared::kStageBytes;
  const float scale_log2 = args.scale * 1.4426950408889634f;
  uint32_t q[kDim / 16][4];
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    LoadMatrix4(shared + Shared::kQ + lane % 16 * Shared::kRowBytes + step * 32 + lane / 16 * 16,
                q[step]);
  }
  int slot = 0, ahead_row = tiles.ahead_row;
  for (int i = 0; i < tiles.count; ++i) {
    uint8_t* stage = ring + slot * Shared::kStageBytes;
    CopyWait<Shared::kStages - 1>();
    __syncwarp();
    const int token = tiles.Token(i);
    if (work.position >= token && work.position < token + kDecodeTileTokens) {
      InsertNewToken<kDim>(shared, work.position - token, stage);
    }
    float scores[2][4];
    TileScores<kDim>(q, stage, work.end - token, scores);
    AttendTile<kDim>(state, scores, stage + kDecodeTileTokens * Shared::kRowBytes, scale_log2);
    __syncwarp();
    LoadTile<kDim>(args, i + Shared::kStages < tiles.count, ahead_row, stage);
    ahead_row = HistoryRow(args, work, tiles, i + Shared::kStages + 1);
    if (++slot == Shared::kStages) slot = 0;
  }
  CopyWait<0>();
}

template <int kDim>
__global__ void __launch_bounds__(kDecodeThreads, kDim <= 128 ? 2 : 1)
    DecodeKernel(const DecodeAttentionArgs args, const DecodeGrid grid) {
  using Shared = DecodeShared<kDim>;
  extern __shared__ __align__(16) uint8_t shared[];
  if (static_cast<int>(blockIdx.x) >= grid.work_blocks) {
    PrefetchShare(args, grid);
    return;
  }
  if (!args.history_ready_early) {
    GridDependencyWait();
    LaunchDependents();
  }
  const DecodeWork work = FindDecodeWork(args, grid);
  if (work.begin >= work.end) {
    if (args.history_ready_early) {
      GridDependencyWait();
      LaunchDependents();
    }
    WriteNothing(args, grid, work);
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  DecodeTiles tiles;
  tiles.first = work.begin / kDecodeTileTokens + warp;
  const int end_tile = (work.end + kDecodeTileTokens - 1) / kDecodeTileTokens;
  tiles.count = max(0, (end_tile - tiles.first + kDecodeWarps - 1) / kDecodeWarps);
  uint8_t* ring = shared + Shared::kRing + warp * Shared::kStages * Shared::kStageBytes;
  int first_rows[Shared::kStages];
#pragma unroll
  for (int i = 0; i < Shared::kStages; ++i) first_rows[i] = HistoryRow(args, work, tiles, i);
#pragma unroll
  for (int i = 0; i < Shared::kStages; ++i) {
    LoadTile<kDim>(args, i < tiles.count, first_rows[i], ring + i * Shared::kStageBytes);
  }
  tiles.ahead_row = HistoryRow(args, work, tiles, Shared::kStages);
  // Rows of no head, and columns past head_dim, are zeros; so are those of the new token.
  for (int i = threadIdx.x; i < (Shared::kTop - Shared::kQ) / 16; i += kDecodeThreads) {
    reinterpret_cast<uint4*>(shared + Shared::kQ)[i] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  const DecodeRows rows = {shared + Shared::kQ, Shared::kRowBytes,
                           reinterpret_cast<__nv_bfloat16*>(shared + Shared::kNewK),
                           reinterpret_cast<__nv_bfloat16*>(shared + Shared::kNewV),
                           reinterpret_cast<float*>(shared + Shared::kScratch)};
  PrepareRows<(kDim + 127) / 128>(args, work, rows);
  __syncthreads();

  DecodeState<kDim> state;
#pragma unroll
  for (int b = 0; b < kDim / 8; ++b) {
    state.out[b][0] = state.out[b][1] = state.out[b][2] = state.out[b][3] = 0;
  }
  WalkContext<kDim>(args, work, tiles, shared, state);
  __syncthreads();
  PublishState<kDim>(state, work.rows, shared);
  __syncthreads();
  WriteResult<kDim>(args, grid, work, shared);
}

template <int kDim>
absl::Status LaunchDecode(const DecodeAttentionArgs& args, const DecodeGrid& grid) {
  const LaunchShape shape = {dim3(grid.work_blocks + grid.prefetch_blocks), dim3(kDecodeThreads),
                             DecodeShared<kDim>::kTotal, args.stream, args.dependent};
  return Launch("decode_attention", shape, DecodeKernel<kDim>, args, grid);
}

}  // namespace conclave
