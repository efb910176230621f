// ExactBlocks: the blocks of one layer by the exact kernels: the same sums in the same order as
// attention_block, dense_block and moe_block on the CPU, so the same bits. Exchanges with peers go
// through host memory. Borrows the step's context (batch, fabric, meter) and device; engine's
// thread.
#pragma once

#include "comm/base/reduction.h"
#include "comm/fabric/moe_exchange.h"
#include "kernels/exact/exact.h"
#include "worker/model/cuda/exact_buffers.h"
#include "worker/model/layer_blocks.h"
#include "worker/model/step_context.h"
#include "worker/weights/device_weights.h"

namespace conclave {

// The batch as the kernels read it, in device memory.
struct ExactBatch {
  const int32_t* ids = nullptr;          // [tokens]
  const int32_t* first_token = nullptr;  // [sequences + 1]
  const int32_t* position = nullptr;     // [sequences]
  const int32_t* first_page = nullptr;   // [sequences + 1]
  const int32_t* page_table = nullptr;
  const float* cosine = nullptr;  // [tokens, head_dim / 2]
  const float* sine = nullptr;
};

// What the blocks of a step share.
struct ExactStep {
  StepContext& ctx;
  ExactBuffers& buffers;
  ExactBatch batch;
  CudaStream stream = nullptr;
  DeviceRows hidden;           // the residual
  bool delta_pending = false;  // buffers.delta is still to be added
};

// Helpers that the model shares with the blocks.
// normed := rms_norm(hidden), a pending delta added to hidden first.
absl::StatusOr<DeviceRows> NormResidual(ExactStep& step, const float* weight);
absl::Status SettleResidual(ExactStep& step);
// data := its sum over the tp group.
absl::Status SumOverTp(ExactStep& step, DeviceRows data, const char* name, int layer);
// y = x W^T, counted.
struct ExactProjectArgs {
  DeviceRows x;
  const WeightView& weights;
  int slices = kReductionSlices;
  DeviceRows y;
};
absl::Status ProjectRows(ExactStep& step, const ExactProjectArgs& args);
// To and from dense host rows; fetching waits.
absl::Status FetchRows(ExactStep& step, DeviceRows from, float* to);
absl::Status StoreRows(ExactStep& step, const float* from, DeviceRows to);

class ExactBlocks : public LayerBlocks {
 public:
  // `cache` and `units` are the layer's.
  struct Layer {
    const DeviceLayer& weights;
    KvLayer cache;
    const std::vector<ExpertUnit>& units;
  };
  ExactBlocks(ExactStep& step, const Layer& layer) : step_(step), layer_(layer) {}

  const ModelShape& shape() const override { return step_.ctx.shape; }
  bool HasExperts() const override { return shape().IsMoeLayer(layer_.weights.layer); }
  absl::Status Attention(const AttentionChoices& choices) override;
  absl::Status Dense() override;
  absl::Status Moe(const MoeChoices& choices) override;

 private:
  absl::Status NormFullWidth(DeviceRows q, DeviceRows k);
  absl::Status NormAndRotate(QkNorm norm, DeviceRows q, DeviceRows k);
  absl::StatusOr<DeviceRows> AttendTokens(DeviceRows q, DeviceRows k, DeviceRows v);
  absl::Status RunFfn(ExactFfnArgs args);
  absl::Status Route(const MoeChoices& choices);
  absl::StatusOr<RowsView> ComputeExperts(const DispatchedEntries& work);
  absl::Status CombineRows(const CombinedParts& combined);
  void CountExperts(const SlotTable& table);

  ExactStep& step_;
  const Layer layer_;
};

}  // namespace conclave
