// Many rows: a block has 128 outputs by 128 rows, a thread 8 by 8 of them in registers, and walks
// the inputs in order, sixteen at a time through two buffers in shared memory. At the end of a
// slice its sums meet those of finished neighbours in the fixed tree (a binary counter, so three
// levels in local memory suffice) and the accumulators start anew. A thread's outputs are four rows
// of a weight tile and the four that lie eight further, so that a gate has its up beside it.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/exact/exact_math.cuh"
#include "kernels/exact/exact_product.h"

namespace conclave {
namespace exact {
namespace {

constexpr int kOutputs = 128;
constexpr int kRows = 128;
constexpr int kInputs = 16;  // of a step
constexpr int kThreads = 256;
constexpr int kLevels = 3;

struct Buffers {
  float w[2][kInputs][kOutputs];  // column: output ^ 16 for inputs 8..15
  float x[2][kInputs][kRows];     // column: row ^ (8 * (input / 4))
};

// Where the walk over slices and steps is.
struct Walk {
  int slice = 0;
  int begin = 0, end = 0;  // inputs of the slice
  int step = 0;            // first input of the step, a multiple of kInputs

  __device__ void Enter(int next, int inputs, int slices) {
    slice = next;
    begin = static_cast<int>(static_cast<int64_t>(next) * inputs / slices);
    end = static_cast<int>(static_cast<int64_t>(next + 1) * inputs / slices);
    step = begin / kInputs * kInputs;
  }
  __device__ bool EndsSlice() const { return step + kInputs >= end; }
  __device__ void Advance(int inputs, int slices) {
    if (EndsSlice()) {
      Enter(slice + 1, inputs, slices);
    } else {
      step += kInputs;
    }
  }
};

// A thread's share of what a step reads: eight inputs of one output, and four inputs of two rows.
template <typename W>
class StepLoader {
 public:
  __device__ StepLoader(const ExactProduct& a, const RowBlock& block, int output_block)
      : inputs_(a.weights.inputs), aligned_(a.x_aligned) {
    const int thread = static_cast<int>(threadIdx.x);
    output_ = thread / 2;
    half_ = thread % 2;
    const int tile = output_block * (kOutputs / kTileOutputs) + output_ / kTileOutputs;
    if (tile < a.weights.output_tiles()) {
      weights_ = reinterpret_cast<const W*>(static_cast<const uint8_t*>(a.weights.data) +
                                            block.owner * a.weights.matrix_bytes) +
                 static_cast<int64_t>(tile) * a.weights.input_tiles() * kTileElements;
    }
    quad_ = thread % 4;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      row_[j] = thread / 4 + j * (kRows / 2);
      x_[j] = nullptr;
      if (row_[j] >= block.count) continue;
      const int place = block.first + row_[j];
      const int entry = a.slot_first == nullptr ? place : a.order[place];
      x_[j] = a.x + (a.row_of_entry == nullptr ? entry : a.row_of_entry[entry]) * a.x_stride;
    }
  }

  __device__ __forceinline__ void Load(int step) {
    const int input = step + half_ * 8;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) w_[c] = make_uint4(0, 0, 0, 0);
    if (weights_ != nullptr) {
      const W* tile = weights_ + input / kTileInputs * kTileElements;
      const int row = output_ % kTileOutputs, chunk = input % kTileInputs / 8;
      const int place = sizeof(W) == 2 ? chunk ^ (row % 8) : chunk;
      const auto* from = reinterpret_cast<const uint4*>(tile + row * kTileInputs + place * 8);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) w_[c] = __ldg(from + c);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) LoadX(step + quad_ * 4, x_[j], x_values_[j]);
  }

  __device__ __forceinline__ void Store(Buffers& shared, int buffer) const {
    float w[8];
    WidenChunk(static_cast<const W*>(nullptr), w_, w);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      shared.w[buffer][half_ * 8 + e][output_ ^ (half_ * 16)] = w[e];
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        shared.x[buffer][quad_ * 4 + e][row_[j] ^ (quad_ * 8)] = x_values_[j][e];
      }
    }
  }

 private:
  static constexpr int kChunks = static_cast<int>(sizeof(W)) / 2;

  __device__ __forceinline__ void LoadX(int input, const float* row, float (&to)[4]) const {
    if (row != nullptr && aligned_ && input + 4 <= inputs_) {
      const float4 values = __ldg(reinterpret_cast<const float4*>(row + input));
      to[0] = values.x, to[1] = values.y, to[2] = values.z, to[3] = values.w;
      return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      to[e] = row != nullptr && input + e < inputs_ ? __ldg(row + input + e) : 0.0f;
    }
  }

  const int inputs_;
  const bool aligned_;
  int output_, half_, quad_;
  int row_[2];
  const W* weights_ = nullptr;
  const float* x_[2];
  uint4 w_[kChunks];
  float x_values_[2][4];
};

// The 8 x 8 sums of a thread: outputs output + {0..3, 8..11}, rows row + {0..3, 64..67}.
struct Sums {
  int output = 0, row = 0;
  float acc[8][8];

