#include "worker/weights/rank_slices.h"

#include "glog/logging.h"

namespace conclave {
namespace {

int64_t AttentionElements(const ModelShape& shape, const RankSlices& slices) {
  const int64_t q = slices.heads.size() * shape.head_dim;
  const int64_t kv = slices.kv_heads.size() * shape.head_dim;
  int64_t norms = 2 * static_cast<int64_t>(shape.hidden);
  if (shape.qk_norm == QkNorm::kPerHead) norms += 2 * static_cast<int64_t>(shape.head_dim);
  if (shape.qk_norm == QkNorm::kFullWidth) norms += q + kv;
  return shape.hidden * (2 * q + 2 * kv) + norms;
}

int64_t FfnElements(const Assign& assign, const RankSlices& slices, int layer) {
  const int64_t hidden = assign.shape.hidden;
  if (!assign.shape.IsMoeLayer(layer)) return 3 * hidden * slices.dense_ffn.size();
  int64_t elements = hidden * assign.shape.moe.experts;
  for (const ExpertUnit& unit : UnitsOf(assign, layer)) {
    elements += 3 * hidden * UnitFfn(assign, unit).size();
  }
  return elements;
}

}  // namespace

IndexRange PartOf(int64_t size, int index, int parts) {
  return {size * index / parts, size * (index + 1) / parts};
}

RankSlices SlicesOf(const Assign& assign) {
  const ModelShape& shape = assign.shape;
  const ParallelSpec& spec = assign.plan.spec;
  CHECK(assign.rank >= 0 && assign.rank < spec.WorkerCount()) << assign.rank;
  CHECK_EQ(static_cast<int>(assign.plan.stages.size()), spec.pp);
  CHECK_EQ(shape.heads % spec.tp, 0);
  CHECK_EQ(shape.heads % shape.kv_heads, 0);
  const GridPosition position = spec.PositionOf(assign.rank);
  const int group = shape.heads / shape.kv_heads;
  RankSlices slices;
  slices.layers = assign.plan.stages[position.pp];
  slices.first_stage = position.pp == 0;
  slices.last_stage = position.pp == spec.pp - 1;
  slices.stage_rank = spec.StageRankOf(position);
  slices.tp_size = spec.tp;
  slices.heads = PartOf(shape.heads, position.tp, spec.tp);
  slices.kv_heads = {slices.heads.begin / group, (slices.heads.end - 1) / group + 1};
  slices.dense_ffn = PartOf(shape.ffn, position.tp, spec.tp);
  slices.vocab = PartOf(shape.vocab, position.tp, spec.tp);
  return slices;
}

std::vector<ExpertUnit> UnitsOf(const Assign& assign, int layer) {
  CHECK_LT(layer, static_cast<int>(assign.plan.experts.layers.size()));
  const ParallelSpec& spec = assign.plan.spec;
  return assign.plan.experts.layers[layer].UnitsOf(spec.StageRankOf(spec.PositionOf(assign.rank)));
}

IndexRange UnitFfn(const Assign& assign, const ExpertUnit& unit) {
  return PartOf(assign.shape.moe.ffn, unit.slice, assign.plan.spec.slices);
}

bool HeadIsEmbedding(const Assign& assign) {
  return assign.shape.tied_embeddings && assign.plan.spec.pp == 1;
}

int64_t CheckpointShareBytes(const Assign& assign) {
  const RankSlices slices = SlicesOf(assign);
  const int64_t hidden = assign.shape.hidden;
  int64_t elements = 0;
  for (int layer = slices.layers.begin; layer < slices.layers.end; ++layer) {
    elements += AttentionElements(assign.shape, slices) + FfnElements(assign, slices, layer);
  }
  if (slices.first_stage) elements += slices.vocab.size() * hidden;
  if (slices.last_stage) {
    elements += hidden;
    if (!HeadIsEmbedding(assign)) elements += slices.vocab.size() * hidden;
  }
  return elements * static_cast<int64_t>(DtypeBytes(assign.shape.weight_dtype));
}

}  // namespace conclave
