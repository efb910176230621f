#include "tests/sim/canary_engine.h"

#include <utility>

namespace conclave {
namespace {

// Steps after which the fault shows.
constexpr uint64_t kFirstBadStep = 20;

class CanaryEngine : public Engine, public EngineListener {
 public:
  CanaryEngine(Canary canary, FakeEngineOptions options, EngineListener& listener)
      : canary_(canary), listener_(listener), engine_(std::move(options), *this) {}

  FakeEngine* fake() { return &engine_; }

  void Prepare(Epoch epoch, const Assign& assign) override { engine_.Prepare(epoch, assign); }
  void Connect(Epoch epoch, const Commit& commit) override { engine_.Connect(epoch, commit); }
  void Abort(Epoch epoch, const std::string& reason) override { engine_.Abort(epoch, reason); }
  void RunStep(const StepPlan& plan) override {
    StepPlan changed = plan;
    if (canary_ == Canary::kPage) {
      for (SequenceSlice& slice : changed.batch) {
        for (int32_t& page : slice.pages) page = page == 1 ? 0 : page;
      }
    }
    engine_.RunStep(changed);
  }
  uint64_t progress() const override {
    return canary_ == Canary::kHang ? ++asked_ : engine_.progress();
  }

  void OnPrepared(Epoch epoch, Prepared prepared) override {
    listener_.OnPrepared(epoch, std::move(prepared));
  }
  void OnConnected(Epoch epoch) override { listener_.OnConnected(epoch); }
  void OnLogits(Epoch epoch, Logits logits) override {
    listener_.OnLogits(epoch, std::move(logits));
  }
  void OnStepDone(Epoch epoch, StepResult result) override {
    ++steps_;
    const bool bad = steps_ >= kFirstBadStep;
    if (bad && canary_ == Canary::kHang) return;
    if (bad && canary_ == Canary::kToken && !result.tokens.empty()) result.tokens[0].token ^= 1;
    listener_.OnStepDone(epoch, std::move(result));
  }
  void OnFault(Epoch epoch, StepId step, absl::Status status) override {
    listener_.OnFault(epoch, step, std::move(status));
  }

 private:
  const Canary canary_;
  EngineListener& listener_;
  FakeEngine engine_;
  uint64_t steps_ = 0;
  mutable uint64_t asked_ = 0;
};

}  // namespace

std::unique_ptr<Engine> MakeSimEngine(Canary canary, FakeEngineOptions options,
                                      EngineListener& listener, FakeEngine** fake) {
  if (canary == Canary::kNone) {
    auto engine = std::make_unique<FakeEngine>(std::move(options), listener);
    *fake = engine.get();
    return engine;
  }
  auto engine = std::make_unique<CanaryEngine>(canary, std::move(options), listener);
  *fake = engine->fake();
  return engine;
}

}  // namespace conclave
