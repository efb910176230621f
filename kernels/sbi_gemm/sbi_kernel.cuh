// The kernel of sbi_gemm, for a weight format and a number of row tiles; with the block's
// activations resident, or streamed step by step beside the weights. Included by the .cu of each
// format.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/sbi_gemm/sbi_prologue.cuh"
#include "kernels/sbi_gemm/sbi_tiles.cuh"
#include "kernels/sbi_gemm/sbi_work.cuh"

namespace conclave {

#define SBI_STAMP(what)

// Which rows a warp multiplies in one pass over an item.
struct SbiPass {
  int item = 0;
  int row_first = 0;  // of the pass in the slot's run; entry = order[first + row]
  int rows = 0;
  int first = 0;  // of the slot's run in order
};

__device__ __forceinline__ SbiPass MakePass(const SbiLaunch& launch, const SbiWork& work, int item,
                                            int chunk) {
  SbiPass pass;
  pass.item = item;
  pass.row_first = chunk * work.chunk_rows;
  int count = launch.args.tokens;
  if (work.grouped) {
    count = work.table.count[item / work.row_groups];
    pass.first = work.table.first[item / work.row_groups];
  }
  pass.rows = min(count - pass.row_first, work.chunk_rows);
  return pass;
}

__device__ __forceinline__ int EntryOf(const SbiWork& work, const SbiPass& pass, int row) {
  const int position = pass.row_first + row;
  return work.grouped ? work.table.order[pass.first + position] : position;
}

// ---- what comes after the product

__device__ __forceinline__ float BiasOf(const SbiLaunch& launch, const SbiWork& work, int item,
                                        int output) {
  const SbiArgs& args = launch.args;
  if (args.bias == nullptr || work.split != 0 || output >= args.weights.outputs) return 0;
  return args.bias[int64_t{work.MatrixOf(item)} * args.weights.outputs + output];
}

// c: a fragment of 16 outputs x 8 rows, row tile n of the pass.
__device__ inline void StoreTile(const SbiLaunch& launch, const SbiWork& work, const SbiPass& pass,
                                 int n, const float (&c)[4]) {
  const SbiArgs& args = launch.args;
  const int lane = threadIdx.x % 32;
  const int group = work.GroupOf(pass.item);
  const int output = group * kTileOutputs + lane / 4;
  const float low_bias = BiasOf(launch, work, pass.item, output);
  const float high_bias = BiasOf(launch, work, pass.item, output + 8);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = n * 8 + lane % 4 * 2 + i;
    if (row >= pass.rows) continue;
    const int64_t entry = EntryOf(work, pass, row);
    const float low = c[i] + low_bias, high = c[i + 2] + high_bias;
    if (args.kind == SbiKind::kGateUp) {
      const int column = group * 8 + lane / 4;
      if (column >= args.hidden_stride) continue;
      const float activated = low / (1.0f + __expf(-low)) * high;
      static_cast<__nv_bfloat16*>(args.hidden)[entry * args.hidden_stride + column] =
          __float2bfloat16(activated);
    } else {
      float* out = args.out + work.split * args.slab_stride + entry * args.out_stride;
      if (output < args.out_stride) out[output] = low;
      if (output + 8 < args.out_stride) out[output + 8] = high;
    }
  }
}

__device__ __forceinline__ void TeamBarrier(int team, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(threads) : "memory");
}

// Adds the sums of a team's warps, in the order of their inputs, and stores them. Rounds of two row
// tiles alternate between two buffers: a warp fills one again only after a barrier that the warp
// which read it has passed.
struct SbiReduce {
  float4* buffers;
  uint32_t round = 0;
};
template <int kTokenTiles>
__device__ __forceinline__ void FinishPass(const SbiLaunch& launch, const SbiWork& work,
                                           const SbiPass& pass, SbiSums<kTokenTiles>& sums,
                                           SbiReduce& reduce) {
  constexpr int kTiles = kTokenTiles < 2 ? kTokenTiles : 2;
  const int lane = threadIdx.x % 32;
  const int warps = launch.config.warps_per_item;
  const int used = (pass.rows + 7) / 8;
  sums.Merge();
#pragma unroll
  for (int n = 0; n < kTokenTiles; n += kTiles) {
    if (n > 0 && n >= used) break;
    if (warps == 1) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (n + i < used) StoreTile(launch, work, pass, n + i, sums.sum[0][n + i]);
      }
      continue;
    }
    float4* buffer =
        reduce.buffers + ((reduce.round & 1) * kSbiWarps + work.team * warps) * kTiles * 32;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const float(&c)[4] = sums.sum[0][n + i];
      buffer[(work.member * kTiles + i) * 32 + lane] = make_float4(c[0], c[1], c[2], c[3]);
    }
    TeamBarrier(work.team, warps * 32);
    for (int i = 0; i < kTiles; ++i) {
      if (n + i >= used || (reduce.round * kTiles + i) % warps != work.member) continue;
      float c[4] = {};
      for (int w = 0; w < warps; ++w) {
        const float4 part = buffer[(w * kTiles + i) * 32 + lane];
        c[0] += part.x;
        c[1] += part.y;
        c[2] += part.z;
        c[3] += part.w;
      }
      StoreTile(launch, work, pass, n + i, c);
    }
    ++reduce.round;
  }
}

