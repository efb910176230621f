// Few rows: a half-warp has a slice of sixteen outputs, and each (output, row) of it is one chain
// of multiply-adds in input order. A lane has as many outputs as there are groups of rows, so that
// what it reads from shared memory serves several chains. Weights and x stream through a ring of
// 64-input stages by asynchronous copies; a half-warp waits for its own alone.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/exact/exact_math.cuh"
#include "kernels/exact/exact_product.h"

namespace conclave {
namespace exact {
namespace {

constexpr int kHalf = 16;  // lanes of a half-warp

__device__ __forceinline__ void CopyAsync16(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void CopyAsync4(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}

template <typename W, int kRows, int kStages>
struct StreamShape {
  // Row t belongs to group t % kGroups; a lane has rows of one group, and kGroups outputs.
  static constexpr int kGroups = kRows == 1 ? 1 : kRows < 16 ? 2 : 4;
  static constexpr int kLaneRows = kRows / kGroups;
  static constexpr int kLanes = kHalf / kGroups;  // of a group; also between a lane's outputs
  static constexpr int kTileBytes = kTileElements * static_cast<int>(sizeof(W));
  static constexpr int kStageBytes = kTileBytes + kRows * kTileInputs * 4;
  static constexpr int kRingBytes = kStages * kStageBytes;  // of one half-warp
};

// What a half-warp works on.
template <typename W, int kRows, int kStages>
class SliceStream {
 public:
  using Shape = StreamShape<W, kRows, kStages>;

  __device__ SliceStream(const ExactProduct& a, const RowBlock& block, int output_tile,
                         uint8_t* shared)
      : inputs_(a.weights.inputs),
        lane_(static_cast<int>(threadIdx.x) % kHalf),
        turn_((static_cast<int>(threadIdx.x) / kHalf & 1) + lane_ / Shape::kLanes * 2),
        count_(block.count),
        aligned_(a.x_aligned),
        ring_(shared + threadIdx.x / kHalf * Shape::kRingBytes) {
    const int slice = static_cast<int>(threadIdx.x) / kHalf;
    if (slice < a.slices) {
      begin_ = static_cast<int>(static_cast<int64_t>(slice) * inputs_ / a.slices);
      end_ = static_cast<int>(static_cast<int64_t>(slice + 1) * inputs_ / a.slices);
    }
    first_tile_ = begin_ / kTileInputs;
    tiles_ = end_ > begin_ ? (end_ - 1) / kTileInputs - first_tile_ + 1 : 0;
    weights_ = static_cast<const uint8_t*>(a.weights.data) + block.owner * a.weights.matrix_bytes +
               (static_cast<int64_t>(output_tile) * a.weights.input_tiles() + first_tile_) *
                   Shape::kTileBytes;
#pragma unroll
    for (int i = 0; i < kRows; ++i) acc_[i / Shape::kLaneRows][i % Shape::kLaneRows] = 0.0f;
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      x_[t] = a.x;
      if (t >= count_) continue;
      const int entry = a.slot_first == nullptr ? block.first + t : a.order[block.first + t];
      x_[t] += (a.row_of_entry == nullptr ? entry : a.row_of_entry[entry]) * a.x_stride;
    }
  }

  __device__ int tiles() const { return tiles_; }

  // Starts the copies of stage i, if there is one, as one group.
  __device__ __forceinline__ void Load(int i) {
    if (i < tiles_) {
      const uint32_t to =
          static_cast<uint32_t>(__cvta_generic_to_shared(ring_ + i % kStages * Shape::kStageBytes));
      const uint8_t* from = weights_ + static_cast<int64_t>(i) * Shape::kTileBytes;
#pragma unroll
      for (int c = 0; c < Shape::kTileBytes / 16 / kHalf; ++c) {
        const int chunk = c * kHalf + lane_;
        CopyAsync16(to + Place(chunk) * 16, from + chunk * 16, 16);
      }
      LoadX(to + Shape::kTileBytes, (first_tile_ + i) * kTileInputs + lane_ * 4);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  // Waits for the oldest of kStages groups.
  __device__ __forceinline__ void Wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    __syncwarp();
  }

  __device__ __forceinline__ void Compute(int i) {
    if (i >= tiles_) return;
    const uint8_t* stage = ring_ + i % kStages * Shape::kStageBytes;
    const int tile_begin = (first_tile_ + i) * kTileInputs;
    const int low = max(begin_ - tile_begin, 0);
    const int high = min(end_ - tile_begin, kTileInputs);
    if (low != 0 || high != kTileInputs) {
      for (int c = low / 8; c * 8 < high; ++c) {
        Chunk<false, false>(stage, c, low - c * 8, high - c * 8);
      }
    } else if (count_ > kRows - Shape::kGroups) {
      AllChunks<true>(stage);
    } else {
      AllChunks<false>(stage);
    }
  }

  // This lane's sums of the slice to parts [kRows][16].
  __device__ void StoreParts(float* parts) const {
#pragma unroll
    for (int o = 0; o < Shape::kGroups; ++o) {
#pragma unroll
      for (int i = 0; i < Shape::kLaneRows; ++i) {
        const int t = i * Shape::kGroups + lane_ / Shape::kLanes;
        parts[t * kTileOutputs + lane_ % Shape::kLanes + o * Shape::kLanes] = acc_[o][i];
      }
    }
  }

 private:
  // fp32 rows of 16 chunks are swizzled on their way, two-byte tiles are so already.
  __device__ __forceinline__ static int Place(int chunk) {
    return sizeof(W) == 2 ? chunk : chunk ^ (chunk / 16 % 8);
  }

  // Four inputs from `input` on of every row. Half-warps and groups read other rows at the same
  // time: the quads of a row are turned by both, so that they do so from other banks.
  __device__ __forceinline__ void LoadX(uint32_t to, int input) {
    const int bytes = max(0, min(inputs_ - input, 4)) * 4;
    const int odd = static_cast<int>(threadIdx.x) / kHalf & 1;
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      if (t >= count_) break;
      const uint32_t quad =
          to + t * kTileInputs * 4 + (lane_ ^ (odd + t % Shape::kGroups * 2)) * 16;
      const float* from = bytes > 0 ? x_[t] + input : x_[t];
      if (aligned_) {
        CopyAsync16(quad, from, bytes);
      } else {
        for (int e = 0; e < 4; ++e) {
          const int element_bytes = e * 4 < bytes ? 4 : 0;
          CopyAsync4(quad + e * 4, element_bytes > 0 ? from + e : x_[t], element_bytes);
        }
      }
    }
  }

  // Eight weights of output `row` of the tile.
  __device__ __forceinline__ static void LoadWeights(const uint8_t* stage, int row, int c,
                                                     float (&w)[8]) {
    if constexpr (sizeof(W) == 2) {
      const uint4 chunk = *reinterpret_cast<const uint4*>(stage + (row * 8 + (c ^ (row % 8))) * 16);
      WidenChunk(static_cast<const W*>(nullptr), &chunk, w);
    } else {
      const auto* chunks = reinterpret_cast<const uint4*>(stage) + row * 16;
      const uint4 pair[2] = {chunks[(2 * c) ^ (row % 8)], chunks[(2 * c + 1) ^ (row % 8)]};
      WidenChunk(static_cast<const W*>(nullptr), pair, w);
    }
  }

  // kFull: every lane row holds a row of the block. Tests inside would keep loads from overlapping.
  template <bool kFull>
  __device__ __forceinline__ void AllChunks(const uint8_t* stage) {
#pragma unroll 4
    for (int c = 0; c < kTileInputs / 8; ++c) Chunk<true, kFull>(stage, c, 0, 8);
  }

  // Eight inputs; those in [low, high) only unless all are. Rows past the block's count hold
  // whatever the memory held: they are not stored.
  template <bool kWhole, bool kFull>
  __device__ __forceinline__ void Chunk(const uint8_t* stage, int c, int low, int high) {
    float w[Shape::kGroups][8];
#pragma unroll
    for (int o = 0; o < Shape::kGroups; ++o) {
      LoadWeights(stage, lane_ % Shape::kLanes + o * Shape::kLanes, c, w[o]);
    }
    const auto* x = reinterpret_cast<const float4*>(stage + Shape::kTileBytes) +
                    lane_ / Shape::kLanes * (kTileInputs / 4);
#pragma unroll
    for (int i = 0; i < Shape::kLaneRows; ++i) {
      if (!kFull && i * Shape::kGroups >= count_) break;
      const float4* row = x + i * Shape::kGroups * (kTileInputs / 4);
      const float4 a = row[(2 * c) ^ turn_], b = row[(2 * c + 1) ^ turn_];
      const float values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (!kWhole && (e < low || e >= high)) continue;
#pragma unroll
        for (int o = 0; o < Shape::kGroups; ++o) {
          acc_[o][i] = __fmaf_rn(w[o][e], values[e], acc_[o][i]);
        }
      }
    }
  }

