// Which tiles a warp multiplies, and the ring in shared memory through which they come. A block has
// a run of items (16 outputs of one matrix); teams of warps take items in turn, and the warps of a
// team share an item's inputs. The walk over (item, chunk of rows, tile) is done twice: by the
// cursor, which issues copies, and by the kernel, which consumes them; both in the same order. Each
// warp has its own ring: no barrier between warps stands between memory and the tensor cores.
// Device code only.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/sbi_gemm/sbi_launch.h"

namespace conclave {

inline constexpr int kSbiScratchOffset = kSbiWarps * kSbiRingSlotsMax * 8;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

// The expert table as a block holds it.
struct SbiSharedTable {
  const int* active;  // [1] number of active slots
  const int* slot;    // [active]
  const int* first;   // [active] into order
  const int* count;   // [active] entries of the slot
  const int* order;   // [entries]
};

struct SbiWork {
  int item_first, item_end;     // of the block
  int row_groups;               // items of a matrix
  int split;                    // of K
  int teams, team, member;      // member: of the warp in its team
  int block_tile, block_tiles;  // the block's part of K, in tiles
  int tile, tiles;              // this warp's part of it
  int chunk_rows;               // rows that are multiplied at once
  bool grouped, streamed;
  SbiSharedTable table;

  __device__ int MatrixOf(int item) const { return grouped ? table.slot[item / row_groups] : 0; }
  __device__ int GroupOf(int item) const { return grouped ? item % row_groups : item; }
  // Passes over the item's weights.
  __device__ int Chunks(int item) const {
    if (!grouped) return 1;
    return (table.count[item / row_groups] + chunk_rows - 1) / chunk_rows;
  }
  // Items that the teams take together, from `batch` on; of streamed activations one matrix's.
  __device__ int Width(int batch) const {
    int width = min(teams, item_end - batch);
    if (streamed && grouped) width = min(width, row_groups - batch % row_groups);
    return width;
  }
};

// First tile of a part of `tiles` tiles cut into `parts`.
__device__ __forceinline__ int PartBegin(int tiles, int part, int parts) {
  return tiles * part / parts;
}

// The part of the work that does not depend on the table.
__device__ inline SbiWork MakeWork(const SbiLaunch& launch, int warp) {
  const SbiArgs& args = launch.args;
  const SbiConfig& config = launch.config;
  SbiWork work;
  const int blocks = config.blocks / config.splits;
  work.split = blockIdx.x / blocks;
  work.row_groups = args.weights.output_tiles();
  work.grouped = args.kind != SbiKind::kDense;
  work.streamed = config.streamed;
  work.chunk_rows = 8 * config.token_tiles;
  work.teams = kSbiWarps / config.warps_per_item;
  work.team = warp / config.warps_per_item;
  work.member = warp % config.warps_per_item;
  const int k_tiles = args.weights.input_tiles();
  work.block_tile = PartBegin(k_tiles, work.split, config.splits);
  work.block_tiles = PartBegin(k_tiles, work.split + 1, config.splits) - work.block_tile;
  const int begin = PartBegin(work.block_tiles, work.member, config.warps_per_item);
  work.tile = work.block_tile + begin;
  work.tiles = PartBegin(work.block_tiles, work.member + 1, config.warps_per_item) - begin;
  return work;
}

// The block's run of `items` items.
__device__ __forceinline__ void SetItems(const SbiConfig& config, int items, SbiWork& work) {
  const int blocks = config.blocks / config.splits;
  const int64_t block = blockIdx.x % blocks;
  work.item_first = static_cast<int>(items * block / blocks);
  work.item_end = static_cast<int>(items * (block + 1) / blocks);
}

// Where the copies of a warp stand.
struct SbiCursor {
  const uint8_t* from = nullptr;  // the next copy; null at the end
  int left = 0;                   // tiles of the pass from there on
  int batch = 0, chunk = 0;
};

__device__ __forceinline__ const uint8_t* ItemTiles(const SbiLaunch& launch, const SbiWork& work,
                                                    int item) {
  const WeightView& weights = launch.args.weights;
  const int64_t tile = int64_t{work.GroupOf(item)} * weights.input_tiles() + work.tile;
  return static_cast<const uint8_t*>(weights.data) + work.MatrixOf(item) * weights.matrix_bytes +
         tile * launch.config.tile_bytes;
}

// Goes on to the first pass of the next batch that has an item for this warp, from cursor.batch on.
__device__ inline void Settle(const SbiLaunch& launch, const SbiWork& work, SbiCursor& cursor) {
  cursor.chunk = 0;
  cursor.from = nullptr;
  if (work.tiles == 0) return;
  while (cursor.batch < work.item_end) {
    const int width = work.Width(cursor.batch);
    const int item = cursor.batch + work.team;
    if (work.team < width && work.Chunks(item) > 0) {
      cursor.from = ItemTiles(launch, work, item);
      cursor.left = work.tiles;
      return;
    }
    cursor.batch += width;
  }
}

// The next copy's source and size; moves on.
__device__ __forceinline__ const uint8_t* Next(const SbiLaunch& launch, const SbiWork& work,
                                               SbiCursor& cursor, uint32_t& bytes) {
  const SbiConfig& config = launch.config;
  const uint8_t* from = cursor.from;
  bytes = min(config.slot_tiles, cursor.left) * config.tile_bytes;
  cursor.from += bytes;
  cursor.left -= config.slot_tiles;
  if (cursor.left <= 0) {
    const int item = cursor.batch + work.team;
    if (++cursor.chunk < work.Chunks(item)) {
      cursor.from = ItemTiles(launch, work, item);
      cursor.left = work.tiles;
    } else {
      cursor.batch += work.Width(cursor.batch);
      Settle(launch, work, cursor);
    }
  }
  return from;
}

// ---- shared memory by its 32-bit addresses, which leave more registers to the sums

__device__ __forceinline__ void LoadMatrix4At(uint32_t row, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row));
}
__device__ __forceinline__ void ExpectBytesAt(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void WaitAt(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra again_%=;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void BulkCopyAt(uint32_t to, const void* from, uint32_t bytes,
                                           uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void BulkCopyAt(uint32_t to, const void* from, uint32_t bytes,
                                           uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// One warp's ring. All lanes hold it and call together; lane 0 issues.
struct SbiRing {
  uint32_t full;   // barriers [ring_slots]
  uint32_t slots;  // weights
  int slot_bytes, slot_count;
  int slot = 0;  // to be consumed next
  uint32_t parity = 0;
  bool evict_first = false;
  SbiCursor cursor;

  __device__ __forceinline__ void Issue(const SbiLaunch& launch, const SbiWork& work, int to,
                                        bool elected) {
    uint32_t bytes;
    const uint8_t* from = Next(launch, work, cursor, bytes);
    if (!elected) return;
    ExpectBytesAt(full + to * 8, bytes);
    if (evict_first) {
      BulkCopyAt(slots + to * slot_bytes, from, bytes, full + to * 8, EvictFirstPolicy());
    } else {
      BulkCopyAt(slots + to * slot_bytes, from, bytes, full + to * 8);
    }
  }
  __device__ void Fill(const SbiLaunch& launch, const SbiWork& work, bool elected) {
    cursor.batch = work.item_first;
    Settle(launch, work, cursor);
    for (int i = 0; i < slot_count && cursor.from != nullptr; ++i) {
      Issue(launch, work, i, elected);
    }
  }
  // Asks for what comes after the ring into L2, while the kernel has nothing to multiply yet.
  __device__ void Prefetch(const SbiLaunch& launch, const SbiWork& work, bool elected) const {
    SbiCursor ahead = cursor;
    for (int i = 0; i < launch.config.prefetch_slots && ahead.from != nullptr; ++i) {
      uint32_t bytes;
      const uint8_t* from = Next(launch, work, ahead, bytes);
      if (elected) BulkPrefetchToL2(from, bytes);
    }
  }
  __device__ __forceinline__ uint32_t Wait() const {
    WaitAt(full + slot * 8, parity);
    return slots + slot * slot_bytes;
  }
  // Frees the slot that Wait gave and fills it again.
  __device__ __forceinline__ void Advance(const SbiLaunch& launch, const SbiWork& work,
                                          bool elected) {
    __syncwarp();
    if (cursor.from != nullptr) Issue(launch, work, slot, elected);
    if (++slot == slot_count) {
      slot = 0;
      parity ^= 1;
    }
  }
};

__device__ inline SbiRing MakeRing(const SbiConfig& config, uint8_t* shared, int warp,
                                   bool elected) {
  SbiRing ring;
  ring.slot_count = config.ring_slots;
  ring.slot_bytes = config.slot_tiles * config.tile_bytes;
  auto* full = reinterpret_cast<uint64_t*>(shared) + warp * kSbiRingSlotsMax;
  ring.full = SharedAddress(full);
  ring.slots =
      SharedAddress(shared + config.shared.ring) + warp * ring.slot_count * ring.slot_bytes;
  ring.evict_first = config.evict_first;
  if (elected) {
    for (int i = 0; i < ring.slot_count; ++i) BarrierInit(full + i, 1);
    BarrierInitFence();
  }
  __syncwarp();
  return ring;
}

}  // namespace conclave
