#include "worker/engine/cuda_engine.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/device/cuda_memory.h"
#include "glog/logging.h"
#include "worker/engine/assignment.h"
#include "worker/model/cuda/device_model.h"
#include "worker/weights/device_weights.h"
#include "worker/weights/model_weights.h"

namespace conclave {
namespace {

// Of a worker's budget, for the activations of a step: what a step of some thousand tokens takes.
// Larger steps take what is free.
constexpr int64_t kScratchBytes = int64_t{2} << 30;

class CudaBackend : public EngineBackend {
 public:
  CudaBackend(const CudaEngineOptions& options, std::atomic<uint64_t>& progress)
      : options_(options), progress_(progress), pool_(options.threads) {}

  absl::StatusOr<Prepared> Load(const Assign& assign, const std::atomic<bool>& cancelled) override;
  StepLimits Limits() const override { return limits_; }
  absl::Status Connect(const Assign& assign, const std::vector<std::string>& nodes,
                       Fabric& fabric) override;
  void Disconnect() override;
  absl::Status Submit(const StepPlan& plan) override { return model_->Submit(plan); }
  bool Done() override { return model_->Done(); }
  absl::Status Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) override {
    return model_->Collect(sink, result);
  }

 private:
  absl::Status LoadWeights(const Assign& assign, const std::atomic<bool>& cancelled);
  absl::StatusOr<int64_t> Budget() const;

  const CudaEngineOptions options_;
  std::atomic<uint64_t>& progress_;
  ComputePool pool_;
  StepLimits limits_;
  std::optional<WeightKey> weight_key_;
  LoadedDeviceModel loaded_;
  std::unique_ptr<DeviceKvPool> kv_;
  std::unique_ptr<DeviceModel> model_;
};

// The packers and tiles of quantised weights exist; the products of a step do not take them yet.
absl::Status CheckRuns(const Assign& assign) {
  if (assign.compute.quantization == Quantization::kNone) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--quantization ", QuantizationName(assign.compute.quantization),
                   ": this version computes with weights as the checkpoint has them, in bfloat16; "
                   "leave --quantization out"));
}

absl::StatusOr<int64_t> CudaBackend::Budget() const {
  if (options_.memory_bytes > 0) return options_.memory_bytes;
  ASSIGN_OR_RETURN(const CudaMemory memory, CurrentCudaMemory());
  return memory.free_bytes / 100 * 94 + loaded_.weights.bytes;
}

absl::Status CudaBackend::LoadWeights(const Assign& assign, const std::atomic<bool>& cancelled) {
  WeightKey key = WeightKeyOf(assign);
  if (weight_key_.has_value() && *weight_key_ == key) return absl::OkStatus();
  weight_key_.reset();
  loaded_ = {};
  RETURN_IF_ERROR(CheckWeightBudget(assign, options_.memory_bytes));
  ASSIGN_OR_RETURN(std::unique_ptr<WeightSource> source,
                   OpenWeightSource(assign.source, assign.shape));
  ASSIGN_OR_RETURN(loaded_, LoadDeviceWeights(assign, *source,
                                              {options_.device, &pool_, &progress_, &cancelled}));
  weight_key_ = std::move(key);
  return absl::OkStatus();
}

absl::StatusOr<Prepared> CudaBackend::Load(const Assign& assign,
                                           const std::atomic<bool>& cancelled) {
  RETURN_IF_ERROR(UseCudaDevice(options_.device));
  RETURN_IF_ERROR(CheckRuns(assign));
  kv_.reset();
  RETURN_IF_ERROR(LoadWeights(assign, cancelled));
  const KvGeometry geometry = KvGeometryOf(assign);
  Prepared prepared;
  prepared.weight_bytes = loaded_.weights.bytes;
  prepared.checkpoint_bytes_read = loaded_.checkpoint_bytes_read;
  prepared.checkpoint_bytes_share = loaded_.checkpoint_bytes_share;
  ASSIGN_OR_RETURN(const int64_t budget, Budget());
  const int64_t scratch = std::min(kScratchBytes, budget / 8);
  ASSIGN_OR_RETURN(prepared.kv_pages,
                   KvPagesFor(geometry, assign.cache, budget - scratch, prepared.weight_bytes));
  ASSIGN_OR_RETURN(kv_, DeviceKvPool::Create(geometry, prepared.kv_pages));
  limits_ = StepLimitsOf(assign, prepared.kv_pages);
  return prepared;
}

absl::Status CudaBackend::Connect(const Assign& assign, const std::vector<std::string>& nodes,
                                  Fabric& fabric) {
  const DeviceModelParts parts = {assign,
                                  loaded_.weights,
                                  *kv_,
                                  fabric,
                                  pool_,
                                  progress_,
                                  options_.peer_timeout,
                                  options_.trace ? &options_.trace : nullptr,
                                  options_.tuning,
                                  nodes};
  const bool fast = FastModelRuns(assign);
  LOG(INFO) << "cuda:" << options_.device << " computes "
            << (fast ? "in bfloat16 with the fused kernels"
                     : "with the exact kernels, whose bits are the same in every grid");
  ASSIGN_OR_RETURN(model_, fast ? CreateFastModel(parts) : CreateExactModel(parts));
  return absl::OkStatus();
}

void CudaBackend::Disconnect() {
  if (model_ == nullptr) return;
  // A fault of the device was reported by the step that met it.
  SynchronizeCudaDevice().IgnoreError();
  model_.reset();
}

}  // namespace

std::unique_ptr<Engine> CreateCudaEngine(CudaEngineOptions options, EngineListener& listener) {
  CHECK_GE(options.threads, 1);
  QueueEngineOptions queue;
  queue.make_endpoint = options.make_endpoint;
  queue.make_backend = [options = std::move(options)](std::atomic<uint64_t>& progress) {
    return std::make_unique<CudaBackend>(options, progress);
  };
  return CreateQueueEngine(std::move(queue), listener);
}

}  // namespace conclave
