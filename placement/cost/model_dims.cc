#include "placement/cost/model_dims.h"

#include <algorithm>

namespace conclave {

int ModelDims::MoeLayers() const {
  return static_cast<int>(std::count(moe_layers.begin(), moe_layers.end(), true));
}

double ModelDims::AttentionWeights() const {
  const double h = hidden;
  if (kv_rank == 0) {
    const double q = static_cast<double>(heads) * head_dim;
    const double kv = static_cast<double>(kv_heads) * head_dim;
    return h * (2 * q + 2 * kv);
  }
  const double key = static_cast<double>(heads) * (head_dim + rope_dim);
  const double query = q_rank > 0 ? q_rank * (h + key) : h * key;
  const double latent = h * (kv_rank + rope_dim);
  const double up = static_cast<double>(kv_rank) * heads * (head_dim + value_dim);
  const double output = static_cast<double>(heads) * value_dim * h;
  return query + latent + up + output;
}

double ModelDims::ExpertWeights() const {
  return static_cast<double>(ffn_matrices) * hidden * expert_ffn;
}

double ModelDims::SharedWeights() const {
  return static_cast<double>(ffn_matrices) * hidden * shared_ffn;
}

double ModelDims::DenseFfnWeights() const {
  return static_cast<double>(ffn_matrices) * hidden * ffn;
}

double ModelDims::RouterWeights() const { return static_cast<double>(hidden) * experts; }

double ModelDims::VocabularyWeights() const { return static_cast<double>(vocab) * hidden; }

double ModelDims::TotalWeights() const {
  const int moe = MoeLayers();
  double total = layers * AttentionWeights() + (layers - moe) * DenseFfnWeights();
  total += moe * (experts * ExpertWeights() + SharedWeights() + RouterWeights());
  return total + VocabularyWeights() * (tied_embeddings ? 1 : 2);
}

double ModelDims::KvBytesPerTokenLayer(int tp) const {
  const double number = NumberFormatBytes(kv_format);
  if (kv_rank > 0) return (kv_rank + rope_dim) * number;
  return 2.0 * std::max(1, kv_heads / tp) * head_dim * number;
}

namespace {

NumberFormat FormatOf(Dtype dtype) {
  return dtype == Dtype::kF32 ? NumberFormat::kF32 : NumberFormat::kBf16;
}

}  // namespace

ModelDims DimsOf(const ModelShape& shape) {
  ModelDims dims;
  dims.name = shape.name;
  dims.layers = shape.layers;
  dims.hidden = shape.hidden;
  dims.vocab = shape.vocab;
  dims.context_tokens = shape.context_tokens;
  dims.tied_embeddings = shape.tied_embeddings;
  dims.heads = shape.heads;
  dims.kv_heads = shape.kv_heads;
  dims.head_dim = shape.head_dim;
  dims.ffn = shape.ffn;
  dims.experts = shape.moe.experts;
  dims.top_k = shape.moe.top_k;
  dims.expert_ffn = shape.moe.ffn;
  for (int layer = 0; layer < shape.layers; ++layer) {
    dims.moe_layers.push_back(shape.IsMoeLayer(layer));
  }
  dims.format = FormatOf(shape.weight_dtype);
  dims.expert_format = dims.format;
  return dims;
}

}  // namespace conclave
