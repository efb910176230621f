// A block has up to sixteen (token, query head) rows of one sequence and kv head, and walks the
// cache in chunks of whole pages, at most 64 tokens: keys and values to shared memory as fp32;
// scores, a thread for a key and four rows, with the sixteen lanes of the CPU in registers; the
// running maximum, exponentials and sums page by page, a half-warp for a row; then the values, a
// thread for a dimension, token after token.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/exact/exact_attention.h"
#include "kernels/exact/exact_math.cuh"

namespace conclave {
namespace exact {
namespace {

constexpr int kRows = 16;
constexpr int kChunk = 64;  // tokens at most
constexpr int kThreads = 256;
constexpr int kDimensions = 128;  // of the value phase at once; two threads for each
constexpr int kLaneRows = kRows / 2;
static_assert(kThreads / kChunk * 4 == kRows && kThreads / 16 == kRows);
constexpr int kScoreStride = kChunk + 1;
constexpr int kKeyPad = 4;  // neighbouring keys in other banks
constexpr int kHeadDimMax = 256;

// Floats in shared memory.
struct AttendLayout {
  int width;  // head_dim rounded up to 16
  __host__ __device__ int keys() const { return kRows * width; }
  __host__ __device__ int values() const { return keys() + kChunk * (width + kKeyPad); }
  __host__ __device__ int scores() const { return values() + kChunk * width; }
  __host__ __device__ int weights() const { return scores() + kRows * kScoreStride; }
  __host__ __device__ int keep() const { return weights() + kChunk * kRows; }
  __host__ __device__ int sums() const { return keep() + kChunk * kRows; }
  __host__ __device__ int total() const { return sums() + kRows; }
};

// Whole pages of a sequence, the last of them perhaps in part.
struct Chunk {
  int first = 0;  // position of its first token
  int count = 0;  // tokens
  int page_tokens = 0;
};

// What the phases of a block share.
struct Attend {
  float* q;        // [kRows][width]
  float* keys;     // [kChunk][width + kKeyPad]
  float* values;   // [kChunk][width]
  float* scores;   // [kRows][kScoreStride]
  float* weights;  // [kChunk][kRows]
  float* keep;     // [pages of a chunk][kRows]
  float* sums;     // [kRows]
  int width;
  int rows;   // of this block
  int group;  // query heads of a kv head
  int kv_head;
  int row;       // the block's first, token * group + query head of the group
  int position;  // of token 0 of the batch in this sequence's count
  const int32_t* pages;

  __device__ int Token(int r) const { return (row + r) / group; }
  __device__ int Head(int r) const { return kv_head * group + (row + r) % group; }
  // Tokens of a chunk that row r sees.
  __device__ int Visible(int r, const Chunk& chunk) const {
    return r < rows ? min(max(position + Token(r) + 1 - chunk.first, 0), chunk.count) : 0;
  }
};

__device__ __forceinline__ float4 Load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
template <typename T>
__device__ __forceinline__ float4 Load4(const T* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const auto widen = [](uint32_t half) { return Widen(T{static_cast<uint16_t>(half)}); };
  return make_float4(widen(bits.x & 0xffffu), widen(bits.x >> 16), widen(bits.y & 0xffffu),
                     widen(bits.y >> 16));
}

__device__ void LoadQueries(const ExactAttentionArgs& a, const Attend& s) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * s.width; i += kThreads) {
    const int r = i / s.width, d = i % s.width;
    const bool inside = r < s.rows && d < a.cache.head_dim;
    s.q[i] = inside ? a.q.data[s.Token(r) * a.q.stride + s.Head(r) * a.cache.head_dim + d] : 0.0f;
  }
}

// Where keys of (token, dimension) stand; values cache.kv_heads * head_size further.
template <typename T>
__device__ __forceinline__ const T* KeyPlace(const KvLayer& cache, const Attend& s, int token,
                                             int d) {
  const int64_t head_size = static_cast<int64_t>(cache.page_tokens) * cache.head_dim;
  const int64_t page = s.pages[token / cache.page_tokens];
  return static_cast<const T*>(cache.data) + (page * 2 * cache.kv_heads + s.kv_head) * head_size +
         token % cache.page_tokens * cache.head_dim + d;
}

// The keys and values of a chunk, zeros behind head_dim. Eight loads are under way in each thread:
// a block waits for memory once or twice a chunk.
template <typename T>
__device__ void LoadChunk(const KvLayer& cache, const Attend& s, const Chunk& chunk) {
  constexpr int kAtOnce = 4;
  const int quads = s.width / 4, all = chunk.count * quads;
  const int64_t value_offset =
      static_cast<int64_t>(cache.kv_heads) * cache.page_tokens * cache.head_dim;
  for (int base = static_cast<int>(threadIdx.x); base < all; base += kAtOnce * kThreads) {
    float4 keys[kAtOnce], values[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = base + j * kThreads, d = i % quads * 4;
      keys[j] = values[j] = make_float4(0, 0, 0, 0);
      if (i >= all || d >= cache.head_dim) continue;
      const T* from = KeyPlace<T>(cache, s, chunk.first + i / quads, d);
      keys[j] = Load4(from);
      values[j] = Load4(from + value_offset);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = base + j * kThreads, t = i / quads, d = i % quads * 4;
      if (i >= all) break;
      *reinterpret_cast<float4*>(s.keys + t * (s.width + kKeyPad) + d) = keys[j];
      *reinterpret_cast<float4*>(s.values + t * s.width + d) = values[j];
    }
  }
}

// Brings the chunk of `count` tokens from `first` on to L2, while the one before is at work.
template <typename T>
__device__ void PrefetchChunk(const KvLayer& cache, const Attend& s, int first, int count) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  const int lines = (cache.head_dim + kLine - 1) / kLine;
  const int64_t value_offset =
      static_cast<int64_t>(cache.kv_heads) * cache.page_tokens * cache.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < count * lines; i += kThreads) {
    const T* from = KeyPlace<T>(cache, s, first + i / lines, i % lines * kLine);
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + value_offset));
  }
}

