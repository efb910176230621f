// FastBlocks: the blocks of a layer by the fused kernels: they choose kernels by the size of the
// batch and chain them through scratch. Borrows the step; engine's thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/types/model_shape.h"
#include "kernels/add_norm/add_norm.h"
#include "kernels/moe_route/moe_route.h"
#include "kernels/sbi_gemm/sbi_gemm.h"
#include "worker/model/cuda/fast_layers.h"
#include "worker/model/cuda/fast_products.h"
#include "worker/model/cuda/fast_scratch.h"
#include "worker/model/layer_blocks.h"

namespace conclave {

// What the blocks of a step share.
struct FastStep {
  const FastLayersParts& parts;
  FastScratch& scratch;
  const FastBatch& batch;
  const float* rope_table = nullptr;  // [positions, head_dim / 2] cosine and sine
  int32_t sm_count = 0;
  bool overlaps = true;  // dependent launches, weights prefetched to L2
  // Products by sbi_gemm, which streams weights; else by tile_gemm.
  bool streams_qkv = false;
  bool streams_output = false;
  bool streams_ffn = false;  // of dense layers
  bool streams_experts = false;
  bool fuses_attention = true;  // norm, rotation and cache inside decode attention
  bool fuses_gate = true;       // norm, router and gate of a decode step in one kernel
  bool fuses_norm = false;      // every block computes the norm before its product for itself
  bool joins_splits = false;    // the o product joins the splits of attention
  int residual = 0;             // which of the two residual buffers holds the stream
  PendingSum pending;           // what the next norm adds to the residual
  int32_t expert_layer = 0;     // expert layers done
  bool first_launch = true;     // nothing to depend on yet

  float* Residual() const { return scratch.residual(residual); }
  float* OtherResidual() const { return scratch.residual(1 - residual); }
  CudaStream stream() const { return parts.stream; }
  // Experts that the batch reads if it chooses evenly; 1 of a dense layer.
  double TouchedMatrices(const DeviceLayer& layer) const;
};

class FastBlocks : public LayerBlocks {
 public:
  struct Layer {
    const DeviceLayer& weights;
    KvLayer cache;
    const DeviceLayer* next = nullptr;  // whose qkv weights may be prefetched; null: the last
  };
  FastBlocks(FastStep& step, const Layer& layer) : step_(step), layer_(layer) {}

  const ModelShape& shape() const override { return step_.parts.shape; }
  bool HasExperts() const override { return layer_.weights.router.data != nullptr; }
  absl::Status Attention(const AttentionChoices& choices) override;
  absl::Status Dense() override;
  absl::Status Moe(const MoeChoices& choices) override;

 private:
  struct TileFfnArgs {
    int32_t rows = 0;
    const int32_t* group_first = nullptr;
    const void* x = nullptr;  // bf16 [rows, hidden]
    TileEpilogue down = TileEpilogue::kBf16;
  };
  absl::StatusOr<int32_t> ProjectQkv();
  absl::Status RowsOfSlabs(int32_t slabs);
  absl::StatusOr<int32_t> AttendDecodes(QkNorm norm, int32_t slabs);
  absl::Status AttendPrompts(QkNorm norm);
  absl::Status ProjectOutput(int32_t splits);
  absl::Status TileFfn(const TileFfnArgs& ffn);
  absl::Status StreamFfn(const SbiTable& table, bool fuses_norm);
  absl::Status Route(const RouteChoice& choice, const RouteTable& table);
  void PendExperts(PendingKind kind, int64_t row_stride);

  FastStep& step_;
  const Layer layer_;
};

// residual := residual + pending, and scratch's normed rows := its norm by `weight`, if given.
absl::Status TakePending(FastStep& step, const float* weight, int layer);

// A dense product of a small batch with the norm of the residual in front of it: slabs of partial
// sums in `out`, whose count is returned.
struct NormProductArgs {
  const WeightView& weights;
  const float* norm_weight = nullptr;  // used where the norm is fused
  int32_t splits_max = 1;
  float* out = nullptr;
  int64_t out_stride = 0;
};
absl::StatusOr<int32_t> NormProduct(FastStep& step, const NormProductArgs& args);

// Of the next kernel in the chain.
ProductLaunch NextLaunch(FastStep& step);

}  // namespace conclave
