#include "worker/model/cuda/fast_products.h"

#include <algorithm>

#include "comm/base/status.h"

namespace conclave {

absl::StatusOr<int32_t> StreamProduct(SbiArgs args, int32_t splits_max,
                                      const ProductLaunch& launch) {
  SbiShape shape;
  shape.kind = args.kind;
  shape.prologue = args.prologue;
  shape.format = args.weights.format;
  shape.group = args.weights.group;
  shape.outputs = args.weights.outputs;
  shape.inputs = args.weights.inputs;
  shape.tokens = args.tokens;
  shape.slots = args.table.active_count != nullptr ? args.weights.matrices : 0;
  shape.top_k = args.table.top_k;
  shape.splits_max = splits_max;
  shape.attention_splits = args.attention.splits;
  shape.sm_count = launch.sm_count;
  ASSIGN_OR_RETURN(const SbiConfig config, ChooseSbiConfig(shape));
  RETURN_IF_ERROR(SbiGemm(args, config, {launch.stream, launch.dependent}));
  return config.splits;
}

absl::Status TileProduct(TileGemmArgs args, const ProductLaunch& launch) {
  TileGemmShape shape;
  shape.outputs = args.weights.outputs;
  shape.inputs = args.weights.inputs;
  shape.rows = args.rows;
  shape.matrices = args.group_first != nullptr ? args.weights.matrices : 0;
  shape.sm_count = launch.sm_count;
  ASSIGN_OR_RETURN(const TileConfig config, ChooseTileConfig(shape));
  args.stream = launch.stream;
  args.dependent = launch.dependent;
  return TileGemm(args, config);
}

OpCost ProductCost(const WeightView& weights, int64_t rows, double matrices) {
  OpCost cost;
  cost.bytes = matrices * static_cast<double>(weights.matrix_bytes) +
               2.0 * rows * (weights.inputs + weights.outputs);
  cost.flops = 2.0 * rows * weights.inputs * weights.outputs;
  return cost;
}

}  // namespace conclave
