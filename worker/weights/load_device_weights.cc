#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/reduction.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/weight_pack/quant_tiles.h"
#include "worker/weights/device_weights.h"
#include "worker/weights/load_tasks.h"
#include "worker/weights/rank_slices.h"
#include "worker/weights/tensor_loader.h"
#include "worker/weights/tensor_names.h"
#include "worker/weights/weight_uploader.h"

namespace conclave {
namespace {

constexpr int64_t kBlockBytes = 5 << 20;  // a little more than blocks of TensorLoader
constexpr int64_t kTableRows = 4096;      // of the embedding or head, that one task loads

// One matrix of a view that is filled from tensors.
struct Target {
  WeightView view;
  int32_t matrix = 0;
  RowPlacement placement = RowPlacement::kPlain;
};

WeightFormat FormatOf(Dtype dtype) {
  if (dtype == Dtype::kF32) return WeightFormat::kF32;
  return dtype == Dtype::kF16 ? WeightFormat::kF16 : WeightFormat::kBf16;
}

WeightFormat FormatOf(Quantization quantization) {
  switch (quantization) {
    case Quantization::kFp8:
      return WeightFormat::kFp8;
    case Quantization::kInt8:
      return WeightFormat::kInt8;
    case Quantization::kInt4:
      return WeightFormat::kInt4;
    case Quantization::kNf4:
      return WeightFormat::kNf4;
    case Quantization::kMxfp4:
      return WeightFormat::kMxfp4;
    default:
      return WeightFormat::kBf16;
  }
}

// Allocates the frame of DeviceWeights, then makes tasks that each fill a different part of it.
class DeviceLoad {
 public:
  DeviceLoad(const Assign& assign, TensorLoader& loader, WeightUploader& uploader,
             DeviceWeights& weights)
      : assign_(assign),
        shape_(assign.shape),
        slices_(SlicesOf(assign)),
        loader_(loader),
        uploader_(uploader),
        weights_(weights) {}

  absl::StatusOr<std::vector<LoadTask>> Tasks();

 private:
  struct Matrix {
    int64_t outputs = 0;
    int64_t inputs = 0;
    int64_t count = 1;
  };
  // Whether a matrix keeps the plain format when others are quantised.
  enum class Keep { kPlain, kMayQuantize };

  absl::StatusOr<WeightView> Allocate(Matrix matrix, Dtype source, Keep keep);
  absl::StatusOr<float*> AllocateFloats(int64_t count);
  absl::Status AddVector(const NamedTensor& tensor, IndexRange range, const float** to);
  absl::Status AddTable(const char* name, Keep keep, WeightView* view);
  void AddRows(const NamedTensor& tensor, IndexRange rows, Target target, int64_t first);
  void AddColumns(const NamedTensor& tensor, IndexRange columns, Target target);
  absl::Status AddLayer(DeviceLayer& layer);
  absl::Status AddAttention(DeviceLayer& layer);
  absl::Status AddQkNorms(DeviceLayer& layer);
  absl::Status AddExperts(DeviceLayer& layer);
  absl::Status AddDense(DeviceLayer& layer);
  absl::Status AllocateFfn(DeviceLayer& layer, const NamedTensor& gate, int64_t count);
  absl::Status ReadPart(const NamedTensor& tensor, const TensorRegion& region, Target target,
                        int64_t first);

  IndexRange Width(IndexRange heads) const {
    return {heads.begin * shape_.head_dim, heads.end * shape_.head_dim};
  }