// ---- the product

// Tiles that a warp multiplies at once.
struct SbiSlot {
  uint32_t data;
  int tiles;
  int row_offset;  // of the first tile's inputs in the rows, bytes
};

template <typename Format, int kUsed, int kTokenTiles>
__device__ __forceinline__ void MultiplyTiles(const SbiConfig& config, const SbiSlot& slot,
                                              const SbiRowPlaces<kTokenTiles>& rows,
                                              SbiSums<kTokenTiles>& sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll 2
  for (int i = 0; i < slot.tiles; ++i) {
    Format::template Multiply<kUsed>(slot.data + i * config.tile_bytes, lane,
                                     slot.row_offset + i * kTileInputs * 2, rows, sums);
  }
}

// By the number of row tiles in use, so that no branch stands between loads and products.
template <typename Format, int kTokenTiles>
__device__ __forceinline__ void MultiplySlot(const SbiConfig& config, const SbiSlot& slot, int used,
                                             const SbiRowPlaces<kTokenTiles>& rows,
                                             SbiSums<kTokenTiles>& sums) {
  if (kTokenTiles == 1 || used == 1) {
    MultiplyTiles<Format, 1>(config, slot, rows, sums);
  } else if (kTokenTiles == 2 || used == 2) {
    MultiplyTiles < Format, kTokenTiles<2 ? kTokenTiles : 2>(config, slot, rows, sums);
  } else if (kTokenTiles == 4 || used <= 4) {
    MultiplyTiles < Format, kTokenTiles<4 ? kTokenTiles : 4>(config, slot, rows, sums);
  } else {
    MultiplyTiles<Format, kTokenTiles>(config, slot, rows, sums);
  }
}

template <int kTokenTiles>
__device__ __forceinline__ SbiRowPlaces<kTokenTiles> ResidentRows(const SbiLaunch& launch,
                                                                  const SbiWork& work,
                                                                  const SbiPass& pass,
                                                                  const uint8_t* rows) {
  const int lane = threadIdx.x % 32;
  SbiRowPlaces<kTokenTiles> places;
  const uint32_t place =
      SharedAddress(rows) + (work.tile - work.block_tile) * kTileInputs * 2 + lane / 8 * 16;
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const int row = n * 8 + lane % 8, last = pass.rows - 1;
    const int source = SourceRow(launch.args, EntryOf(work, pass, min(row, last)));
    places.row[n] = place + source * launch.config.row_bytes + BeyondLast(row, last);
  }
  return places;
}

template <typename Format, int kTokenTiles>
__device__ __forceinline__ void RunResident(const SbiLaunch& launch, const SbiWork& work,
                                            SbiRing& ring, uint8_t* shared, bool triggered) {
  const SbiConfig& config = launch.config;
  const bool elected = threadIdx.x % 32 == 0;
  SbiReduce reduce = {.buffers = reinterpret_cast<float4*>(shared + config.shared.reduce)};
  for (int item = work.item_first + work.team; item < work.item_end; item += work.teams) {
    const int chunks = work.Chunks(item);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const SbiPass pass = MakePass(launch, work, item, chunk);
      const auto rows = ResidentRows<kTokenTiles>(launch, work, pass, shared + config.shared.rows);
      SbiSums<kTokenTiles> sums;
      sums.Clear();
      for (int tile = 0; tile < work.tiles; tile += config.slot_tiles) {
        const SbiSlot slot = {.data = ring.Wait(),
                              .tiles = min(config.slot_tiles, work.tiles - tile),
                              .row_offset = tile * kTileInputs * 2};
        if (tile == 0 && item == work.item_first) SBI_STAMP(4);
        MultiplySlot<Format, kTokenTiles>(config, slot, (pass.rows + 7) / 8, rows, sums);
        ring.Advance(launch, work, elected);
        if (!triggered && ring.cursor.from == nullptr) {
          SBI_STAMP(5);
          LaunchDependents();
          triggered = true;
        }
      }
      FinishPass<kTokenTiles>(launch, work, pass, sums, reduce);
    }
  }
}

// Where the copies of streamed activations stand: the same for all threads of a block, but for the
// rows that a thread copies: eight threads a row, 16 bytes of each tile each.
struct SbiRowCursor {
  static constexpr int kRows = kSbiTokensMax * 8 / kSbiThreads;
  int steps;       // of a pass
  int stage_rows;  // room in a stage
  int batch, chunk = 0, step = 0;
  int rows = 0;  // of the pass
  const __nv_bfloat16* row[kRows] = {};
};

