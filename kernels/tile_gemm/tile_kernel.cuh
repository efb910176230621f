// The tile_gemm kernel: a persistent block of three warpgroups. One thread of the first keeps a
// ring of stages filled (64 inputs of the tile's rows and outputs each) through the bulk tensor
// copy engine; the other two warpgroups multiply and store. kWide and kSquare give each of them 64
// rows, kNarrow half of the outputs. Nothing ties the two but the ring, so that one stores a tile
// while the other still multiplies, and loads run ahead over the end of a tile. Device code only.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/tile_gemm/tile_epilogue.cuh"
#include "kernels/tile_gemm/tile_launch.h"
#include "kernels/tile_gemm/tile_work.cuh"
#include "kernels/tile_gemm/wgmma.cuh"

namespace conclave {

template <TileKind kTileKind>
struct TileTraits {
  static constexpr TileKind kKind = kTileKind;
  static constexpr int kRows = ExtentOf(kKind).rows;
  static constexpr int kOutputs = ExtentOf(kKind).outputs;
  static constexpr int kStages = TileSharedLayout::Stages(ExtentOf(kKind));
  static constexpr int kStageBytes = TileSharedLayout::StageBytes(ExtentOf(kKind));
  static constexpr int kRowBytes = kTileInputs * 2;
  static constexpr int kWeights = kRows * kRowBytes;  // place in a stage
  static constexpr int kWeightBytes = kOutputs * kRowBytes;
  static constexpr int kBoxRows = TileBoxRows(kKind);
  static constexpr bool kByOutputs = kRows == 64;  // what the two warpgroups divide
  static constexpr int kGroupOutputs = kByOutputs ? kOutputs / 2 : kOutputs;
  static constexpr int kRegisters = kGroupOutputs / 2;  // 64 x kGroupOutputs sums of 128 threads
  static_assert(kStages <= TileSharedLayout::kStagesMax);
};

struct TileShared {
  char* base;
  uint64_t* full;   // [kStages] a stage's copies have landed
  uint64_t* empty;  // [kStages] all consumer warps are done with it
  TileTables tables;
};

__device__ __forceinline__ void TensorCopy2(void* to, const CUtensorMap& map, int x, int y,
                                            uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(SharedAddress(to)),
      "l"(&map), "r"(x), "r"(y), "r"(SharedAddress(barrier))
      : "memory");
}

struct WeightBox {
  int input_tile, output_tile, matrix;
};
template <bool kHint>
__device__ __forceinline__ void WeightCopy(void* to, const CUtensorMap& map, const WeightBox& box,
                                           uint64_t* barrier, uint64_t policy) {
  if constexpr (kHint) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(SharedAddress(to)),
        "l"(&map), "r"(0), "r"(box.input_tile), "r"(box.output_tile), "r"(box.matrix),
        "r"(SharedAddress(barrier)), "l"(policy)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(SharedAddress(to)),
        "l"(&map), "r"(0), "r"(box.input_tile), "r"(box.output_tile), "r"(box.matrix),
        "r"(SharedAddress(barrier))
        : "memory");
  }
}

// One thread.
template <class T>
__device__ __forceinline__ void Produce(const TileLaunch& launch, const TileShared& shared) {
  constexpr bool kStreamed = T::kKind == TileKind::kNarrow;  // weights are read about once
  const uint64_t policy = kStreamed ? EvictFirstPolicy() : 0;
  TileCursor<T::kRows> cursor(shared.tables, launch.output_tiles);
  RingPlace<T::kStages> place;
  TileWork work;
  while (cursor.Next(work)) {
    const int boxes = (work.valid + T::kBoxRows - 1) / T::kBoxRows;
    const uint32_t bytes = boxes * T::kBoxRows * T::kRowBytes + T::kWeightBytes;
    for (int step = 0; step < launch.steps; ++step) {
      char* stage = shared.base + place.stage * T::kStageBytes;
      uint64_t* full = shared.full + place.stage;
      BarrierWait(shared.empty + place.stage, place.phase ^ 1);
      BarrierExpectBytes(full, bytes);
      const WeightBox box = {step, work.output_tile * (T::kOutputs / kTileOutputs), work.matrix};
      WeightCopy<kStreamed>(stage + T::kWeights, launch.weights, box, full, policy);
      for (int b = 0; b < boxes; ++b) {
        TensorCopy2(stage + b * T::kBoxRows * T::kRowBytes, launch.x, step * kTileInputs,
                    work.row + b * T::kBoxRows, full);
      }
      place.Advance();
    }
  }
}

