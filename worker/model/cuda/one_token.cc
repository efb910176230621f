#include "worker/model/cuda/one_token.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "comm/base/status.h"

namespace conclave {
namespace {

TokenShape ShapeOf(const ModelShape& shape, const DeviceWeights& weights, int32_t page_tokens) {
  TokenShape token;
  token.layers = static_cast<int32_t>(weights.layers.size());
  for (const DeviceLayer& layer : weights.layers) {
    const bool moe = layer.router.data != nullptr;
    token.moe_layers += moe ? 1 : 0;
    (moe ? token.ffn : token.dense_ffn) = static_cast<int32_t>(layer.ffn);
  }
  token.hidden = shape.hidden;
  token.heads = shape.heads;
  token.kv_heads = shape.kv_heads;
  token.head_dim = shape.head_dim;
  token.qk_norm = shape.qk_norm == QkNorm::kPerHead     ? TokenQkNorm::kPerHead
                  : shape.qk_norm == QkNorm::kFullWidth ? TokenQkNorm::kFullWidth
                                                        : TokenQkNorm::kNone;
  token.experts = token.moe_layers > 0 ? shape.moe.experts : 0;
  token.top_k = token.moe_layers > 0 ? shape.moe.top_k : 0;
  // As the architectures choose: Mixtral always scales the chosen weights.
  token.normalize = shape.architecture == Architecture::kMixtral || shape.moe.normalize_top_k;
  token.epsilon = shape.norm_epsilon;
  token.format = weights.layers[0].qkv.format;
  token.group = weights.layers[0].qkv.group;
  token.page_tokens = page_tokens;
  return token;
}

TokenLayer LayerFor(const DeviceLayer& weights, const KvLayer& cache) {
  TokenLayer layer;
  layer.qkv = weights.qkv;
  layer.output = weights.output;
  layer.router = weights.router;
  layer.gate_up = weights.gate_up;
  layer.down = weights.down;
  layer.input_norm = weights.input_norm;
  layer.q_norm = weights.q_norm;
  layer.k_norm = weights.k_norm;
  layer.ffn_norm = weights.ffn_norm;
  layer.cache = {cache.data, cache.pages, cache.page_tokens, cache.kv_heads, cache.head_dim};
  return layer;
}

}  // namespace

absl::StatusOr<OneToken> OneToken::Create(const ModelShape& shape, const DeviceWeights& weights,
                                          const DeviceKvPool& kv) {
  OneToken one;
  one.args_.shape = ShapeOf(shape, weights, kv.geometry().page_tokens);
  if (!TokenStepRuns(one.args_.shape)) return one;
  std::vector<TokenLayer> layers;
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    layers.push_back(LayerFor(weights.layers[i], kv.Layer(static_cast<int>(i))));
  }
  RETURN_IF_ERROR(CheckTokenLayers(one.args_.shape, layers));
  const int64_t bytes = static_cast<int64_t>(layers.size() * sizeof(TokenLayer));
  const int64_t workspace = TokenStepWorkspaceBytes(one.args_.shape);
  const int64_t chosen = int64_t{4} * one.args_.shape.moe_layers * one.args_.shape.top_k;
  ASSIGN_OR_RETURN(one.layers_, DeviceBuffer::Create(bytes));
  ASSIGN_OR_RETURN(one.workspace_, DeviceBuffer::Create(workspace));
  ASSIGN_OR_RETURN(one.chosen_, DeviceBuffer::Create(std::max<int64_t>(chosen, 4)));
  RETURN_IF_ERROR(CopyToDevice(one.layers_.data(), layers.data(), bytes, nullptr));
  RETURN_IF_ERROR(FillDevice(one.workspace_.data(), 0, workspace, nullptr));
  RETURN_IF_ERROR(SynchronizeCudaDevice());
  one.args_.layers = one.layers_.as<TokenLayer>();
  one.args_.workspace = one.workspace_.data();
  if (chosen > 0) one.args_.chosen = one.chosen_.as<int32_t>();
  return one;
}

absl::Status OneToken::Run(const Input& input) const {
  TokenStepArgs args = args_;
  args.residual = input.residual;
  args.position = input.position;
  args.page_table = input.page_table;
  args.rope = input.rope;
  args.stream = input.stream;
  return TokenStep(args);
}

}  // namespace conclave