  const Assign& assign_;
  const ModelShape& shape_;
  const RankSlices slices_;
  TensorLoader& loader_;
  WeightUploader& uploader_;
  DeviceWeights& weights_;
  std::vector<LoadTask> tasks_;
};

absl::StatusOr<WeightView> DeviceLoad::Allocate(Matrix matrix, Dtype source, Keep keep) {
  WeightView view;
  view.outputs = static_cast<int32_t>(matrix.outputs);
  view.inputs = static_cast<int32_t>(matrix.inputs);
  view.matrices = static_cast<int32_t>(matrix.count);
  view.format = assign_.compute.deterministic ? FormatOf(source) : WeightFormat::kBf16;
  const Quantization quantization = assign_.compute.quantization;
  if (keep == Keep::kMayQuantize && quantization != Quantization::kNone) {
    view.format = FormatOf(quantization);
    view.group = QuantGroup(view.format, assign_.compute.quant_group);
  }
  view.matrix_bytes = MatrixBytes(view);
  const int64_t bytes = view.matrix_bytes * matrix.count;
  ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(std::max<int64_t>(bytes, 16)));
  RETURN_IF_ERROR(FillDevice(buffer.data(), 0, buffer.bytes(), nullptr));
  view.data = buffer.data();
  weights_.bytes += bytes;
  weights_.buffers.push_back(std::move(buffer));
  return view;
}

absl::StatusOr<float*> DeviceLoad::AllocateFloats(int64_t count) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(bytes));
  weights_.bytes += bytes;
  weights_.buffers.push_back(std::move(buffer));
  return weights_.buffers.back().as<float>();
}

absl::Status DeviceLoad::AddVector(const NamedTensor& tensor, IndexRange range, const float** to) {
  ASSIGN_OR_RETURN(float* const place, AllocateFloats(range.size()));
  *to = place;
  tasks_.push_back([this, tensor, range, place]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<float> values, loader_.ReadVector(tensor, range));
    return uploader_.UploadFloats(values, place);
  });
  return absl::OkStatus();
}

absl::Status DeviceLoad::ReadPart(const NamedTensor& tensor, const TensorRegion& region,
                                  Target target, int64_t first) {
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(tensor));
  if (assign_.compute.deterministic && FormatOf(dtype) != target.view.format) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", tensor.name, "' has dtype ", DtypeName(dtype),
                     ", unlike the tensors it is held with; convert the checkpoint to one dtype"));
  }
  const int64_t columns = region.col_end - region.col_begin;
  return loader_.ReadBlocks(
      tensor, region, dtype, [&](int64_t row, int64_t count, const void* data) -> absl::Status {
        PackRowsArgs args;
        args.out = target.view;
        args.matrix = target.matrix;
        args.placement = target.placement;
        args.first = first + row;
        args.count = count;
        args.dtype = dtype;
        args.columns = columns;
        return uploader_.Upload(args, data,
                                count * columns * static_cast<int64_t>(DtypeBytes(dtype)));
      });
}

void DeviceLoad::AddRows(const NamedTensor& tensor, IndexRange rows, Target target, int64_t first) {
  tasks_.push_back([this, tensor, rows, target, first] {
    return ReadPart(tensor, {rows.begin, rows.end, 0, tensor.dims[1]}, target, first);
  });
}

void DeviceLoad::AddColumns(const NamedTensor& tensor, IndexRange columns, Target target) {
  tasks_.push_back([this, tensor, columns, target] {
    return ReadPart(tensor, {0, tensor.dims[0], columns.begin, columns.end}, target, 0);
  });
}

absl::Status DeviceLoad::AddTable(const char* name, Keep keep, WeightView* view) {
  const NamedTensor tensor{name, {shape_.vocab, shape_.hidden}};
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(tensor));
  ASSIGN_OR_RETURN(*view, Allocate({slices_.vocab.size(), shape_.hidden}, dtype, keep));
  for (int64_t row = 0; row < slices_.vocab.size(); row += kTableRows) {
    const int64_t begin = slices_.vocab.begin + row;
    AddRows(tensor, {begin, std::min(begin + kTableRows, slices_.vocab.end)}, {*view}, row);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<LoadTask>> DeviceLoad::Tasks() {
  weights_.vocab_begin = slices_.vocab.begin;
  weights_.vocab_end = slices_.vocab.end;
  if (slices_.first_stage) {
    RETURN_IF_ERROR(AddTable(kEmbeddingTensor, Keep::kPlain, &weights_.embedding));
  }
  weights_.layers.resize(slices_.layers.end - slices_.layers.begin);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    weights_.layers[i].layer = slices_.layers.begin + static_cast<int>(i);
    RETURN_IF_ERROR(AddLayer(weights_.layers[i]));
  }
  if (!slices_.last_stage) return std::move(tasks_);
  if (HeadIsEmbedding(assign_)) {
    weights_.head = weights_.embedding;
  } else {
    RETURN_IF_ERROR(AddTable(shape_.tied_embeddings ? kEmbeddingTensor : kHeadTensor,
                             Keep::kMayQuantize, &weights_.head));
  }
  RETURN_IF_ERROR(
      AddVector({kFinalNormTensor, {shape_.hidden}}, {0, shape_.hidden}, &weights_.final_norm));
  return std::move(tasks_);
}

