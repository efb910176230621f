#include <algorithm>
#include <utility>

#include "comm/base/reduction.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "worker/weights/dummy_source.h"
#include "worker/weights/load_tasks.h"
#include "worker/weights/model_weights.h"
#include "worker/weights/rank_slices.h"
#include "worker/weights/safetensors_source.h"
#include "worker/weights/tensor_loader.h"
#include "worker/weights/tensor_names.h"

namespace conclave {
namespace {

// Rows of the embedding or head that one task loads: whole panels.
constexpr int64_t kTableRows = 256 * PackedMatrix::kPanel;

// Loads one rank: makes the frame of ModelWeights, then a list of tasks that each fill a different
// part of it.
class RankLoad {
 public:
  RankLoad(const Assign& assign, TensorLoader& loader, ModelWeights& weights)
      : assign_(assign),
        shape_(assign.shape),
        slices_(SlicesOf(assign)),
        loader_(loader),
        weights_(weights) {}

  absl::StatusOr<std::vector<LoadTask>> Tasks();

 private:
  absl::Status AddTable(const char* name, PackedMatrix& matrix);
  void AddLayer(LayerWeights& layer);

  absl::Status LoadAttention(AttentionWeights& attention, int layer);
  absl::Status LoadQkNorms(AttentionWeights& attention, int layer);
  absl::Status LoadRouter(LayerWeights& layer);
  absl::StatusOr<FfnWeights> LoadExpert(int layer, const ExpertUnit& unit);
  absl::StatusOr<FfnWeights> LoadDense(int layer);
  absl::StatusOr<std::vector<float>> LoadNorm(LayerTensor tensor, int layer);

  IndexRange Width(IndexRange heads) const {
    return {heads.begin * shape_.head_dim, heads.end * shape_.head_dim};
  }

  const Assign& assign_;
  const ModelShape& shape_;
  const RankSlices slices_;
  TensorLoader& loader_;
  ModelWeights& weights_;
  std::vector<LoadTask> tasks_;
};

absl::StatusOr<std::vector<LoadTask>> RankLoad::Tasks() {
  weights_.vocab_begin = slices_.vocab.begin;
  weights_.vocab_end = slices_.vocab.end;
  if (slices_.first_stage) RETURN_IF_ERROR(AddTable(kEmbeddingTensor, weights_.embedding));
  weights_.layers.resize(slices_.layers.end - slices_.layers.begin);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    weights_.layers[i].layer = slices_.layers.begin + static_cast<int>(i);
    AddLayer(weights_.layers[i]);
  }
  if (!slices_.last_stage) return std::move(tasks_);
  weights_.head_is_embedding = HeadIsEmbedding(assign_);
  if (!weights_.head_is_embedding) {
    RETURN_IF_ERROR(
        AddTable(shape_.tied_embeddings ? kEmbeddingTensor : kHeadTensor, weights_.head));
  }
  tasks_.push_back([this]() -> absl::Status {
    ASSIGN_OR_RETURN(weights_.final_norm,
                     loader_.ReadVector({kFinalNormTensor, {shape_.hidden}}, {0, shape_.hidden}));
    return absl::OkStatus();
  });
  return std::move(tasks_);
}

absl::Status RankLoad::AddTable(const char* name, PackedMatrix& matrix) {
  const NamedTensor tensor{name, {shape_.vocab, shape_.hidden}};
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(tensor));
  matrix = PackedMatrix(slices_.vocab.size(), shape_.hidden, dtype, kReductionSlices);
  for (int64_t row = 0; row < slices_.vocab.size(); row += kTableRows) {
    const int64_t begin = slices_.vocab.begin + row;
    const IndexRange rows{begin, std::min(begin + kTableRows, slices_.vocab.end)};
    tasks_.push_back(
        [this, tensor, rows, row, &matrix] { return loader_.ReadRows(tensor, rows, matrix, row); });
  }
  return absl::OkStatus();
}

void RankLoad::AddLayer(LayerWeights& layer) {
  tasks_.push_back([this, &layer] { return LoadAttention(layer.attention, layer.layer); });
  tasks_.push_back([this, &layer]() -> absl::Status {
    ASSIGN_OR_RETURN(layer.ffn_norm, LoadNorm(LayerTensor::kFfnNorm, layer.layer));
    return absl::OkStatus();
  });
  if (!shape_.IsMoeLayer(layer.layer)) {
    layer.slots.resize(1);
    tasks_.push_back([this, &layer]() -> absl::Status {
      ASSIGN_OR_RETURN(layer.slots[0], LoadDense(layer.layer));
      return absl::OkStatus();
    });
    return;
  }
  tasks_.push_back([this, &layer] { return LoadRouter(layer); });
  const std::vector<ExpertUnit> units = UnitsOf(assign_, layer.layer);
  layer.slots.resize(units.size());
  for (size_t slot = 0; slot < units.size(); ++slot) {
    tasks_.push_back([this, &layer, slot, unit = units[slot]]() -> absl::Status {
      ASSIGN_OR_RETURN(layer.slots[slot], LoadExpert(layer.layer, unit));
      return absl::OkStatus();
    });
  }
}

