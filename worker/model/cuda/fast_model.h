// FastModel: a whole model on one GPU, in bfloat16 with fp32 sums, by the fused kernels. A decode
// step is one launch of a CUDA graph captured for its bucket; other steps are enqueued kernel by
// kernel. Nothing in a step waits for the device: the token sampled is the next step's input where
// it lies, and a step may be submitted while the one before runs. See device_model.h.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/model/cuda/device_model.h"
#include "worker/model/cuda/fast_layers.h"
#include "worker/model/cuda/op_trace.h"
#include "worker/model/cuda/step_inputs.h"
#include "worker/model/cuda/step_log.h"
#include "worker/model/step_batch.h"

namespace conclave {

class FastModel : public DeviceModel {
 public:
  static absl::StatusOr<std::unique_ptr<FastModel>> Create(const DeviceModelParts& parts);

  absl::Status Submit(const StepPlan& plan) override;
  bool Done() override;
  absl::Status Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) override;

 private:
  // A captured graph is good for one bucket of batch and context, the inputs' place, and the
  // generation of scratch.
  using GraphKey = std::tuple<int32_t, int32_t, const void*, int, bool>;

  explicit FastModel(const DeviceModelParts& parts);

  absl::Status SubmitDecode(StepLog& log);
  absl::Status SubmitPieces(const StepPlan& plan, StepLog& log);
  absl::Status RunPiece(const StepPlan& plan, StepLog& log);
  absl::Status RunHead(StepLog& log);
  absl::Status ReportLogits(absl::Span<const HeadRow> rows, StepLog& log);
  // The sampled row that each token of the batch takes as input, or -1.
  absl::Status FindSources();
  void KeepSampled();
  absl::Status FetchResults(StepLog& log);
  void AddChosenExperts(const StepLog& log, StepResult& result) const;
  void AddExpertLoads(const StepLog& log, StepResult& result) const;

  DeviceModelParts parts_;
  const ModelShape& shape_;
  CudaStreamOwner stream_;
  StepInputs inputs_;
  OpTrace trace_;
  std::unique_ptr<FastLayers> layers_;
  std::map<GraphKey, CudaGraph> graphs_;

  StepBatch batch_;
  std::vector<int32_t> sources_;
  SampledBefore sampled_before_;  // slot of each request sampled in the step before
  SampledBefore sampled_now_;
  StepLog logs_[2];
  int turn_ = 0;
  std::deque<int> in_flight_;  // indices of logs_
};

}  // namespace conclave
