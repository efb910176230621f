// CpuBlocks: the blocks of one layer on the CPU. Borrows the step's context and the layer; engine's
// thread.
#pragma once

#include "worker/model/attention_block.h"
#include "worker/model/dense_block.h"
#include "worker/model/layer_blocks.h"
#include "worker/model/moe_block.h"

namespace conclave {

class CpuBlocks : public LayerBlocks {
 public:
  CpuBlocks(StepContext& ctx, LayerState& layer) : ctx_(ctx), layer_(layer) {}

  const ModelShape& shape() const override { return ctx_.shape; }
  bool HasExperts() const override { return ctx_.shape.IsMoeLayer(layer_.weights->layer); }
  absl::Status Attention(const AttentionChoices& choices) override {
    return AttentionBlock(ctx_, layer_, choices);
  }
  absl::Status Dense() override { return DenseBlock(ctx_, layer_); }
  absl::Status Moe(const MoeChoices& choices) override { return MoeBlock(ctx_, layer_, choices); }

 private:
  StepContext& ctx_;
  LayerState& layer_;
};

}  // namespace conclave