template <int kStep>
__device__ __forceinline__ void FoldLanes(float (&lanes)[16]) {
#pragma unroll
  for (int l = 0; l < kStep; ++l) lanes[l] = __fadd_rn(lanes[l], lanes[l + kStep]);
}

// Folds sixteen lanes: l with l + 8, then 4, 2, 1.
__device__ __forceinline__ float Fold16(float (&lanes)[16]) {
  FoldLanes<8>(lanes);
  FoldLanes<4>(lanes);
  FoldLanes<2>(lanes);
  FoldLanes<1>(lanes);
  return lanes[0];
}

__device__ __forceinline__ void AddLanes4(const float4& q, const float4& k, float* lanes) {
  lanes[0] = __fmaf_rn(q.x, k.x, lanes[0]);
  lanes[1] = __fmaf_rn(q.y, k.y, lanes[1]);
  lanes[2] = __fmaf_rn(q.z, k.z, lanes[2]);
  lanes[3] = __fmaf_rn(q.w, k.w, lanes[3]);
}

// scores[r][t] = scale * (q_r . key_t), four rows a thread.
__device__ void Scores(const Attend& s, int count, float scale) {
  const int t = static_cast<int>(threadIdx.x) % kChunk;
  const int r = static_cast<int>(threadIdx.x) / kChunk * 4;
  if (t >= count || r >= s.rows) return;
  const float* key = s.keys + t * (s.width + kKeyPad);
  const float* q = s.q + r * s.width;
  float lanes[4][16];
#pragma unroll
  for (int i = 0; i < 64; ++i) lanes[i / 16][i % 16] = 0.0f;
  for (int d = 0; d < s.width; d += 16) {
#pragma unroll
    for (int l = 0; l < 16; l += 4) {
      const float4 k = Load4(key + d + l);
#pragma unroll
      for (int i = 0; i < 4; ++i) AddLanes4(Load4(q + i * s.width + d + l), k, lanes[i] + l);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    s.scores[(r + i) * kScoreStride + t] = __fmul_rn(Fold16(lanes[i]), scale);
  }
}

// The online softmax of a row, in the registers of its half-warp.
struct RowState {
  float max = kLowest;
  float sum = 0.0f;
};

// The pages of a chunk for row r. The whole warp calls.
__device__ void SoftmaxRow(const Attend& s, const Chunk& chunk, int r, RowState& state) {
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const int visible = s.Visible(r, chunk);
  for (int begin = 0, page = 0; begin < chunk.count; begin += chunk.page_tokens, ++page) {
    const float* scores = s.scores + r * kScoreStride + begin;
    const int tokens = min(visible - begin, chunk.page_tokens);  // may be none
    float max = kLowest;
    for (int t = lane; t < tokens; t += 16) max = max < scores[t] ? scores[t] : max;
    max = MaxOfLanes16(max);
    max = state.max < max ? max : state.max;
    float sum = 0.0f;
    for (int t = lane; t < tokens; t += 16) {
      const float e = FastExp(__fsub_rn(scores[t], max));
      s.weights[(begin + t) * kRows + r] = e;
      sum = __fadd_rn(sum, e);
    }
    sum = SumOfLanes16(sum);
    if (tokens <= 0) continue;
    const float keep = FastExp(__fsub_rn(state.max, max));
    if (lane == 0) s.keep[page * kRows + r] = keep;
    state.sum = __fadd_rn(__fmul_rn(state.sum, keep), sum);
    state.max = max;
  }
}

// One dimension of half of the rows: i is row first + i % 4 + i / 4 * 8, so that few rows are
// shared evenly.
struct DimensionSums {
  int d = 0;
  int first = 0;  // 0 or 4
  float acc[kLaneRows] = {};

  __device__ int Row(int i) const { return first + i % 4 + i / 4 * 8; }
};

// acc := acc * keep, then + weight * value token after token, over the pages of a chunk. Rows see
// `visible` tokens; all of them when kAll.
template <bool kAll>
__device__ __forceinline__ void AddPages(const Attend& s, const Chunk& chunk,
                                         const int (&visible)[kLaneRows], DimensionSums& sums) {
  float(&acc)[kLaneRows] = sums.acc;
  for (int begin = 0, page = 0; begin < chunk.count; begin += chunk.page_tokens, ++page) {
    const int end = min(begin + chunk.page_tokens, chunk.count);
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      if (sums.Row(i) < s.rows && (kAll || begin < visible[i])) {
        acc[i] = __fmul_rn(acc[i], s.keep[page * kRows + sums.Row(i)]);
      }
    }
#pragma unroll 8
    for (int t = begin; t < end; ++t) {
      const float value = s.values[t * s.width + sums.d];
#pragma unroll
      for (int i = 0; i < kLaneRows; i += 4) {
        if (sums.Row(i) >= s.rows) break;
        const float4 w = Load4(s.weights + t * kRows + sums.Row(i));
        if (kAll || t < visible[i]) acc[i] = __fmaf_rn(w.x, value, acc[i]);
        if (kAll || t < visible[i + 1]) acc[i + 1] = __fmaf_rn(w.y, value, acc[i + 1]);
        if (kAll || t < visible[i + 2]) acc[i + 2] = __fmaf_rn(w.z, value, acc[i + 2]);
        if (kAll || t < visible[i + 3]) acc[i + 3] = __fmaf_rn(w.w, value, acc[i + 3]);
      }
    }
  }
}