  const int inputs_;
  const int lane_;
  const int turn_;
  const int count_;
  const bool aligned_;
  uint8_t* const ring_;
  int begin_ = 0, end_ = 0;
  int first_tile_, tiles_;
  const uint8_t* weights_;
  const float* x_[kRows];
  float acc_[Shape::kGroups][Shape::kLaneRows];
};

// Stores the block's rows: parts [slices][kRows][16] summed in the tree, with the activation where
// there is one.
template <int kRows>
__device__ void StoreRows(const ExactProduct& a, const RowBlock& block, int output_tile,
                          const float* parts) {
  const int width = a.swiglu ? kTileOutputs / 2 : kTileOutputs;
  for (int i = static_cast<int>(threadIdx.x); i < block.count * width;
       i += static_cast<int>(blockDim.x)) {
    const int t = i / width, r = i % width;
    const int column = output_tile * width + r;
    if (column >= a.columns) continue;
    const float* p = parts + t * kTileOutputs + r;
    float value = TreeOfParts(p, kRows * kTileOutputs, a.slices);
    if (a.swiglu) {
      value = SwiGluOf(value, TreeOfParts(p + width, kRows * kTileOutputs, a.slices));
    }
    const int row = block.first + t;
    a.y[(a.slot_first == nullptr ? row : a.order[row]) * a.y_stride + column] = value;
  }
}

template <typename W, int kRows, int kStages>
__global__ void __launch_bounds__(128) StreamKernel(const ExactProduct a, const int row_blocks) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int output_tile = static_cast<int>(blockIdx.x) / row_blocks;
  const int index = static_cast<int>(blockIdx.x) % row_blocks;
  RowBlock block = {0, index * kRows, min(kRows, a.entries - index * kRows)};
  if (a.slot_first != nullptr) {
    block = FindRowBlock(a.slot_first, a.weights.matrices, 1, kRows, index);
  }
  if (block.count <= 0) return;

