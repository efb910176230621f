#include "kernels/sbi_gemm/sbi_gemm_config.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// Barriers of the rings, then one float for each warp; device code has the same.
constexpr int kHeaderBytes = kSbiWarps * kSbiRingSlotsMax * 8 + 128;
// Fragment loads of places beyond the last row may reach so far.
constexpr int kRowSlackBytes = 128;
// Two blocks of kernels that follow each other share an SM (227 KB for blocks, 1 KB lost for each).
constexpr int kSharedBytesPaired = 112 * 1024;
constexpr int kSharedBytesMax = 227 * 1024;
constexpr int kRowBytesPaired = 40 * 1024;  // activations beyond this leave too small a ring
constexpr int kRowBytesAlone = 128 * 1024;
constexpr int kSlotBytes = 2048;  // of one bulk copy
constexpr int kRingSlotsMin = 3;
constexpr int kPrefetchSlots = 4;
constexpr int64_t kEvictFirstBytes = int64_t{64} << 20;
constexpr int kNormInputsMax = 8192;
// What a byte from L2 costs beside one from HBM.
constexpr double kL2Cost = 0.5;

int CeilDiv(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }
int RoundUp(int a, int b) { return CeilDiv(a, b) * b; }

int RowGroups(const SbiShape& shape) { return CeilDiv(shape.outputs, kTileOutputs); }
int InputTiles(const SbiShape& shape) { return CeilDiv(shape.inputs, kTileInputs); }
int Entries(const SbiShape& shape) {
  return shape.slots == 0 ? shape.tokens : shape.tokens * shape.top_k;
}
int ActiveMax(const SbiShape& shape) {
  return shape.slots == 0 ? 1 : std::min(shape.slots, Entries(shape));
}
// Rows that are staged at once.
int StagedRows(const SbiShape& shape, const SbiConfig& config) {
  const int rows = shape.kind == SbiKind::kDown || config.streamed ? Entries(shape) : shape.tokens;
  return config.streamed ? std::min(rows, 8 * config.token_tiles) : rows;
}
int RowsBytes(const SbiShape& shape, const SbiConfig& config) {
  const int rows = StagedRows(shape, config) * config.row_bytes;
  return config.streamed ? (rows * config.warps_per_item + kRowSlackBytes) * kSbiRowStages
                         : rows + kRowSlackBytes;
}
int64_t BlockItems(const SbiShape& shape, const SbiConfig& config) {
  const int64_t items = int64_t{RowGroups(shape)} * ActiveMax(shape);
  return CeilDiv(items, config.blocks / config.splits);
}
// Tiles of the busiest warp.
int64_t WarpTiles(const SbiShape& shape, const SbiConfig& config) {
  const int teams = kSbiWarps / config.warps_per_item;
  const int k_tiles = CeilDiv(InputTiles(shape), config.splits);
  return int64_t{CeilDiv(BlockItems(shape, config), teams)} *
         CeilDiv(k_tiles, config.warps_per_item);
}

// Bytes that an SM waits for, those from L2 at their discount.
double Cost(const SbiShape& shape, const SbiConfig& config) {
  const int k_tiles = CeilDiv(InputTiles(shape), config.splits);
  double l2 = 0;
  if (config.streamed) {
    const int teams = kSbiWarps / config.warps_per_item;
    l2 += static_cast<double>(CeilDiv(BlockItems(shape, config), teams)) * k_tiles * kTileInputs *
          2 * StagedRows(shape, config);
  } else if (shape.prologue == SbiPrologue::kAttention) {
    l2 += 4.0 * shape.attention_splits * shape.tokens * k_tiles * kTileInputs;
  } else {
    l2 += 2.0 * shape.tokens * k_tiles * kTileInputs;
  }
  // A few tokens: each block of the next kernel reads all slabs. More: they are read once.
  const double readers = shape.tokens <= 4 ? 1 : 1.0 / 16;
  l2 += 4.0 * config.splits * shape.tokens * shape.outputs * readers;
  return static_cast<double>(WarpTiles(shape, config)) * kSbiWarps * config.tile_bytes +
         kL2Cost * l2;
}

absl::Status CheckShape(const SbiShape& shape) {
  if (shape.outputs <= 0 || shape.inputs <= 0 || shape.sm_count <= 0 || shape.splits_max <= 0 ||
      shape.top_k <= 0 || shape.slots < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sbi_gemm: outputs ", shape.outputs, ", inputs ", shape.inputs,
                     ", sm_count, splits_max and top_k must be positive"));
  }
  if (shape.tokens < 1 || shape.tokens > kSbiTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sbi_gemm: ", shape.tokens, " tokens; more than ", kSbiTokensMax, " go to tile_gemm"));
  }
  if (shape.kind == SbiKind::kDown && shape.prologue != SbiPrologue::kRows) {
    return absl::InvalidArgumentError("sbi_gemm: kDown takes rows only");
  }
  if (shape.prologue == SbiPrologue::kNorm &&
      (shape.inputs % 4 != 0 || shape.inputs > kNormInputsMax)) {
    return absl::InvalidArgumentError(absl::StrCat("sbi_gemm: a fused norm of ", shape.inputs,
                                                   " inputs; use add_norm, then rows"));
  }
  if (shape.prologue == SbiPrologue::kAttention && shape.inputs % 4 != 0) {
    return absl::InvalidArgumentError("sbi_gemm: attention inputs must be a multiple of 4");
  }
  return absl::OkStatus();
}

