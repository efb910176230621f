// Model shapes for tests: small, legal, with round numbers. Values; any thread.
#pragma once

#include "comm/types/model_shape.h"

namespace conclave {

// 6 layers, 8 heads, 4 kv heads, 16 experts: legal for tp up to 8 and any dp.
inline ModelShape TestMoeShape() {
  ModelShape shape;
  shape.architecture = Architecture::kQwen3Moe;
  shape.layers = 6;
  shape.hidden = 64;
  shape.heads = 8;
  shape.kv_heads = 4;
  shape.head_dim = 8;
  shape.ffn = 128;
  shape.vocab = 1000;
  shape.context_tokens = 256;
  shape.qk_norm = QkNorm::kPerHead;
  shape.moe = {.experts = 16, .top_k = 2, .ffn = 32};
  return shape;
}

inline ModelShape TestDenseShape() {
  ModelShape shape = TestMoeShape();
  shape.architecture = Architecture::kLlama;
  shape.qk_norm = QkNorm::kNone;
  shape.moe = {};
  return shape;
}

}  // namespace conclave
