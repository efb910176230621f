// FakeEngine: an Engine without weights for simulations: the next token of a sequence is a hash of
// all its tokens. It is faithful to the KV cache: the tokens of a step are stored in the pages of
// its plan and the prefix is read back through the block table, so a page owned twice, a stale page
// or a wrong table gives a token that the oracle (FakeNextToken) does not. It has no threads and no
// fabric: outcomes come through the scheduler given at construction, at (virtual) times. Owned by a
// simulated worker; calls and callbacks are on one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "worker/engine/engine.h"

namespace conclave {

// The oracle: the token after `prefix` (at least one token), in [0, vocab).
int32_t FakeNextToken(absl::Span<const int32_t> prefix, int vocab);

// Runs the function after the duration, on the engine's thread; never from within the call.
using FakeScheduler = std::function<void(absl::Duration, std::function<void()>)>;

struct FakeEngineOptions {
  FakeScheduler schedule;
  int32_t kv_pages = 1024;  // what a memory budget would allow; Assign's pages_max may lower it
  absl::Duration prepare_time = absl::Milliseconds(50);
  absl::Duration connect_time = absl::Milliseconds(5);
  absl::Duration step_time = absl::Milliseconds(10);
};

class FakeEngine : public Engine {
 public:
  // `listener` must outlive the engine; nothing is reported after the engine is destroyed.
  FakeEngine(FakeEngineOptions options, EngineListener& listener);
  ~FakeEngine() override;

  void Prepare(Epoch epoch, const Assign& assign) override;
  void Connect(Epoch epoch, const Commit& commit) override;
  void RunStep(const StepPlan& plan) override;
  void Abort(Epoch epoch, const std::string& reason) override;
  uint64_t progress() const override;

  // The next step reports this error instead of its result.
  void FailNextStep(absl::Status status);
  // From now on nothing finishes and progress stands still, as in a hung device.
  void Hang();

 private:
  class State;
  // Scheduled functions hold it weakly: an engine may go before they run.
  std::shared_ptr<State> state_;
};

}  // namespace conclave