  __device__ Sums() {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int y = warp / 2 * 4 + lane / 8;
    output = y / 2 * 16 + y % 2 * 4;
    row = (warp % 2 * 8 + lane % 8) * 4;
    Clear();
  }
  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) acc[i][j] = 0.0f;
    }
  }
  __device__ __forceinline__ void Add(const Buffers& shared, int buffer, int k) {
    float w[8], x[8];
    const float* from = shared.w[buffer][k];
    const int flip = k / 8 * 16, turn = k / 4 * 8;
    *reinterpret_cast<float4*>(w) = *reinterpret_cast<const float4*>(from + (output ^ flip));
    *reinterpret_cast<float4*>(w + 4) =
        *reinterpret_cast<const float4*>(from + ((output + 8) ^ flip));
    from = shared.x[buffer][k];
    *reinterpret_cast<float4*>(x) = *reinterpret_cast<const float4*>(from + (row ^ turn));
    *reinterpret_cast<float4*>(x + 4) =
        *reinterpret_cast<const float4*>(from + ((row + kRows / 2) ^ turn));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) acc[i][j] = __fmaf_rn(w[i], x[j], acc[i][j]);
    }
  }
};

// Adds finished left neighbours to the sums of slice `slice`, then keeps them for the right ones
// unless it is the last.
__device__ __forceinline__ void FinishSlice(Sums& sums, float (&levels)[kLevels][64], int slice,
                                            bool last) {
  const int merges = __ffs(~slice) - 1;
  for (int m = 0; m < merges; ++m) {
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      sums.acc[i / 8][i % 8] = __fadd_rn(levels[m][i], sums.acc[i / 8][i % 8]);
    }
  }
  if (last) return;
#pragma unroll
  for (int i = 0; i < 64; ++i) levels[merges][i] = sums.acc[i / 8][i % 8];
  sums.Clear();
}

__device__ __forceinline__ void StoreSums(const ExactProduct& a, const RowBlock& block,
                                          int output_block, const Sums& sums) {
  const int output = output_block * kOutputs + sums.output;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int row = sums.row + j % 4 + j / 4 * (kRows / 2);
    if (row >= block.count) continue;
    const int place = block.first + row;
    float* y = a.y + (a.slot_first == nullptr ? place : a.order[place]) * a.y_stride;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (a.swiglu) {
        const int column = output / kTileOutputs * 8 + output % 8 + i;
        if (column < a.columns) y[column] = SwiGluOf(sums.acc[i][j], sums.acc[i + 4][j]);
      } else {
        if (output + i < a.columns) y[output + i] = sums.acc[i][j];
        if (output + 8 + i < a.columns) y[output + 8 + i] = sums.acc[i + 4][j];
      }
    }
  }
}

template <typename W>
__global__ void __launch_bounds__(kThreads, 2)
    TileKernel(const ExactProduct a, const int row_blocks) {
  __shared__ __align__(16) Buffers shared;
  const int output_block = static_cast<int>(blockIdx.x) / row_blocks;
  const int index = static_cast<int>(blockIdx.x) % row_blocks;
  RowBlock block = {0, index * kRows, min(kRows, a.entries - index * kRows)};
  if (a.slot_first != nullptr) {
    block = FindRowBlock(a.slot_first, a.weights.matrices, 1, kRows, index);
  }
  if (block.count <= 0) return;

  const int inputs = a.weights.inputs;
  float levels[kLevels][64];
  Sums sums;
  StepLoader<W> loader(a, block, output_block);
  Walk walk;
  walk.Enter(0, inputs, a.slices);
  loader.Load(walk.step);
  loader.Store(shared, 0);
  __syncthreads();
  for (int buffer = 0; walk.slice < a.slices; buffer ^= 1) {
    Walk next = walk;
    next.Advance(inputs, a.slices);
    const bool more = next.slice < a.slices;
    if (more) loader.Load(next.step);
    const int low = max(walk.begin - walk.step, 0), high = min(walk.end - walk.step, kInputs);
    if (low == 0 && high == kInputs) {
#pragma unroll
      for (int k = 0; k < kInputs; ++k) sums.Add(shared, buffer, k);
    } else {
#pragma unroll 1
      for (int k = low; k < high; ++k) sums.Add(shared, buffer, k);
    }
    if (walk.EndsSlice()) FinishSlice(sums, levels, walk.slice, !more);
    // The other buffer was last read in the step before, which every thread has left.
    if (more) loader.Store(shared, buffer ^ 1);
    __syncthreads();
    walk = next;
  }
  StoreSums(a, block, output_block, sums);
}

template <typename W>
absl::Status LaunchTile(const ExactProduct& product, CudaStream stream) {
  const int64_t row_blocks = ExactRowBlocks(product, kRows);
  const int64_t blocks = row_blocks * ((product.weights.outputs + kOutputs - 1) / kOutputs);
  if (blocks > INT32_MAX) {
    return absl::InvalidArgumentError("exact gemm: too many rows and outputs for one launch");
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks));
  shape.block = dim3(kThreads);
  shape.stream = stream;
  return Launch("exact gemm", shape, TileKernel<W>, product, static_cast<int>(row_blocks));
}

}  // namespace
}  // namespace exact

absl::Status LaunchExactTile(const ExactProduct& product, CudaStream stream) {
  switch (product.weights.format) {
    case WeightFormat::kF32:
      return exact::LaunchTile<float>(product, stream);
    case WeightFormat::kF16:
      return exact::LaunchTile<exact::F16>(product, stream);
    default:
      return exact::LaunchTile<exact::Bf16>(product, stream);
  }
}

}  // namespace conclave
