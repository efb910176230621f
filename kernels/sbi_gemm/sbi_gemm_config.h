// How an sbi_gemm is cut for a chip: a pure function of shapes, tested without a GPU. Values; any
// thread. The same shape gives the same config, hence the same bits.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

enum class SbiKind : uint8_t {
  kDense = 0,   // one matrix, fp32 partial sums out
  kGateUp = 1,  // matrices by table, SwiGLU, bf16 out
  kDown = 2,    // matrices by table, fp32 rows out
};
enum class SbiPrologue : uint8_t { kRows = 0, kNorm = 1, kAttention = 2 };

inline constexpr int kSbiWarps = 8;
inline constexpr int kSbiThreads = kSbiWarps * 32;
inline constexpr int kSbiTokensMax = 64;
inline constexpr int kSbiRingSlotsMax = 16;
inline constexpr int kSbiRowStages = 4;  // steps of streamed activations in flight

struct SbiShape {
  SbiKind kind = SbiKind::kDense;
  SbiPrologue prologue = SbiPrologue::kRows;
  WeightFormat format = WeightFormat::kBf16;
  int32_t group = 0;  // inputs that share a scale, as in WeightView
  int32_t outputs = 0;
  int32_t inputs = 0;
  int32_t tokens = 0;
  int32_t slots = 0;  // matrices of the table; 0: no table
  int32_t top_k = 1;
  int32_t splits_max = 16;       // kDense; 1 for plain rows
  int32_t attention_splits = 1;  // of kAttention
  int32_t sm_count = 132;
};

// Where a block's shared memory holds what, in bytes; of host and device.
struct SbiSharedLayout {
  int32_t ring = 0;    // weights: [kSbiWarps][ring_slots][slot_tiles * tile_bytes]
  int32_t reduce = 0;  // sums of the warps that share outputs
  int32_t table = 0;
  int32_t rows = 0;  // activations
  int32_t total = 0;
};

struct SbiConfig {
  int32_t blocks = 0;          // grid
  int32_t splits = 1;          // cuts of K, = slabs of out; blocks / splits blocks each
  int32_t warps_per_item = 1;  // warps that share 16 outputs, each with its part of K: 1, 2, 4, 8
  int32_t token_tiles = 1;     // of 8 rows: 1, 2, 4, 8
  bool streamed = false;       // activations come with the weights, step by step, or all before
  int32_t tile_bytes = 0;      // of a 16 x 64 tile
  int32_t slot_tiles = 1;      // tiles that a warp copies at once
  int32_t ring_slots = 0;      // copies of a warp in flight
  int32_t prefetch_slots = 0;  // further copies asked into L2 before the dependency wait
  bool early_trigger = false;  // dependents start at once and not at the end of the weights
  bool evict_first = false;    // weights leave L2 first
  int32_t row_bytes = 0;       // of a staged activation row
  SbiSharedLayout shared;
};

// Bytes of a 16 x 64 tile with its scales.
absl::StatusOr<int32_t> SbiTileBytes(WeightFormat format, int32_t group);

// InvalidArgument for a shape that no kernel serves; the message names the remedy.
absl::StatusOr<SbiConfig> ChooseSbiConfig(const SbiShape& shape);

// Fills in what follows from splits, warps_per_item, token_tiles, streamed, tile_bytes and
// slot_tiles: blocks, row_bytes, shared, and ring_slots where it is 0. ChooseSbiConfig does it; so
// do tests and benches that change those fields.
void CompleteSbiConfig(const SbiShape& shape, SbiConfig& config);

// The largest share of the weights' stream that one warp gets, over the mean: 1 is perfect.
double SbiImbalance(const SbiShape& shape, const SbiConfig& config);

}  // namespace conclave