__device__ __forceinline__ void AddValues(const Attend& s, const Chunk& chunk,
                                          DimensionSums& sums) {
  if (sums.d >= s.width || sums.first >= s.rows) return;
  int visible[kLaneRows];
#pragma unroll
  for (int i = 0; i < kLaneRows; ++i) visible[i] = s.Visible(sums.Row(i), chunk);
  // Rows ascend by token: what the first sees, all see.
  if (visible[0] == chunk.count) {
    AddPages<true>(s, chunk, visible, sums);
  } else {
    AddPages<false>(s, chunk, visible, sums);
  }
}

__device__ Attend MakeAttend(const ExactAttentionArgs& a, const RowBlock& block, float* shared) {
  const AttendLayout layout = {(a.cache.head_dim + 15) / 16 * 16};
  Attend s;
  s.q = shared;
  s.keys = shared + layout.keys();
  s.values = shared + layout.values();
  s.scores = shared + layout.scores();
  s.weights = shared + layout.weights();
  s.keep = shared + layout.keep();
  s.sums = shared + layout.sums();
  s.width = layout.width;
  s.rows = block.count;
  s.group = a.heads / a.cache.kv_heads;
  s.kv_head = static_cast<int>(blockIdx.y);
  s.row = block.first;
  s.position = a.batch.position[block.owner] - a.batch.first_token[block.owner];
  s.pages = a.batch.page_table + a.batch.first_page[block.owner];
  return s;
}