absl::Status DeviceLoad::AddLayer(DeviceLayer& layer) {
  RETURN_IF_ERROR(AddAttention(layer));
  RETURN_IF_ERROR(AddVector(TensorOfLayer(shape_, LayerTensor::kFfnNorm, layer.layer),
                            {0, shape_.hidden}, &layer.ffn_norm));
  return shape_.IsMoeLayer(layer.layer) ? AddExperts(layer) : AddDense(layer);
}

absl::Status DeviceLoad::AddAttention(DeviceLayer& layer) {
  const NamedTensor query = TensorOfLayer(shape_, LayerTensor::kQuery, layer.layer);
  const IndexRange q = Width(slices_.heads), kv = Width(slices_.kv_heads);
  layer.heads = static_cast<int>(slices_.heads.size());
  layer.kv_heads = static_cast<int>(slices_.kv_heads.size());
  RETURN_IF_ERROR(AddVector(TensorOfLayer(shape_, LayerTensor::kInputNorm, layer.layer),
                            {0, shape_.hidden}, &layer.input_norm));
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(query));
  ASSIGN_OR_RETURN(layer.qkv,
                   Allocate({q.size() + 2 * kv.size(), shape_.hidden}, dtype, Keep::kMayQuantize));
  AddRows(query, q, {layer.qkv}, 0);
  AddRows(TensorOfLayer(shape_, LayerTensor::kKey, layer.layer), kv, {layer.qkv}, q.size());
  AddRows(TensorOfLayer(shape_, LayerTensor::kValue, layer.layer), kv, {layer.qkv},
          q.size() + kv.size());
  const NamedTensor output = TensorOfLayer(shape_, LayerTensor::kOutput, layer.layer);
  layer.output_slices = kReductionSlices / slices_.tp_size;
  ASSIGN_OR_RETURN(layer.output, Allocate({shape_.hidden, q.size()}, dtype, Keep::kMayQuantize));
  AddColumns(output, q, {layer.output});
  return AddQkNorms(layer);
}

absl::Status DeviceLoad::AddQkNorms(DeviceLayer& layer) {
  if (shape_.qk_norm == QkNorm::kNone) return absl::OkStatus();
  const bool full_width = shape_.qk_norm == QkNorm::kFullWidth;
  const IndexRange head{0, shape_.head_dim};
  RETURN_IF_ERROR(AddVector(TensorOfLayer(shape_, LayerTensor::kQueryNorm, layer.layer),
                            full_width ? Width(slices_.heads) : head, &layer.q_norm));
  return AddVector(TensorOfLayer(shape_, LayerTensor::kKeyNorm, layer.layer),
                   full_width ? Width(slices_.kv_heads) : head, &layer.k_norm);
}

absl::Status DeviceLoad::AllocateFfn(DeviceLayer& layer, const NamedTensor& gate, int64_t count) {
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(gate));
  const int64_t padded = (layer.ffn + 7) / 8 * 8;
  ASSIGN_OR_RETURN(layer.gate_up,
                   Allocate({2 * padded, shape_.hidden, count}, dtype, Keep::kMayQuantize));
  ASSIGN_OR_RETURN(layer.down,
                   Allocate({shape_.hidden, layer.ffn, count}, dtype, Keep::kMayQuantize));
  return absl::OkStatus();
}

