// What comes before the product: the expert table into shared memory, and the activations of a
// block's part of K into rows of bf16. All threads of the block call; the caller synchronises
// after. Loads go past L1, which may hold what an earlier kernel left. Device code only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/sbi_gemm/sbi_work.cuh"

namespace conclave {

__device__ __forceinline__ float4 LoadFloat4(const float* p) {
  return __ldcg(reinterpret_cast<const float4*>(p));
}
__device__ __forceinline__ void AddScaled(float4& sum, float scale, const float4& v) {
  sum.x = fmaf(scale, v.x, sum.x);
  sum.y = fmaf(scale, v.y, sum.y);
  sum.z = fmaf(scale, v.z, sum.z);
  sum.w = fmaf(scale, v.w, sum.w);
}

// `bytes` (0 to 16) of 16, the rest zero.
__device__ __forceinline__ void AsyncCopy16(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void AsyncCommit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void AsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Copies 16 bytes of activations at input k of a row, zeros past `inputs`. The address stays in the
// row where nothing is read.
__device__ __forceinline__ void CopyChunk(void* to, const __nv_bfloat16* row, int k, int inputs) {
  const int bytes = min(max(2 * (inputs - k), 0), 16);
  AsyncCopy16(to, row + (bytes > 0 ? k : 0), bytes);
}

__device__ __forceinline__ const __nv_bfloat16* RowOf(const SbiRows& rows, int64_t row) {
  return static_cast<const __nv_bfloat16*>(rows.x) + row * rows.stride;
}

// Entries past the active ones may be whatever memory held: they are read, in order not to wait for
// the count first, and not used.
__device__ inline SbiSharedTable LoadTable(const SbiArgs& args, uint8_t* shared) {
  const SbiTable& table = args.table;
  const bool given = table.active_count != nullptr;
  const int entries = given ? args.tokens * table.top_k : args.tokens;
  const int active_max = given ? min(args.weights.matrices, entries) : 1;
  int* active = reinterpret_cast<int*>(shared);
  int* slot = active + 4;
  int* first = slot + active_max;
  int* count = first + active_max;
  int* order = count + active_max;
  for (int i = threadIdx.x; i < entries; i += kSbiThreads) {
    order[i] = given ? __ldcg(table.order + i) : i;
  }
  const int active_count = given ? min(__ldcg(table.active_count), active_max) : 1;
  for (int i = threadIdx.x; i < active_max; i += kSbiThreads) {
    const int s = given ? __ldcg(table.active_slot + i) : 0;
    const bool valid = given && i < active_count;
    const int begin = valid ? __ldcg(table.slot_first + s) : 0;
    slot[i] = i < active_count ? s : 0;
    first[i] = begin;
    count[i] = valid ? __ldcg(table.slot_first + s + 1) - begin : (given ? 0 : args.tokens);
  }
  if (threadIdx.x == 0) *active = active_count;
  return {.active = active, .slot = slot, .first = first, .count = count, .order = order};
}

// Row of the activations that serves an entry.
__device__ __forceinline__ int SourceRow(const SbiArgs& args, int entry) {
  return args.kind == SbiKind::kGateUp ? entry / args.table.top_k : entry;
}

// kRows, all of the block's inputs: rows of tokens, or of kDown rows of the block's entries.
__device__ inline void StageRows(const SbiLaunch& launch, const SbiWork& work, uint8_t* rows) {
  const SbiArgs& args = launch.args;
  const int chunks = work.block_tiles * 8;
  const int k_first = work.block_tile * kTileInputs;
  const int row_bytes = launch.config.row_bytes;
  if (args.kind != SbiKind::kDown) {
    for (int i = threadIdx.x; i < args.tokens * chunks; i += kSbiThreads) {
      const int row = i / chunks, chunk = i % chunks;
      CopyChunk(rows + row * row_bytes + chunk * 16, RowOf(args.rows, row), k_first + chunk * 8,
                args.weights.inputs);
    }
  } else if (work.item_first < work.item_end) {
    const int last = (work.item_end - 1) / work.row_groups;
    for (int a = work.item_first / work.row_groups; a <= last; ++a) {
      for (int i = threadIdx.x; i < work.table.count[a] * chunks; i += kSbiThreads) {
        const int entry = work.table.order[work.table.first[a] + i / chunks];
        const int chunk = i % chunks;
        CopyChunk(rows + entry * row_bytes + chunk * 16, RowOf(args.rows, entry),
                  k_first + chunk * 8, args.weights.inputs);
      }
    }
  }
  AsyncCommit();
  AsyncWait<0>();
}

// Four activations at input k of a staged row, if the block multiplies them.
__device__ __forceinline__ void StoreFour(const SbiWork& work, uint8_t* row, int k,
                                          const float4& v) {
  const int offset = k - work.block_tile * kTileInputs;
  if (offset < 0 || offset >= work.block_tiles * kTileInputs) return;
  *reinterpret_cast<uint2*>(row + offset * 2) = {PackBf16(v.x, v.y), PackBf16(v.z, v.w)};
}

// Zeros from `inputs` to the end of the last tile.
__device__ inline void ZeroTail(const SbiLaunch& launch, const SbiWork& work, uint8_t* rows) {
  const int end = launch.args.weights.input_tiles() * kTileInputs;
  const int quads = (end - launch.args.weights.inputs) / 4;
  for (int i = threadIdx.x; i < quads * launch.args.tokens; i += kSbiThreads) {
    StoreFour(work, rows + i / quads * launch.config.row_bytes,
              launch.args.weights.inputs + i % quads * 4, {0, 0, 0, 0});
  }
}

// The quads of a row that a thread has: first, first + step, ... below end.
struct SbiQuads {
  int first, step, end;
};

// residual_in + pending at a thread's quads of a token.
template <int kQuads, int kUnroll>
__device__ __forceinline__ void LoadResidual(const SbiNorm& norm, int token, const SbiQuads& quads,
                                             float4 (&v)[kQuads]) {
  const int64_t inputs = int64_t{quads.end} * 4;
#pragma unroll
  for (int c = 0; c < kQuads; ++c) {
    const int q = quads.first + c * quads.step;
    v[c] = q < quads.end ? LoadFloat4(norm.residual_in + token * inputs + q * 4)
                         : make_float4(0, 0, 0, 0);
  }
  const bool gated = norm.gate_weights != nullptr;
  const float* slab =
      norm.partials + (gated ? int64_t{token} * norm.pending : token) * norm.row_stride;
  const int64_t stride = gated ? norm.row_stride : norm.slab_stride;
#pragma unroll kUnroll
  for (int p = 0; p < norm.pending; ++p) {
    const float scale = gated ? __ldcg(norm.gate_weights + token * norm.pending + p) : 1.0f;
#pragma unroll
    for (int c = 0; c < kQuads; ++c) {
      const int q = quads.first + c * quads.step;
      if (q < quads.end) AddScaled(v[c], scale, LoadFloat4(slab + p * stride + q * 4));
    }
  }
}

// `group_threads` threads norm a token; a thread holds kQuads * 4 of its inputs.
template <int kQuads, int kUnroll>
__device__ void StageNormed(const SbiLaunch& launch, const SbiWork& work, uint8_t* rows,
                            float* scratch, int group_threads) {
  const SbiNorm& norm = launch.args.norm;
  const int tokens = launch.args.tokens, quads = launch.args.weights.inputs / 4;
  const int groups = kSbiThreads / group_threads;
  const int group = threadIdx.x / group_threads, lane = threadIdx.x % group_threads;
  for (int round = 0; round < tokens; round += groups) {
    const int token = round + group;
    float4 v[kQuads];
    float squares = 0;
    if (token < tokens) {
      LoadResidual<kQuads, kUnroll>(norm, token, {lane, group_threads, quads}, v);
#pragma unroll
      for (int c = 0; c < kQuads; ++c) {
        const int q = lane + c * group_threads;
        squares += v[c].x * v[c].x + v[c].y * v[c].y + v[c].z * v[c].z + v[c].w * v[c].w;
        // Blocks share the write: runs of 32 quads in turn.
        if (q < quads && (token * quads + q) / 32 % gridDim.x == blockIdx.x) {
          reinterpret_cast<float4*>(norm.residual_out)[int64_t{token} * quads + q] = v[c];
        }
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(kAllLanes, squares, offset);
    }
    __syncthreads();  // the scratch of the round before is read
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = squares;
    __syncthreads();
    if (token >= tokens) continue;
    float sum = 0;
    for (int w = 0; w < group_threads / 32; ++w) sum += scratch[group * group_threads / 32 + w];
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(quads * 4) + norm.epsilon);
#pragma unroll
    for (int c = 0; c < kQuads; ++c) {
      const int q = lane + c * group_threads;
      if (q >= quads) continue;
      const float4 w = LoadFloat4(norm.norm_weight + q * 4);
      StoreFour(
          work, rows + token * launch.config.row_bytes, q * 4,
          {v[c].x * scale * w.x, v[c].y * scale * w.y, v[c].z * scale * w.z, v[c].w * scale * w.w});
    }
  }
}

__device__ inline void StageNorm(const SbiLaunch& launch, const SbiWork& work, uint8_t* rows,
                                 float* scratch) {
  const int quads = launch.args.weights.inputs / 4;
  if (quads <= 2 * kSbiThreads && launch.args.tokens == 1) {
    StageNormed<2, 8>(launch, work, rows, scratch, kSbiThreads);
    return;
  }
  int group_threads = 32;  // as many tokens at once as registers hold
  while (group_threads < kSbiThreads &&
         (quads > 8 * group_threads || launch.args.tokens * group_threads < kSbiThreads)) {
    group_threads *= 2;
  }
  StageNormed<8, 1>(launch, work, rows, scratch, group_threads);
}

__device__ inline void StageAttention(const SbiLaunch& launch, const SbiWork& work, uint8_t* rows) {
  const SbiAttention& attention = launch.args.attention;
  const int tokens = launch.args.tokens, inputs = launch.args.weights.inputs;
  const int k_first = work.block_tile * kTileInputs;
  const int quads = (min(inputs, k_first + work.block_tiles * kTileInputs) - k_first) / 4;
  const int head_inputs = inputs / attention.heads;
  for (int i = threadIdx.x; i < tokens * quads; i += kSbiThreads) {
    const int token = i / quads, k = k_first + i % quads * 4;
    const int head = k / head_inputs;
    float4 sum = make_float4(0, 0, 0, 0);
    float largest = -INFINITY, weight = 0;
#pragma unroll 4
    for (int s = 0; s < attention.splits; ++s) {
      const int64_t row = int64_t{s} * tokens + token;
      const float l = __ldcg(attention.l + row * attention.heads + head);
      const float m = __ldcg(attention.m + row * attention.heads + head);
      const float4 o = LoadFloat4(attention.o + row * inputs + k);
      if (l == 0) continue;
      const float top = fmaxf(largest, m);
      const float before = __expf(largest - top), now = __expf(m - top);
      sum = make_float4(sum.x * before, sum.y * before, sum.z * before, sum.w * before);
      AddScaled(sum, now, o);
      weight = weight * before + now * l;
      largest = top;
    }
    const float scale = weight > 0 ? 1 / weight : 0;
    StoreFour(work, rows + token * launch.config.row_bytes, k,
              {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale});
  }
}

}  // namespace conclave