// A warpgroup that multiplies and stores.
template <class T, TileEpilogue kEpilogue>
class Consumer {
 public:
  __device__ __forceinline__ Consumer(const TileLaunch& launch, const TileShared& shared)
      : launch_(launch), shared_(shared) {}

  __device__ __forceinline__ void Run() {
    const int group = threadIdx.x / 128 - 1;
    TileCursor<T::kRows> cursor(shared_.tables, launch_.output_tiles);
    TileWork work;
    while (cursor.Next(work)) {
      if (T::kByOutputs || group * 64 < work.valid) {
        float sums[T::kRegisters];
        Multiply(sums);
        Finish(work, sums);
      } else {
        held_.StoreRest(0);
        Skip();
      }
    }
    held_.StoreRest(0);
  }

 private:
  using Held = HeldTile<kEpilogue, T::kRegisters>;

  // One tile's sums; the tile before it is stored meanwhile.
  __device__ __forceinline__ void Multiply(float (&sums)[T::kRegisters]) {
    HoldRegisters(sums);
    int step = 0;
#pragma unroll
    for (int pass = 0; pass < Held::kPasses; ++pass) {
      if (step < launch_.steps) {
        StartStep(step, sums);
        held_.StorePass(pass);
        EndStep(step);
        ++step;
      }
    }
    for (; step < launch_.steps; ++step) {
      StartStep(step, sums);
      EndStep(step);
    }
    WarpgroupWait<0>();
    HoldRegisters(sums);
    GiveBack();
    held_.StoreRest(launch_.steps);
  }

  __device__ __forceinline__ void StartStep(int step, float (&sums)[T::kRegisters]) {
    const int group = threadIdx.x / 128 - 1;
    const uint32_t stage = SharedAddress(shared_.base) + place_.stage * T::kStageBytes;
    const uint32_t rows = stage + (T::kByOutputs ? 0 : group * 64 * T::kRowBytes);
    const uint32_t weights =
        stage + T::kWeights + (T::kByOutputs ? group * T::kGroupOutputs * T::kRowBytes : 0);
    BarrierWait(shared_.full + place_.stage, place_.phase);
    const uint64_t a = MatrixDescriptor(rows);
    const uint64_t b = MatrixDescriptor(weights);
    WarpgroupFence();
#pragma unroll
    for (int k = 0; k < kTileInputs / kWarpgroupInputs; ++k) {
      WarpgroupMma(sums, a + k * kDescriptorStep, b + k * kDescriptorStep, step + k != 0);
    }
    WarpgroupCommit();
  }

  // A stage is given back once the products of the stage after it are under way.
  __device__ __forceinline__ void EndStep(int step) {
    WarpgroupWait<1>();
    if (step > 0) GiveBack();
    previous_ = place_.stage;
    place_.Advance();
  }

  __device__ __forceinline__ void GiveBack() {
    if (threadIdx.x % 32 == 0) BarrierArrive(shared_.empty + previous_);
  }

  // A tile whose rows all belong to the other warpgroup.
  __device__ __forceinline__ void Skip() {
    for (int step = 0; step < launch_.steps; ++step) {
      BarrierWait(shared_.full + place_.stage, place_.phase);
      previous_ = place_.stage;
      GiveBack();
      place_.Advance();
    }
  }