absl::Status DeviceLoad::AddExperts(DeviceLayer& layer) {
  const NamedTensor router = TensorOfLayer(shape_, LayerTensor::kRouter, layer.layer);
  ASSIGN_OR_RETURN(const Dtype dtype, loader_.CheckedDtype(router));
  ASSIGN_OR_RETURN(layer.router,
                   Allocate({shape_.moe.experts, shape_.hidden}, dtype, Keep::kPlain));
  AddRows(router, {0, shape_.moe.experts}, {layer.router}, 0);
  const std::vector<ExpertUnit> units = UnitsOf(assign_, layer.layer);
  layer.ffn = shape_.moe.ffn / assign_.plan.spec.slices;
  layer.down_slices = kReductionSlices / assign_.plan.spec.slices;
  RETURN_IF_ERROR(AllocateFfn(layer, TensorOfExpert(shape_, FfnTensor::kGate, layer.layer, 0),
                              static_cast<int64_t>(units.size())));
  for (size_t slot = 0; slot < units.size(); ++slot) {
    const IndexRange ffn = UnitFfn(assign_, units[slot]);
    CHECK_EQ(ffn.size(), layer.ffn) << "expert slices of unequal widths";
    const int32_t matrix = static_cast<int32_t>(slot);
    const auto tensor = [&](FfnTensor which) {
      return TensorOfExpert(shape_, which, layer.layer, units[slot].expert);
    };
    AddRows(tensor(FfnTensor::kGate), ffn, {layer.gate_up, matrix, RowPlacement::kGate}, 0);
    AddRows(tensor(FfnTensor::kUp), ffn, {layer.gate_up, matrix, RowPlacement::kUp}, 0);
    AddColumns(tensor(FfnTensor::kDown), ffn, {layer.down, matrix});
  }
  return absl::OkStatus();
}

absl::Status DeviceLoad::AddDense(DeviceLayer& layer) {
  const auto tensor = [&](FfnTensor which) { return TensorOfDenseFfn(shape_, which, layer.layer); };
  layer.ffn = slices_.dense_ffn.size();
  layer.down_slices = kReductionSlices / slices_.tp_size;
  RETURN_IF_ERROR(AllocateFfn(layer, tensor(FfnTensor::kGate), 1));
  AddRows(tensor(FfnTensor::kGate), slices_.dense_ffn, {layer.gate_up, 0, RowPlacement::kGate}, 0);
  AddRows(tensor(FfnTensor::kUp), slices_.dense_ffn, {layer.gate_up, 0, RowPlacement::kUp}, 0);
  AddColumns(tensor(FfnTensor::kDown), slices_.dense_ffn, {layer.down});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadedDeviceModel> LoadDeviceWeights(const Assign& assign, WeightSource& source,
                                                    const DeviceLoadOptions& options) {
  LoadedDeviceModel loaded;
  loaded.checkpoint_bytes_share = CheckpointShareBytes(assign);
  const int64_t read_before = source.bytes_read();
  TensorLoader loader(source, *options.progress, *options.cancelled);
  ASSIGN_OR_RETURN(const std::unique_ptr<WeightUploader> uploader,
                   WeightUploader::Create(options.device, kBlockBytes));
  DeviceLoad load(assign, loader, *uploader, loaded.weights);
  ASSIGN_OR_RETURN(const std::vector<LoadTask> tasks, load.Tasks());
  // Zeros of the frames come before the rows that are packed on another stream.
  RETURN_IF_ERROR(SynchronizeCudaDevice());
  RETURN_IF_ERROR(RunLoadTasks(tasks, *options.pool));
  RETURN_IF_ERROR(uploader->Finish());
  loaded.checkpoint_bytes_read = source.bytes_read() - read_before;
  return loaded;
}

}  // namespace conclave