// kParts: dimensions of a thread.
template <typename T, int kParts>
__global__ void __launch_bounds__(kThreads) AttentionKernel(const ExactAttentionArgs a) {
  extern __shared__ __align__(16) float shared[];
  const RowBlock block =
      FindRowBlock(a.batch.first_token, a.batch.sequences, a.heads / a.cache.kv_heads, kRows,
                   static_cast<int>(blockIdx.x));
  if (block.count == 0) return;
  const Attend s = MakeAttend(a, block, shared);
  LoadQueries(a, s);

  const int thread = static_cast<int>(threadIdx.x);
  Chunk chunk;
  chunk.page_tokens = a.cache.page_tokens;
  const int step = max(kChunk / chunk.page_tokens, 1) * chunk.page_tokens;
  const int end = s.position + s.Token(s.rows - 1) + 1;
  RowState state;  // of row thread / 16
  DimensionSums sums[kParts];
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    sums[p].d = thread % kDimensions + p * kDimensions;
    sums[p].first = thread / kDimensions * 4;
  }
  for (; chunk.first < end; chunk.first += step) {
    chunk.count = min(step, end - chunk.first);
    LoadChunk<T>(a.cache, s, chunk);
    const int next = chunk.first + step;
    if (next < end) PrefetchChunk<T>(a.cache, s, next, min(step, end - next));
    __syncthreads();
    Scores(s, chunk.count, a.scale);
    __syncthreads();
    SoftmaxRow(s, chunk, thread / 16, state);
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kParts; ++p) AddValues(s, chunk, sums[p]);
    __syncthreads();  // the chunk's memory is free
  }
  if (thread % 16 == 0) s.sums[thread / 16] = state.sum;
  __syncthreads();
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    if (sums[p].d >= a.cache.head_dim) continue;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      const int r = sums[p].Row(i);
      if (r >= s.rows) break;
      a.out.data[s.Token(r) * a.out.stride + s.Head(r) * a.cache.head_dim + sums[p].d] =
          __fdiv_rn(sums[p].acc[i], s.sums[r]);
    }
  }
}

template <typename T>
absl::Status LaunchAttention(const ExactAttentionArgs& args, CudaStream stream) {
  const int64_t rows = static_cast<int64_t>(args.batch.tokens) * (args.heads / args.cache.kv_heads);
  const AttendLayout layout = {(args.cache.head_dim + 15) / 16 * 16};
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>(rows / kRows + std::min(args.batch.sequences, args.batch.tokens)),
           static_cast<unsigned>(args.cache.kv_heads));
  shape.block = dim3(kThreads);
  shape.shared_bytes = layout.total() * static_cast<int>(sizeof(float));
  shape.stream = stream;
  if (layout.width <= kDimensions) {
    return Launch("exact attention", shape, AttentionKernel<T, 1>, args);
  }
  return Launch("exact attention", shape, AttentionKernel<T, 2>, args);
}

}  // namespace
}  // namespace exact

absl::Status ExactPagedAttention(const ExactAttentionArgs& args, CudaStream stream) {
  const KvLayer& cache = args.cache;
  const bool shape_ok = cache.kv_heads > 0 && cache.kv_heads <= 65535 && args.heads > 0 &&
                        args.heads % cache.kv_heads == 0 && cache.head_dim > 0 &&
                        cache.head_dim % 4 == 0 && cache.head_dim <= exact::kHeadDimMax &&
                        cache.page_tokens > 0 && cache.page_tokens <= exact::kChunk;
  if (!shape_ok || args.q.cols != static_cast<int64_t>(args.heads) * cache.head_dim ||
      args.out.cols != args.q.cols) {
    return absl::InvalidArgumentError(absl::StrCat(
        "exact attention: ", args.heads, " heads on ", cache.kv_heads, " of ", cache.head_dim,
        ", pages of ", cache.page_tokens, ", rows of ", args.q.cols, " and ", args.out.cols));
  }
  if (args.batch.tokens <= 0) return absl::OkStatus();
  switch (cache.dtype) {
    case Dtype::kF32:
      return exact::LaunchAttention<float>(args, stream);
    case Dtype::kF16:
      return exact::LaunchAttention<exact::F16>(args, stream);
    case Dtype::kBf16:
      return exact::LaunchAttention<exact::Bf16>(args, stream);
    default:
      return absl::InvalidArgumentError("exact attention: a KV cache is f32, f16 or bf16");
  }
}

}  // namespace conclave
