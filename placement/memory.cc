#include "placement/memory.h"

#include <algorithm>

#include "glog/logging.h"

namespace conclave {
namespace {

int64_t AttentionBytes(const ModelShape& shape, const ParallelSpec& spec) {
  const int64_t element = DtypeBytes(shape.weight_dtype);
  const int64_t q = static_cast<int64_t>(shape.heads) / spec.tp * shape.head_dim;
  const int64_t kv = static_cast<int64_t>(KvHeadsOfRank(shape, spec.tp)) * shape.head_dim;
  int64_t norms = 2 * static_cast<int64_t>(shape.hidden);
  if (shape.qk_norm == QkNorm::kPerHead) norms += 2 * static_cast<int64_t>(shape.head_dim);
  if (shape.qk_norm == QkNorm::kFullWidth) norms += q + kv;
  return shape.hidden * (2 * q + 2 * kv) * element + norms * DtypeBytes(Dtype::kF32);
}

// Experts of the group g own [ceil(g * experts / ep), ceil((g + 1) * experts / ep)): the inverse of
// expert * ep / experts.
int64_t ExpertsOfGroup(const ModelShape& shape, const ParallelSpec& spec, int group) {
  const int64_t experts = shape.moe.experts;
  const auto begin = [&](int64_t g) { return (g * experts + spec.ep - 1) / spec.ep; };
  return begin(group + 1) - begin(group);
}

int64_t FfnBytes(const ModelShape& shape, const ParallelSpec& spec, int layer, int stage_rank) {
  const int64_t element = DtypeBytes(shape.weight_dtype);
  if (!shape.IsMoeLayer(layer)) {
    return 3 * static_cast<int64_t>(shape.hidden) * shape.ffn / spec.tp * element;
  }
  const int64_t router = static_cast<int64_t>(shape.hidden) * shape.moe.experts;
  const int64_t held = ExpertsOfGroup(shape, spec, stage_rank / spec.slices);
  return (router + held * shape.ExpertParameters() / spec.slices) * element;
}

// The embedding lies on the first stage and the head on the last, both cut over tp by vocabulary
// rows.
int64_t VocabularyBytes(const ModelShape& shape, const ParallelSpec& spec, GridPosition at) {
  const int64_t begin = static_cast<int64_t>(at.tp) * shape.vocab / spec.tp;
  const int64_t end = static_cast<int64_t>(at.tp + 1) * shape.vocab / spec.tp;
  const int64_t table = (end - begin) * shape.hidden * DtypeBytes(shape.weight_dtype);
  const bool first = at.pp == 0;
  const bool last = at.pp == spec.pp - 1;
  if (first && last) return shape.tied_embeddings ? table : 2 * table;
  return first || last ? table : 0;
}

}  // namespace

std::vector<LayerRange> SplitLayers(int layers, int stages) {
  CHECK_GT(stages, 0);
  CHECK_GE(layers, stages);
  std::vector<LayerRange> ranges;
  int begin = 0;
  for (int stage = 0; stage < stages; ++stage) {
    const int count = layers / stages + (stage < layers % stages ? 1 : 0);
    ranges.push_back({begin, begin + count});
    begin += count;
  }
  return ranges;
}

int KvHeadsOfRank(const ModelShape& shape, int tp) { return std::max(1, shape.kv_heads / tp); }

RankMemory MemoryOfRank(const ModelShape& shape, const ParallelSpec& spec, LayerRange stage,
                        GridPosition position, Dtype kv_dtype) {
  RankMemory memory;
  memory.weight_bytes = VocabularyBytes(shape, spec, position);
  if (position.pp == spec.pp - 1) memory.weight_bytes += shape.hidden * DtypeBytes(Dtype::kF32);
  for (int layer = stage.begin; layer < stage.end; ++layer) {
    memory.weight_bytes += AttentionBytes(shape, spec);
    memory.weight_bytes += FfnBytes(shape, spec, layer, spec.StageRankOf(position));
  }
  memory.kv_bytes_per_token = 2 * static_cast<int64_t>(KvHeadsOfRank(shape, spec.tp)) *
                              shape.head_dim * (stage.end - stage.begin) * DtypeBytes(kv_dtype);
  return memory;
}

std::vector<RankMemory> MemoryOfPlan(const ModelShape& shape, const ParallelPlan& plan,
                                     Dtype kv_dtype) {
  std::vector<RankMemory> ranks;
  for (int rank = 0; rank < plan.spec.WorkerCount(); ++rank) {
    const GridPosition at = plan.spec.PositionOf(rank);
    ranks.push_back(MemoryOfRank(shape, plan.spec, plan.stages[at.pp], at, kv_dtype));
  }
  return ranks;
}

}  // namespace conclave
