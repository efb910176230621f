#include "worker/engine/assignment.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

absl::Status Refuse(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrFormat("assignment: %s; the coordinator must plan again", what));
}

absl::Status CheckStages(const ParallelPlan& plan, const ModelShape& shape) {
  if (plan.stages.size() != static_cast<size_t>(plan.spec.pp)) {
    return Refuse(absl::StrFormat("%d stages for pp=%d", plan.stages.size(), plan.spec.pp));
  }
  int next = 0;
  for (const LayerRange& range : plan.stages) {
    if (range.begin != next || range.end <= range.begin) {
      return Refuse(absl::StrFormat("stage of layers [%d, %d) where one from layer %d was due",
                                    range.begin, range.end, next));
    }
    next = range.end;
  }
  if (next == shape.layers) return absl::OkStatus();
  return Refuse(absl::StrFormat("stages end at layer %d of %d", next, shape.layers));
}

// The tables come from the wire: nothing about them is known.
absl::Status CheckExperts(const LayerExperts& layer, const ParallelSpec& spec,
                          const ModelShape& shape) {
  const std::vector<int32_t>& first = layer.first();
  const std::vector<int32_t>& ranks = layer.ranks();
  const size_t units = static_cast<size_t>(shape.moe.experts) * spec.slices;
  if (layer.slices() != spec.slices || first.size() != units + 1) {
    return Refuse(absl::StrFormat(
        "an expert map of %d units in %d slices, where the model and "
        "the plan have %d in %d",
        static_cast<int64_t>(first.size()) - 1, layer.slices(), units, spec.slices));
  }
  if (first.front() != 0 || first.back() != static_cast<int64_t>(ranks.size())) {
    return Refuse("an expert map whose tables do not fit together");
  }
  for (size_t u = 0; u < units; ++u) {
    if (first[u + 1] <= first[u]) {
      return Refuse(
          absl::StrFormat("slice %d of expert %d has no owner", u % spec.slices, u / spec.slices));
    }
  }
  for (size_t u = 0; u < units; ++u) {
    for (int32_t i = first[u]; i < first[u + 1]; ++i) {
      const bool rises = i == first[u] || ranks[i] > ranks[i - 1];
      if (ranks[i] < 0 || ranks[i] >= spec.StageSize() || !rises) {
        return Refuse(absl::StrFormat("expert %d is owned by stage rank %d of %d", u / spec.slices,
                                      ranks[i], spec.StageSize()));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const ModelShape& shape) {
  const bool positive = shape.layers > 0 && shape.hidden > 0 && shape.heads > 0 &&
                        shape.kv_heads > 0 && shape.head_dim > 0 && shape.vocab > 0;
  if (!positive || shape.head_dim % 2 != 0 || shape.heads % shape.kv_heads != 0) {
    return Refuse(absl::StrFormat(
        "a shape of %d layers, hidden %d, %d heads, %d kv heads of %d, vocab %d is not possible",
        shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.vocab));
  }
  if (shape.IsMoe() && (shape.moe.top_k < 1 || shape.moe.top_k > shape.moe.experts)) {
    return Refuse(absl::StrFormat("top_k %d of %d experts is not possible", shape.moe.top_k,
                                  shape.moe.experts));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckAssign(const Assign& assign) {
  const ParallelPlan& plan = assign.plan;
  RETURN_IF_ERROR(CheckShape(assign.shape));
  ASSIGN_OR_RETURN(const ParallelSpec spec, ResolveParallelSpec(plan.spec, assign.shape));
  if (assign.rank < 0 || assign.rank >= spec.WorkerCount()) {
    return Refuse(absl::StrFormat("rank %d of %d", assign.rank, spec.WorkerCount()));
  }
  RETURN_IF_ERROR(CheckStages(plan, assign.shape));
  if (!assign.shape.IsMoe()) return absl::OkStatus();
  if (plan.experts.layers.size() != static_cast<size_t>(assign.shape.layers)) {
    return Refuse(absl::StrFormat("an expert map of %d layers for a model of %d",
                                  plan.experts.layers.size(), assign.shape.layers));
  }
  for (int layer = 0; layer < assign.shape.layers; ++layer) {
    if (!assign.shape.IsMoeLayer(layer)) continue;
    RETURN_IF_ERROR(WithContext(CheckExperts(plan.experts.layers[layer], spec, assign.shape),
                                absl::StrCat("layer ", layer)));
  }
  return absl::OkStatus();
}

WeightKey WeightKeyOf(const Assign& assign) {
  const ParallelSpec& spec = assign.plan.spec;
  const GridPosition at = spec.PositionOf(assign.rank);
  WeightKey key;
  key.shape = assign.shape;
  key.shape.name.clear();
  key.source = assign.source;
  key.tp = at.tp;
  key.tp_size = spec.tp;
  key.first_stage = at.pp == 0;
  key.last_stage = at.pp == spec.pp - 1;
  key.layers = assign.plan.stages[at.pp];
  key.compute = assign.compute;
  for (int layer = key.layers.begin; layer < key.layers.end; ++layer) {
    if (assign.shape.IsMoeLayer(layer)) {
      key.units.push_back(assign.plan.experts.layers[layer].UnitsOf(spec.StageRankOf(at)));
    } else {
      key.units.emplace_back();
    }
  }
  return key;
}

int64_t WeightBytesAtLeast(const Assign& assign) {
  const ModelShape& shape = assign.shape;
  const WeightKey key = WeightKeyOf(assign);
  int64_t parameters = 0;
  for (int layer = key.layers.begin; layer < key.layers.end; ++layer) {
    const int64_t units = static_cast<int64_t>(key.units[layer - key.layers.begin].size());
    const int64_t all = shape.LayerParameters(layer);
    if (shape.IsMoeLayer(layer)) {
      parameters += (all - shape.moe.experts * shape.ExpertParameters()) / key.tp_size;
      parameters += units * shape.ExpertParameters() / assign.plan.spec.slices;
    } else {
      parameters += all / key.tp_size;
    }
  }
  if (key.first_stage || key.last_stage) {
    parameters += static_cast<int64_t>(shape.vocab) * shape.hidden / key.tp_size;
  }
  const int64_t bytes = parameters * static_cast<int64_t>(DtypeBytes(shape.weight_dtype));
  switch (assign.compute.quantization) {
    case Quantization::kNone:
      return bytes;
    case Quantization::kFp8:
    case Quantization::kInt8:
      return bytes / 2;
    default:
      return bytes / 4;
  }
}

absl::Status CheckWeightBudget(const Assign& assign, int64_t memory_bytes) {
  const int64_t need = WeightBytesAtLeast(assign);
  if (memory_bytes <= 0 || need <= memory_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "the weights of this rank take at least %.1f MiB, the worker's memory budget is %.1f MiB; "
      "raise the budget or use more workers",
      need / 1048576.0, memory_bytes / 1048576.0));
}

KvGeometry KvGeometryOf(const Assign& assign) {
  const ParallelSpec& spec = assign.plan.spec;
  const LayerRange range = assign.plan.stages[spec.PositionOf(assign.rank).pp];
  KvGeometry geometry;
  geometry.layers = range.end - range.begin;
  // More tp ranks than kv heads: several hold the same one.
  geometry.kv_heads = std::max(1, assign.shape.kv_heads / spec.tp);
  geometry.head_dim = assign.shape.head_dim;
  geometry.page_tokens = assign.cache.page_tokens;
  geometry.dtype = assign.cache.dtype;
  return geometry;
}

StepLimits StepLimitsOf(const Assign& assign, int32_t kv_pages) {
  const ParallelSpec& spec = assign.plan.spec;
  return {assign.shape.vocab, kv_pages, assign.cache.page_tokens, spec.dp,
          spec.PositionOf(assign.rank).dp};
}

}  // namespace conclave
