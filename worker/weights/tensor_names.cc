#include "worker/weights/tensor_names.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Where the experts and the router of a layer live.
const char* MoeBlockName(Architecture architecture) {
  switch (architecture) {
    case Architecture::kMixtral:
      return "block_sparse_moe";
    case Architecture::kLlama:
    case Architecture::kQwen3:
    case Architecture::kOlmoe:
    case Architecture::kQwen3Moe:
      return "mlp";
  }
  LOG(FATAL) << "no such architecture: " << static_cast<int>(architecture);
}

const char* ExpertMatrixName(Architecture architecture, FfnTensor tensor) {
  const bool mixtral = architecture == Architecture::kMixtral;
  switch (tensor) {
    case FfnTensor::kGate:
      return mixtral ? "w1" : "gate_proj";
    case FfnTensor::kUp:
      return mixtral ? "w3" : "up_proj";
    case FfnTensor::kDown:
      return mixtral ? "w2" : "down_proj";
  }
  LOG(FATAL) << "no such tensor: " << static_cast<int>(tensor);
}

const char* LayerTensorName(LayerTensor tensor) {
  switch (tensor) {
    case LayerTensor::kInputNorm:
      return "input_layernorm";
    case LayerTensor::kFfnNorm:
      return "post_attention_layernorm";
    case LayerTensor::kQuery:
      return "self_attn.q_proj";
    case LayerTensor::kKey:
      return "self_attn.k_proj";
    case LayerTensor::kValue:
      return "self_attn.v_proj";
    case LayerTensor::kOutput:
      return "self_attn.o_proj";
    case LayerTensor::kQueryNorm:
      return "self_attn.q_norm";
    case LayerTensor::kKeyNorm:
      return "self_attn.k_norm";
    case LayerTensor::kRouter:
      return "gate";
  }
  LOG(FATAL) << "no such tensor: " << static_cast<int>(tensor);
}

std::vector<int64_t> LayerTensorDims(const ModelShape& shape, LayerTensor tensor) {
  const int64_t q = static_cast<int64_t>(shape.heads) * shape.head_dim;
  const int64_t kv = static_cast<int64_t>(shape.kv_heads) * shape.head_dim;
  const bool full_width = shape.qk_norm == QkNorm::kFullWidth;
  switch (tensor) {
    case LayerTensor::kInputNorm:
    case LayerTensor::kFfnNorm:
      return {shape.hidden};
    case LayerTensor::kQuery:
      return {q, shape.hidden};
    case LayerTensor::kKey:
    case LayerTensor::kValue:
      return {kv, shape.hidden};
    case LayerTensor::kOutput:
      return {shape.hidden, q};
    case LayerTensor::kQueryNorm:
      return {full_width ? q : shape.head_dim};
    case LayerTensor::kKeyNorm:
      return {full_width ? kv : shape.head_dim};
    case LayerTensor::kRouter:
      return {shape.moe.experts, shape.hidden};
  }
  LOG(FATAL) << "no such tensor: " << static_cast<int>(tensor);
}

std::vector<int64_t> FfnTensorDims(const ModelShape& shape, FfnTensor tensor, int64_t ffn) {
  if (tensor == FfnTensor::kDown) return {shape.hidden, ffn};
  return {ffn, shape.hidden};
}

std::string LayerPrefix(int layer) { return absl::StrCat("model.layers.", layer, "."); }

}  // namespace

NamedTensor TensorOfLayer(const ModelShape& shape, LayerTensor tensor, int layer) {
  std::string name = LayerPrefix(layer);
  if (tensor == LayerTensor::kRouter) absl::StrAppend(&name, MoeBlockName(shape.architecture), ".");
  absl::StrAppend(&name, LayerTensorName(tensor), ".weight");
  return {std::move(name), LayerTensorDims(shape, tensor)};
}

NamedTensor TensorOfExpert(const ModelShape& shape, FfnTensor tensor, int layer, int expert) {
  return {absl::StrCat(LayerPrefix(layer), MoeBlockName(shape.architecture), ".experts.", expert,
                       ".", ExpertMatrixName(shape.architecture, tensor), ".weight"),
          FfnTensorDims(shape, tensor, shape.moe.ffn)};
}

NamedTensor TensorOfDenseFfn(const ModelShape& shape, FfnTensor tensor, int layer) {
  return {absl::StrCat(LayerPrefix(layer), "mlp.", ExpertMatrixName(Architecture::kLlama, tensor),
                       ".weight"),
          FfnTensorDims(shape, tensor, shape.ffn)};
}

std::vector<NamedTensor> AllTensors(const ModelShape& shape) {
  const std::vector<int64_t> table = {shape.vocab, shape.hidden};
  std::vector<NamedTensor> all = {{kEmbeddingTensor, table}, {kFinalNormTensor, {shape.hidden}}};
  if (!shape.tied_embeddings) all.push_back({kHeadTensor, table});
  constexpr FfnTensor kFfn[] = {FfnTensor::kGate, FfnTensor::kUp, FfnTensor::kDown};
  for (int layer = 0; layer < shape.layers; ++layer) {
    for (const LayerTensor tensor :
         {LayerTensor::kInputNorm, LayerTensor::kFfnNorm, LayerTensor::kQuery, LayerTensor::kKey,
          LayerTensor::kValue, LayerTensor::kOutput}) {
      all.push_back(TensorOfLayer(shape, tensor, layer));
    }
    if (shape.qk_norm != QkNorm::kNone) {
      all.push_back(TensorOfLayer(shape, LayerTensor::kQueryNorm, layer));
      all.push_back(TensorOfLayer(shape, LayerTensor::kKeyNorm, layer));
    }
    if (!shape.IsMoeLayer(layer)) {
      for (const FfnTensor tensor : kFfn) all.push_back(TensorOfDenseFfn(shape, tensor, layer));
      continue;
    }
    all.push_back(TensorOfLayer(shape, LayerTensor::kRouter, layer));
    for (int expert = 0; expert < shape.moe.experts; ++expert) {
      for (const FfnTensor tensor : kFfn) {
        all.push_back(TensorOfExpert(shape, tensor, layer, expert));
      }
    }
  }
  return all;
}

}  // namespace conclave
