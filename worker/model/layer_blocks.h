// LayerBlocks: what the layers of all architectures are made of, as seen by the file of an
// architecture: it calls the blocks of one layer in order and says its choices; how a device
// computes them is the implementation's (cpu_blocks.h, cuda/). Made per step, engine's thread.
#pragma once

#include "absl/status/status.h"
#include "comm/types/model_shape.h"

namespace conclave {

struct AttentionChoices {
  QkNorm qk_norm = QkNorm::kNone;
};

struct MoeChoices {
  bool normalize = true;  // scale the weights of the chosen experts to sum to 1
};

class LayerBlocks {
 public:
  virtual ~LayerBlocks() = default;

  virtual const ModelShape& shape() const = 0;
  // Whether the layer under way holds experts.
  virtual bool HasExperts() const = 0;

  // Norm, projections, rotation, paged attention, output projection; leaves its result to be added
  // to the residual.
  virtual absl::Status Attention(const AttentionChoices& choices) = 0;
  // Norm and SwiGLU feed-forward.
  virtual absl::Status Dense() = 0;
  // Norm, router, experts. Every rank of a stage calls it for every layer with experts, tokens or
  // not: others' tokens go through its experts.
  virtual absl::Status Moe(const MoeChoices& choices) = 0;
};

}  // namespace conclave