  __device__ __forceinline__ void Finish(const TileWork& work, float (&sums)[T::kRegisters]) {
    constexpr int kShrink = kEpilogue == TileEpilogue::kSwiGlu ? 2 : 1;
    constexpr int kBytes =
        kEpilogue == TileEpilogue::kFp32 || kEpilogue == TileEpilogue::kFp32Add ? 4 : 2;
    const int warp = threadIdx.x / 32 - 4;
    const int output =
        work.output_tile * T::kOutputs + (T::kByOutputs ? warp / 4 * T::kGroupOutputs : 0);
    const int row = (T::kByOutputs ? warp % 4 : warp) * 16;
    if (launch_.bias != nullptr) {
      const int64_t first = int64_t{work.matrix} * launch_.outputs + output;
      AddTileBias(sums, launch_.bias + first, launch_.outputs - output);
    }
    TileTarget target;
    target.stride = launch_.out_stride * kBytes;
    target.out = static_cast<char*>(launch_.out) + (work.row + row) * target.stride +
                 int64_t{output / kShrink} * kBytes;
    target.rows = work.valid - row;
    target.columns = (launch_.outputs - output) / kShrink;
    target.staging =
        shared_.base + TileSharedLayout::kStaging + warp * TileSharedLayout::kStagingWarpBytes;
    held_.Hold(sums, target);
  }

  const TileLaunch& launch_;
  const TileShared& shared_;
  RingPlace<T::kStages> place_;
  int previous_ = 0;
  Held held_;
};

// A block.
template <TileKind kKind, TileEpilogue kEpilogue>
__device__ __forceinline__ void RunBlock(const TileLaunch& launch, char* memory) {
  using T = TileTraits<kKind>;
  TileShared shared;
  shared.base = memory;
  shared.full = reinterpret_cast<uint64_t*>(memory + TileSharedLayout::kBarriers);
  shared.empty = shared.full + T::kStages;
  shared.tables.tile_end = reinterpret_cast<int32_t*>(memory + TileSharedLayout::kTileEnd);
  shared.tables.row_first = reinterpret_cast<int32_t*>(memory + TileSharedLayout::kRowFirst);
  shared.tables.groups = launch.group_first == nullptr ? 1 : launch.matrices;
  if (threadIdx.x == 0) {
    for (int s = 0; s < T::kStages; ++s) {
      BarrierInit(shared.full + s, 1);
      BarrierInit(shared.empty + s, kTileConsumerWarps);
    }
    BarrierInitFence();
  }
  GridDependencyWait();
  LaunchDependents();
  BuildTileTables<T::kRows>(launch, shared.tables);
  if (threadIdx.x < 128) {
    ReleaseRegisters<24>();
    if (threadIdx.x == 0) Produce<T>(launch, shared);
  } else {
    ClaimRegisters<240>();
    Consumer<T, kEpilogue>(launch, shared).Run();
  }
}

template <TileKind kKind, TileEpilogue kEpilogue>
__global__ void __launch_bounds__(kTileThreads, 1)
    TileGemmKernel(const __grid_constant__ TileLaunch launch) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared_memory[];
  RunBlock<kKind, kEpilogue>(launch, shared_memory);
#else
  __trap();  // wgmma is of sm_90a alone; other targets have no such product
#endif
}

template <TileKind kKind, TileEpilogue kEpilogue>
absl::Status LaunchTileEpilogue(const TileLaunch& launch, const TileGemmArgs& args, int blocks) {
  const LaunchShape shape = {dim3(blocks), dim3(kTileThreads), TileSharedLayout::kTotal,
                             args.stream, args.dependent};
  return Launch("tile_gemm", shape, TileGemmKernel<kKind, kEpilogue>, launch);
}

template <TileKind kKind>
absl::Status LaunchTileKind(const TileLaunch& launch, const TileGemmArgs& args, int blocks) {
  switch (args.epilogue) {
    case TileEpilogue::kBf16:
      return LaunchTileEpilogue<kKind, TileEpilogue::kBf16>(launch, args, blocks);
    case TileEpilogue::kFp32:
      return LaunchTileEpilogue<kKind, TileEpilogue::kFp32>(launch, args, blocks);
    case TileEpilogue::kFp32Add:
      return LaunchTileEpilogue<kKind, TileEpilogue::kFp32Add>(launch, args, blocks);
    case TileEpilogue::kSwiGlu:
      return LaunchTileEpilogue<kKind, TileEpilogue::kSwiGlu>(launch, args, blocks);
  }
  return absl::InternalError("tile_gemm: no such epilogue");
}

}  // namespace conclave