absl::Status RankLoad::LoadAttention(AttentionWeights& attention, int layer) {
  const NamedTensor query = TensorOfLayer(shape_, LayerTensor::kQuery, layer);
  const NamedTensor key = TensorOfLayer(shape_, LayerTensor::kKey, layer);
  const NamedTensor value = TensorOfLayer(shape_, LayerTensor::kValue, layer);
  const IndexRange q = Width(slices_.heads), kv = Width(slices_.kv_heads);
  attention.heads = static_cast<int>(slices_.heads.size());
  attention.kv_heads = static_cast<int>(slices_.kv_heads.size());
  ASSIGN_OR_RETURN(attention.input_norm, LoadNorm(LayerTensor::kInputNorm, layer));
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(query));
  attention.qkv = PackedMatrix(q.size() + 2 * kv.size(), shape_.hidden, dtype, kReductionSlices);
  RETURN_IF_ERROR(loader_.ReadRows(query, q, attention.qkv, 0));
  RETURN_IF_ERROR(loader_.ReadRows(key, kv, attention.qkv, q.size()));
  RETURN_IF_ERROR(loader_.ReadRows(value, kv, attention.qkv, q.size() + kv.size()));
  ASSIGN_OR_RETURN(attention.output,
                   loader_.ReadColumns(TensorOfLayer(shape_, LayerTensor::kOutput, layer), q,
                                       kReductionSlices / slices_.tp_size));
  return LoadQkNorms(attention, layer);
}

absl::Status RankLoad::LoadQkNorms(AttentionWeights& attention, int layer) {
  if (shape_.qk_norm == QkNorm::kNone) return absl::OkStatus();
  const bool full_width = shape_.qk_norm == QkNorm::kFullWidth;
  const IndexRange head{0, shape_.head_dim};
  ASSIGN_OR_RETURN(attention.q_norm,
                   loader_.ReadVector(TensorOfLayer(shape_, LayerTensor::kQueryNorm, layer),
                                      full_width ? Width(slices_.heads) : head));
  ASSIGN_OR_RETURN(attention.k_norm,
                   loader_.ReadVector(TensorOfLayer(shape_, LayerTensor::kKeyNorm, layer),
                                      full_width ? Width(slices_.kv_heads) : head));
  return absl::OkStatus();
}

absl::Status RankLoad::LoadRouter(LayerWeights& layer) {
  const NamedTensor router = TensorOfLayer(shape_, LayerTensor::kRouter, layer.layer);
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(router));
  layer.router = PackedMatrix(shape_.moe.experts, shape_.hidden, dtype, kReductionSlices);
  return loader_.ReadRows(router, {0, shape_.moe.experts}, layer.router, 0);
}

absl::StatusOr<FfnWeights> RankLoad::LoadExpert(int layer, const ExpertUnit& unit) {
  return loader_.ReadFfn({TensorOfExpert(shape_, FfnTensor::kGate, layer, unit.expert),
                          TensorOfExpert(shape_, FfnTensor::kUp, layer, unit.expert),
                          TensorOfExpert(shape_, FfnTensor::kDown, layer, unit.expert)},
                         UnitFfn(assign_, unit), kReductionSlices / assign_.plan.spec.slices);
}

absl::StatusOr<FfnWeights> RankLoad::LoadDense(int layer) {
  return loader_.ReadFfn({TensorOfDenseFfn(shape_, FfnTensor::kGate, layer),
                          TensorOfDenseFfn(shape_, FfnTensor::kUp, layer),
                          TensorOfDenseFfn(shape_, FfnTensor::kDown, layer)},
                         slices_.dense_ffn, kReductionSlices / slices_.tp_size);
}

absl::StatusOr<std::vector<float>> RankLoad::LoadNorm(LayerTensor tensor, int layer) {
  return loader_.ReadVector(TensorOfLayer(shape_, tensor, layer), {0, shape_.hidden});
}

}  // namespace

int64_t ModelWeights::bytes() const {
  int64_t total = embedding.bytes() + head.bytes();
  int64_t floats = static_cast<int64_t>(final_norm.size());
  for (const LayerWeights& layer : layers) {
    const AttentionWeights& attention = layer.attention;
    total += attention.qkv.bytes() + attention.output.bytes() + layer.router.bytes();
    floats += static_cast<int64_t>(attention.input_norm.size() + attention.q_norm.size() +
                                   attention.k_norm.size() + layer.ffn_norm.size());
    for (const FfnWeights& slot : layer.slots) total += slot.bytes();
  }
  return total + floats * static_cast<int64_t>(sizeof(float));
}

absl::StatusOr<LoadedModel> LoadModelWeights(const Assign& assign, WeightSource& source,
                                             ComputePool& pool, std::atomic<uint64_t>& progress,
                                             const std::atomic<bool>& cancelled) {
  LoadedModel loaded;
  loaded.checkpoint_bytes_share = CheckpointShareBytes(assign);
  const int64_t read_before = source.bytes_read();
  TensorLoader loader(source, progress, cancelled);
  RankLoad load(assign, loader, loaded.weights);
  ASSIGN_OR_RETURN(const std::vector<LoadTask> tasks, load.Tasks());
  RETURN_IF_ERROR(RunLoadTasks(tasks, pool));
  loaded.checkpoint_bytes_read = source.bytes_read() - read_before;
  return loaded;
}

absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeightSource(const ModelSource& source,
                                                               const ModelShape& shape) {
  if (source.dummy) return std::make_unique<DummySource>(shape, source.dummy_seed);
  ASSIGN_OR_RETURN(std::unique_ptr<WeightSource> opened, SafetensorsSource::Open(source.path));
  return opened;
}

}  // namespace conclave
