#include "comm/types/model_shape.h"

#include <algorithm>

#include "glog/logging.h"

namespace conclave {

absl::string_view ArchitectureName(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return "llama";
    case Architecture::kQwen3:
      return "qwen3";
    case Architecture::kMixtral:
      return "mixtral";
    case Architecture::kOlmoe:
      return "olmoe";
    case Architecture::kQwen3Moe:
      return "qwen3_moe";
  }
  LOG(FATAL) << "no such architecture: " << static_cast<int>(architecture);
}

bool ModelShape::IsMoeLayer(int layer) const {
  return IsMoe() && !std::binary_search(dense_layers.begin(), dense_layers.end(), layer);
}

int64_t ModelShape::AttentionParameters() const {
  const int64_t q = static_cast<int64_t>(heads) * head_dim;
  const int64_t kv = static_cast<int64_t>(kv_heads) * head_dim;
  int64_t norms = 2 * static_cast<int64_t>(hidden);
  if (qk_norm == QkNorm::kPerHead) norms += 2 * head_dim;
  if (qk_norm == QkNorm::kFullWidth) norms += q + kv;
  return hidden * (2 * q + 2 * kv) + norms;
}

int64_t ModelShape::ExpertParameters() const { return 3 * static_cast<int64_t>(hidden) * moe.ffn; }

int64_t ModelShape::LayerParameters(int layer) const {
  if (!IsMoeLayer(layer)) return AttentionParameters() + 3 * static_cast<int64_t>(hidden) * ffn;
  return AttentionParameters() + static_cast<int64_t>(hidden) * moe.experts +
         moe.experts * ExpertParameters();
}

int64_t ModelShape::TotalParameters() const {
  const int64_t embedding = static_cast<int64_t>(vocab) * hidden;
  int64_t total = embedding * (tied_embeddings ? 1 : 2) + hidden;
  for (int layer = 0; layer < layers; ++layer) total += LayerParameters(layer);
  return total;
}

}  // namespace conclave
