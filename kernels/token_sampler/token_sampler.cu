#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/token_sampler/sampler_launch.h"
#include "kernels/token_sampler/sampler_row.cuh"
#include "kernels/token_sampler/token_sampler.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kQuads = kScanValues / kThreads / 4;
constexpr uint32_t kAll = 0xffffffffu;

// The larger logit, of equal ones the lower token.
__device__ __forceinline__ void TakeBest(float& max, int& token, float other_max, int other_token) {
  if (other_max > max || (other_max == max && other_token < token)) {
    max = other_max;
    token = other_token;
  }
}
__device__ __forceinline__ void WarpBest(float& max, int& token) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other_max = __shfl_xor_sync(kAll, max, offset);
    const int other_token = __shfl_xor_sync(kAll, token, offset);
    TakeBest(max, token, other_max, other_token);
  }
}

// A thread's values of the row, -inf past its end, which no clean logit is.
__device__ __forceinline__ void LoadValues(const TokenSamplerArgs& args, int row,
                                           float (&x)[kQuads * 4]) {
  const float* logits = args.logits + row * args.logits_stride;
#pragma unroll
  for (int j = 0; j < kQuads; ++j) {
    const int first = blockIdx.x * kScanValues + (j * kThreads + threadIdx.x) * 4;
    float4 v = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    if (first + 3 < args.vocab) {
      v = __ldcg(reinterpret_cast<const float4*>(logits + first));
      v = {CleanLogit(v.x), CleanLogit(v.y), CleanLogit(v.z), CleanLogit(v.w)};
    } else {
      if (first < args.vocab) v.x = CleanLogit(__ldcg(logits + first));
      if (first + 1 < args.vocab) v.y = CleanLogit(__ldcg(logits + first + 1));
      if (first + 2 < args.vocab) v.z = CleanLogit(__ldcg(logits + first + 2));
    }
    x[j * 4] = v.x;
    x[j * 4 + 1] = v.y;
    x[j * 4 + 2] = v.z;
    x[j * 4 + 3] = v.w;
  }
}

// By one warp, once all parts of a row are there.
__device__ __forceinline__ void FinishRow(const TokenSamplerArgs& args, int row) {
  const SamplerScratch scratch = ScratchOf(args);
  const int lane = threadIdx.x;
  float max = -INFINITY;
  int token = 0x7fffffff;
  ScanPart parts[kScanBlocksMax / 32];
#pragma unroll
  for (int j = 0; j < kScanBlocksMax / 32; ++j) {
    const int p = j * 32 + lane;
    parts[j] = {-INFINITY, 0, 0, 0};
    if (p >= gridDim.x) continue;
    const float4 raw =
        __ldcg(reinterpret_cast<const float4*>(scratch.parts + row * kScanBlocksMax + p));
    parts[j] = {raw.x, raw.y, __float_as_int(raw.z), 0};
    TakeBest(max, token, parts[j].max, parts[j].token);
  }
  WarpBest(max, token);
  double sum = 0;
#pragma unroll
  for (int j = 0; j < kScanBlocksMax / 32; ++j) {
    sum += static_cast<double>(parts[j].sum) * expf(parts[j].max - max);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  if (lane != 0) return;
  const RowState state = {max, static_cast<float>(log(sum))};
  scratch.states[row] = state;
  if (!(args.temperature[row] >= kGreedyBelow)) WriteSample(args, row, token, max, state);
}

// Block (x, y) reads part x of row y; the last of a row ends it.
__global__ void __launch_bounds__(kThreads)
    ScanRows(const __grid_constant__ TokenSamplerArgs args) {
  __shared__ float warp_max[kWarps], warp_sum[kWarps];
  __shared__ int warp_token[kWarps];
  __shared__ bool last;
  const int row = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  GridDependencyWait();
  LaunchDependents();
  float x[kQuads * 4];
  LoadValues(args, row, x);
  float max = -INFINITY;
  int token = 0x7fffffff;
#pragma unroll
  for (int i = 0; i < kQuads * 4; ++i) {
    const int id = blockIdx.x * kScanValues + (i / 4 * kThreads + threadIdx.x) * 4 + i % 4;
    TakeBest(max, token, x[i], id);
  }
  WarpBest(max, token);
  if (lane == 0) {
    warp_max[warp] = max;
    warp_token[warp] = token;
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) TakeBest(max, token, warp_max[w], warp_token[w]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kQuads * 4; ++i) sum += expf(x[i] - max);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  if (lane == 0) warp_sum[warp] = sum;
  __syncthreads();
  const SamplerScratch scratch = ScratchOf(args);
  if (threadIdx.x == 0) {
    sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += warp_sum[w];
    *reinterpret_cast<float4*>(scratch.parts + row * kScanBlocksMax + blockIdx.x) = {
        max, sum, __int_as_float(token), 0};
    __threadfence();  // the part, before its arrival
    last = atomicAdd(scratch.arrivals + row, 1) == gridDim.x - 1;
    if (last) scratch.arrivals[row] = 0;
    __threadfence();  // the other parts, after theirs
  }
  __syncthreads();
  if (last && warp == 0) FinishRow(args, row);
}

}  // namespace

int64_t TokenSamplerScratchBytes(int32_t scratch_rows) {
  const int64_t padded = (int64_t{scratch_rows} + 3) / 4 * 4;
  return padded * 12 + padded * kScanBlocksMax * static_cast<int64_t>(sizeof(ScanPart));
}

absl::Status TokenSampler(const TokenSamplerArgs& args, CudaStream stream, bool dependent) {
  if (args.rows < 0 || args.rows > 65535 || args.vocab <= 0 || args.vocab > kSamplerVocabMax ||
      args.logits_stride < args.vocab || args.logits_stride % 4 != 0 ||
      args.scratch_rows < args.rows) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sampling ", args.rows, " rows of ", args.vocab, " logits with stride ", args.logits_stride,
        ": up to ", kSamplerVocabMax, " logits, strides in fours, scratch for as many rows"));
  }
  if (args.rows == 0) return absl::OkStatus();
  const LaunchShape shape = {.grid = dim3((args.vocab + kScanValues - 1) / kScanValues, args.rows),
                             .block = dim3(kThreads),
                             .stream = stream,
                             .dependent = dependent};
  const absl::Status scanned = Launch("sampler scan", shape, ScanRows, args);
  if (!scanned.ok() || args.all_greedy) return scanned;
  if (args.vocab <= 4 * kDrawQuadValues) return LaunchDraw4(args, stream, dependent);
  if (args.vocab <= 10 * kDrawQuadValues) return LaunchDraw10(args, stream, dependent);
  static_assert(kSamplerVocabMax <= 16 * kDrawQuadValues);
  return LaunchDraw16(args, stream, dependent);
}

}  // namespace conclave