// Blocks and the bytes of a row.
void CutBlocks(const SbiShape& shape, SbiConfig& config) {
  const int64_t items = int64_t{RowGroups(shape)} * ActiveMax(shape);
  const int64_t per_split = std::min<int64_t>(shape.sm_count / config.splits, items);
  config.blocks = static_cast<int>(per_split) * config.splits;
  const int k_tiles = CeilDiv(InputTiles(shape), config.splits);
  const int row_tiles = config.streamed ? config.slot_tiles : k_tiles;
  config.row_bytes = row_tiles * kTileInputs * 2 + 16;  // 16: rows start in different banks
}

// The cheapest cut whose activations fit in `rows_bytes_max`, if there is one.
bool Search(const SbiShape& shape, int rows_bytes_max, bool streamed, SbiConfig& best) {
  const int splits_max = shape.kind == SbiKind::kDense
                             ? std::min({shape.splits_max, InputTiles(shape), shape.sm_count})
                             : 1;
  double best_cost = 0;
  bool found = false;
  for (int splits = 1; splits <= splits_max; ++splits) {
    for (int warps = 1; warps <= kSbiWarps; warps *= 2) {
      SbiConfig config = best;
      config.splits = splits;
      config.warps_per_item = warps;
      config.streamed = streamed;
      CutBlocks(shape, config);
      if (RowsBytes(shape, config) > rows_bytes_max) continue;
      const double cost = Cost(shape, config);
      if (found && cost > 0.98 * best_cost) continue;
      best = config;
      best_cost = cost;
      found = true;
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<int32_t> SbiTileBytes(WeightFormat format, int32_t group) {
  if (format == WeightFormat::kBf16) return kTileElements * 2;
  return absl::InvalidArgumentError(absl::StrCat("sbi_gemm: no kernel for weight format ",
                                                 static_cast<int>(format), " with groups of ",
                                                 group));
}

void CompleteSbiConfig(const SbiShape& shape, SbiConfig& config) {
  CutBlocks(shape, config);
  const int rounds = std::min(config.token_tiles, 2);
  const int reduce =
      config.warps_per_item > 1 ? 2 * kSbiWarps * rounds * 32 * 4 * int{sizeof(float)} : 0;
  const int table = shape.kind == SbiKind::kDense
                        ? 0
                        : RoundUp(16 + 12 * ActiveMax(shape) + 4 * Entries(shape), 128);
  const int rows = RoundUp(RowsBytes(shape, config), 128);
  const int slot = kSbiWarps * config.slot_tiles * config.tile_bytes;
  const int others = kHeaderBytes + reduce + table + rows;
  int budget = kSharedBytesPaired;
  if (budget - others < kRingSlotsMin * slot) budget = kSharedBytesMax;
  // Alone on an SM a ring needs no more than two had together.
  const int slots_max = std::min(kSbiRingSlotsMax, kSharedBytesPaired / slot);
  if (config.ring_slots == 0) {
    config.ring_slots = std::clamp((budget - others) / slot, 1, slots_max);
  }
  config.shared.ring = kHeaderBytes;
  config.shared.reduce = config.shared.ring + config.ring_slots * slot;
  config.shared.table = config.shared.reduce + reduce;
  config.shared.rows = config.shared.table + table;
  config.shared.total = config.shared.rows + rows;
}

absl::StatusOr<SbiConfig> ChooseSbiConfig(const SbiShape& shape) {
  if (absl::Status status = CheckShape(shape); !status.ok()) return status;
  const absl::StatusOr<int32_t> tile_bytes = SbiTileBytes(shape.format, shape.group);
  if (!tile_bytes.ok()) return tile_bytes.status();
  SbiConfig config;
  config.tile_bytes = *tile_bytes;
  config.slot_tiles = std::max(1, kSlotBytes / config.tile_bytes);
  while (8 * config.token_tiles < shape.tokens) config.token_tiles *= 2;
  const bool rows = shape.prologue == SbiPrologue::kRows;
  const bool found = Search(shape, kRowBytesPaired, false, config) ||
                     (rows && Search(shape, kRowBytesPaired, true, config)) ||
                     Search(shape, kRowBytesAlone, rows, config);
  if (!found) {
    return absl::InvalidArgumentError(
        absl::StrCat("sbi_gemm: ", shape.tokens, " tokens of ", shape.inputs,
                     " inputs do not fit in shared memory; allow more splits or give rows"));
  }
  const int64_t bytes = int64_t{RowGroups(shape)} * InputTiles(shape) * config.tile_bytes;
  config.evict_first = bytes > kEvictFirstBytes;
  config.prefetch_slots = kPrefetchSlots;
  CompleteSbiConfig(shape, config);
  return config;
}

double SbiImbalance(const SbiShape& shape, const SbiConfig& config) {
  const double total = static_cast<double>(RowGroups(shape)) * ActiveMax(shape) * InputTiles(shape);
  return static_cast<double>(WarpTiles(shape, config)) * kSbiWarps * shape.sm_count / total;
}

}  // namespace conclave