// The rows of the pass at the cursor, or of the next one that has any.
__device__ inline void SettleRows(const SbiLaunch& launch, const SbiWork& work,
                                  SbiRowCursor& cursor) {
  while (cursor.batch < work.item_end && work.Chunks(cursor.batch) == 0) {
    cursor.batch += work.Width(cursor.batch);
  }
  if (cursor.batch >= work.item_end) return;
  const SbiPass pass = MakePass(launch, work, cursor.batch, cursor.chunk);
  cursor.rows = pass.rows;
#pragma unroll
  for (int r = 0; r < SbiRowCursor::kRows; ++r) {
    const int row = threadIdx.x / 8 + r * (kSbiThreads / 8);
    if (row >= pass.rows) continue;
    cursor.row[r] = RowOf(launch.args.rows, SourceRow(launch.args, EntryOf(work, pass, row)));
  }
}

// Issues the copies of one step, or none at the end, and moves on. Stage: [warps of a team]
// [rows][row_bytes].
__device__ inline void IssueRows(const SbiLaunch& launch, const SbiWork& work, SbiRowCursor& cursor,
                                 uint8_t* stage) {
  const SbiConfig& config = launch.config;
  if (cursor.batch < work.item_end) {
    const int piece = threadIdx.x % 8;
    for (int member = 0; member < config.warps_per_item; ++member) {
      const int tile = work.block_tile +
                       PartBegin(work.block_tiles, member, config.warps_per_item) +
                       cursor.step * config.slot_tiles;
#pragma unroll
      for (int r = 0; r < SbiRowCursor::kRows; ++r) {
        const int row = threadIdx.x / 8 + r * (kSbiThreads / 8);
        if (row >= cursor.rows) continue;
        uint8_t* to = stage + (member * cursor.stage_rows + row) * config.row_bytes + piece * 16;
        for (int t = 0; t < config.slot_tiles; ++t) {
          CopyChunk(to + t * kTileInputs * 2, cursor.row[r], (tile + t) * kTileInputs + piece * 8,
                    launch.args.weights.inputs);
        }
      }
    }
    if (++cursor.step == cursor.steps) {
      cursor.step = 0;
      if (++cursor.chunk == work.Chunks(cursor.batch)) {
        cursor.chunk = 0;
        cursor.batch += work.Width(cursor.batch);
      }
      SettleRows(launch, work, cursor);
    }
  }
  AsyncCommit();
}

template <typename Format, int kTokenTiles>
__device__ __forceinline__ void RunStreamed(const SbiLaunch& launch, const SbiWork& work,
                                            SbiRing& ring, uint8_t* shared, bool triggered) {
  const SbiConfig& config = launch.config;
  const int lane = threadIdx.x % 32;
  SbiReduce reduce = {.buffers = reinterpret_cast<float4*>(shared + config.shared.reduce)};
  uint8_t* const rows = shared + config.shared.rows;
  const int entries =
      work.grouped ? launch.args.tokens * launch.args.table.top_k : launch.args.tokens;
  const int stage_rows = min(entries, work.chunk_rows);
  const int stage_bytes = config.warps_per_item * stage_rows * config.row_bytes + kSbiRowSlack;
  const int tiles_max = (work.block_tiles + config.warps_per_item - 1) / config.warps_per_item;
  const int steps = (tiles_max + config.slot_tiles - 1) / config.slot_tiles;
  SbiRowCursor ahead = {.steps = steps, .stage_rows = stage_rows, .batch = work.item_first};
  SettleRows(launch, work, ahead);
  for (int s = 0; s < kSbiRowStages - 1; ++s) {
    IssueRows(launch, work, ahead, rows + s * stage_bytes);
  }
  const uint32_t place =
      SharedAddress(rows) + work.member * stage_rows * config.row_bytes + lane / 8 * 16;
  int stage = 0;
  for (int batch = work.item_first; batch < work.item_end; batch += work.Width(batch)) {
    const bool mine = work.team < work.Width(batch);
    const int chunks = work.Chunks(batch);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const SbiPass pass = MakePass(launch, work, mine ? batch + work.team : batch, chunk);
      SbiRowPlaces<kTokenTiles> places;  // in stage 0
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const int row = n * 8 + lane % 8, last = pass.rows - 1;
        places.row[n] = place + min(row, last) * config.row_bytes + BeyondLast(row, last);
      }
      SbiSums<kTokenTiles> sums;
      sums.Clear();
      for (int step = 0; step < steps; ++step) {
        AsyncWait<kSbiRowStages - 2>();
        __syncthreads();  // this step's rows are there; the stage of the step before is free
        const int next = stage == 0 ? kSbiRowStages - 1 : stage - 1;
        IssueRows(launch, work, ahead, rows + next * stage_bytes);
        const int tile = step * config.slot_tiles;
        if (mine && tile < work.tiles) {
          const SbiSlot slot = {.data = ring.Wait(),
                                .tiles = min(config.slot_tiles, work.tiles - tile),
                                .row_offset = stage * stage_bytes};
          MultiplySlot<Format, kTokenTiles>(config, slot, (pass.rows + 7) / 8, places, sums);
          ring.Advance(launch, work, lane == 0);
          if (!triggered && ring.cursor.from == nullptr) {
            LaunchDependents();
            triggered = true;
          }
        }
        stage = stage + 1 == kSbiRowStages ? 0 : stage + 1;
      }
      if (mine) FinishPass<kTokenTiles>(launch, work, pass, sums, reduce);
    }
  }
  AsyncWait<0>();
}

