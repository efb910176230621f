// The engine of a binary built without CUDA: it refuses to prepare, and says why.
#include <utility>

#include "comm/device/cuda_memory.h"
#include "worker/engine/cuda_engine.h"

namespace conclave {
namespace {

class AbsentBackend : public EngineBackend {
 public:
  absl::StatusOr<Prepared> Load(const Assign&, const std::atomic<bool>&) override {
    return CurrentCudaMemory().status();
  }
  StepLimits Limits() const override { return {}; }
  absl::Status Connect(const Assign&, const std::vector<std::string>&, Fabric&) override {
    return CurrentCudaMemory().status();
  }
  void Disconnect() override {}
  absl::Status Submit(const StepPlan&) override { return CurrentCudaMemory().status(); }
  bool Done() override { return true; }
  absl::Status Collect(absl::FunctionRef<void(Logits)>, StepResult&) override {
    return CurrentCudaMemory().status();
  }
};

}  // namespace

std::unique_ptr<Engine> CreateCudaEngine(CudaEngineOptions options, EngineListener& listener) {
  QueueEngineOptions queue;
  queue.make_endpoint = options.make_endpoint;
  queue.make_backend = [](std::atomic<uint64_t>&) { return std::make_unique<AbsentBackend>(); };
  return CreateQueueEngine(std::move(queue), listener);
}

}  // namespace conclave
