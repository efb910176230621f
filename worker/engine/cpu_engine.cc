#include "worker/engine/cpu_engine.h"

#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "worker/engine/assignment.h"
#include "worker/kv/kv_pool.h"
#include "worker/model/model.h"
#include "worker/weights/model_weights.h"

namespace conclave {
namespace {

class CpuBackend : public EngineBackend {
 public:
  CpuBackend(const CpuEngineOptions& options, std::atomic<uint64_t>& progress)
      : options_(options), progress_(progress), pool_(options.threads) {}

  absl::StatusOr<Prepared> Load(const Assign& assign, const std::atomic<bool>& cancelled) override;
  StepLimits Limits() const override { return limits_; }
  absl::Status Connect(const Assign& assign, const std::vector<std::string>& nodes,
                       Fabric& fabric) override {
    model_ = std::make_unique<Model>(ModelParts{assign, loaded_.weights, *kv_, fabric, pool_,
                                                progress_, options_.peer_timeout, nodes});
    return absl::OkStatus();
  }
  void Disconnect() override {
    submitted_.clear();
    model_.reset();
  }
  absl::Status Submit(const StepPlan& plan) override {
    submitted_.push_back(plan);
    return absl::OkStatus();
  }
  bool Done() override { return true; }
  absl::Status Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) override {
    const StepPlan plan = std::move(submitted_.front());
    submitted_.pop_front();
    return model_->Forward(plan, sink, result);
  }

 private:
  absl::Status LoadWeights(const Assign& assign, const std::atomic<bool>& cancelled);

  const CpuEngineOptions options_;
  std::atomic<uint64_t>& progress_;
  ComputePool pool_;
  StepLimits limits_;
  std::optional<WeightKey> weight_key_;
  LoadedModel loaded_;
  std::unique_ptr<KvPool> kv_;
  std::unique_ptr<Model> model_;
  std::deque<StepPlan> submitted_;  // a step runs when it is collected
};

absl::Status CpuBackend::LoadWeights(const Assign& assign, const std::atomic<bool>& cancelled) {
  WeightKey key = WeightKeyOf(assign);
  if (weight_key_.has_value() && *weight_key_ == key) return absl::OkStatus();
  weight_key_.reset();
  loaded_ = {};
  RETURN_IF_ERROR(CheckWeightBudget(assign, options_.memory_bytes));
  ASSIGN_OR_RETURN(std::unique_ptr<WeightSource> source,
                   OpenWeightSource(assign.source, assign.shape));
  ASSIGN_OR_RETURN(loaded_, LoadModelWeights(assign, *source, pool_, progress_, cancelled));
  weight_key_ = std::move(key);
  return absl::OkStatus();
}

absl::StatusOr<Prepared> CpuBackend::Load(const Assign& assign,
                                          const std::atomic<bool>& cancelled) {
  if (assign.compute.quantization != Quantization::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("--quantization ", QuantizationName(assign.compute.quantization),
                     " runs on GPUs only; leave it out, or give --device cuda:N"));
  }
  kv_.reset();
  RETURN_IF_ERROR(LoadWeights(assign, cancelled));
  const KvGeometry geometry = KvGeometryOf(assign);
  Prepared prepared;
  prepared.weight_bytes = loaded_.weights.bytes();
  prepared.checkpoint_bytes_read = loaded_.checkpoint_bytes_read;
  prepared.checkpoint_bytes_share = loaded_.checkpoint_bytes_share;
  ASSIGN_OR_RETURN(prepared.kv_pages, KvPagesFor(geometry, assign.cache, options_.memory_bytes,
                                                 prepared.weight_bytes));
  ASSIGN_OR_RETURN(kv_, KvPool::Create(geometry, prepared.kv_pages));
  limits_ = StepLimitsOf(assign, prepared.kv_pages);
  return prepared;
}

}  // namespace

std::unique_ptr<Engine> CreateCpuEngine(CpuEngineOptions options, EngineListener& listener) {
  CHECK_GE(options.threads, 1);
  QueueEngineOptions queue;
  queue.make_endpoint = options.make_endpoint;
  queue.make_backend = [options = std::move(options)](std::atomic<uint64_t>& progress) {
    return std::make_unique<CpuBackend>(options, progress);
  };
  return CreateQueueEngine(std::move(queue), listener);
}

}  // namespace conclave