template <typename Format, int kTokenTiles, bool kStreamed>
__global__ void __launch_bounds__(kSbiThreads, 2)
    SbiKernel(const __grid_constant__ SbiLaunch launch) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const SbiArgs& args = launch.args;
  const SbiConfig& config = launch.config;
  const int warp = threadIdx.x / 32;
  const bool elected = threadIdx.x % 32 == 0;
  SBI_STAMP(0);
  SbiWork work = MakeWork(launch, warp);
  SbiRing ring = MakeRing(config, shared, warp, elected);
  const bool late_table =
      work.grouped && args.table.active_count != nullptr && !args.table.ready_early;
  if (late_table) GridDependencyWait();
  int items = work.row_groups;
  if (work.grouped) {
    work.table = LoadTable(args, shared + config.shared.table);
    __syncthreads();
    items *= *work.table.active;
  }
  SetItems(config, items, work);
  ring.Fill(launch, work, elected);
  if (!late_table) {
    ring.Prefetch(launch, work, elected);
    SBI_STAMP(1);
    GridDependencyWait();
  }
  SBI_STAMP(2);
  // Late, so that the next kernel's first weights do not stand in the way of this one's.
  const bool triggered = config.early_trigger || ring.cursor.from == nullptr;
  if (triggered) LaunchDependents();
  if constexpr (kStreamed) {
    RunStreamed<Format, kTokenTiles>(launch, work, ring, shared, triggered);
  } else {
    uint8_t* rows = shared + config.shared.rows;
    if (args.prologue == SbiPrologue::kRows) {
      StageRows(launch, work, rows);
    } else {
      ZeroTail(launch, work, rows);
      if (args.prologue == SbiPrologue::kNorm) {
        StageNorm(launch, work, rows, reinterpret_cast<float*>(shared + kSbiScratchOffset));
      } else {
        StageAttention(launch, work, rows);
      }
    }
    __syncthreads();
    SBI_STAMP(3);
    RunResident<Format, kTokenTiles>(launch, work, ring, shared, triggered);
  }
  SBI_STAMP(6);
}

// ---- the launch

template <typename Format, int kTokenTiles, bool kStreamed>
absl::Status LaunchSbiKernel(const SbiLaunch& launch, const SbiLaunchOptions& options) {
  const auto kernel = SbiKernel<Format, kTokenTiles, kStreamed>;
  // Kernels of one chain must agree on the split of L1, or an SM drains between them.
  const cudaError_t carved = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                  cudaFuncAttributePreferredSharedMemoryCarveout,
                                                  cudaSharedmemCarveoutMaxShared);
  if (carved != cudaSuccess) return CudaStatus(carved, "sbi_gemm carveout");
  return Launch("sbi_gemm",
                {.grid = dim3(launch.config.blocks),
                 .block = dim3(kSbiThreads),
                 .shared_bytes = launch.config.shared.total,
                 .stream = options.stream,
                 .dependent = options.dependent},
                kernel, launch);
}

template <typename Format, int kTokenTiles>
absl::Status LaunchSbiTiles(const SbiLaunch& launch, const SbiLaunchOptions& options) {
  return launch.config.streamed ? LaunchSbiKernel<Format, kTokenTiles, true>(launch, options)
                                : LaunchSbiKernel<Format, kTokenTiles, false>(launch, options);
}

template <typename Format>
absl::Status LaunchSbiFormat(const SbiLaunch& launch, const SbiLaunchOptions& options) {
  switch (launch.config.token_tiles) {
    case 1:
      return LaunchSbiTiles<Format, 1>(launch, options);
    case 2:
      return LaunchSbiTiles<Format, 2>(launch, options);
    case 4:
      return LaunchSbiTiles<Format, 4>(launch, options);
    default:
      return LaunchSbiTiles<Format, 8>(launch, options);
  }
}

}  // namespace conclave