  SliceStream<W, kRows, kStages> slice(a, block, output_tile, shared);
  const int tiles = __reduce_max_sync(0xffffffffu, slice.tiles());
  for (int i = 0; i < kStages; ++i) slice.Load(i);
  for (int i = 0; i < tiles; ++i) {
    slice.Wait();
    slice.Compute(i);
    __syncwarp();
    slice.Load(i + kStages);
  }
  __syncthreads();  // the rings are free
  auto* parts = reinterpret_cast<float*>(shared);
  if (static_cast<int>(threadIdx.x) < a.slices * kHalf) {
    slice.StoreParts(parts + threadIdx.x / kHalf * (kRows * kTileOutputs));
  }
  __syncthreads();
  StoreRows<kRows>(a, block, output_tile, parts);
}

template <typename W, int kRows, int kStages>
absl::Status LaunchStream(const ExactProduct& product, CudaStream stream) {
  const int64_t row_blocks = ExactRowBlocks(product, kRows);
  const int64_t blocks = row_blocks * product.weights.output_tiles();
  if (blocks > INT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("exact gemm: ", product.entries, " rows by ",
                                                   product.weights.outputs,
                                                   " outputs are too many for one launch"));
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks));
  shape.block = dim3(product.slices == 1 ? 2 * kHalf : product.slices * kHalf);
  shape.shared_bytes =
      static_cast<int>(shape.block.x) / kHalf * StreamShape<W, kRows, kStages>::kRingBytes;
  shape.stream = stream;
  return Launch("exact gemm", shape, StreamKernel<W, kRows, kStages>, product,
                static_cast<int>(row_blocks));
}

template <typename W>
absl::Status LaunchFormat(const ExactProduct& product, int rows, CudaStream stream) {
  switch (rows) {
    case 1:
      return LaunchStream<W, 1, 4>(product, stream);
    case 2:
      return LaunchStream<W, 2, 4>(product, stream);
    case 4:
      return LaunchStream<W, 4, 3>(product, stream);
    case 8:
      return LaunchStream<W, 8, 2>(product, stream);
    default:
      return LaunchStream<W, 16, 2>(product, stream);
  }
}

}  // namespace
}  // namespace exact

absl::Status LaunchExactStream(const ExactProduct& product, int rows, CudaStream stream) {
  switch (product.weights.format) {
    case WeightFormat::kF32:
      return exact::LaunchFormat<float>(product, rows, stream);
    case WeightFormat::kF16:
      return exact::LaunchFormat<exact::F16>(product, rows, stream);
    default:
      return exact::LaunchFormat<exact::Bf16>(product, rows, stream);
  }
}

}  // namespace conclave
