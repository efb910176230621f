// ServingLoop: requests in, steps out, tokens to the sinks. It joins the batcher (what to compute),
// the step tracker (who has answered) and the request table (where results go); between epochs it
// keeps the requests that have not started. Pure but for the sinks it calls; owned by the
// coordinator actor, on its thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "comm/types/model_shape.h"
#include "comm/types/parallel_plan.h"
#include "coordinator/request/expert_loads.h"
#include "coordinator/request/request_table.h"
#include "coordinator/scheduler/batcher.h"
#include "coordinator/scheduler/step_tracker.h"

namespace conclave {

// What one rank has reported since the epoch began.
struct RankTotals {
  ExchangeStats exchange;
  StepTimings last_step;
  int64_t weight_bytes_read = 0;
};

class ServingLoop {
 public:
  struct Options {
    ModelShape shape;
    BatcherOptions batcher;
    StepTracker::Options tracker;
  };
  explicit ServingLoop(Options options);

  void BeginEpoch(const ParallelPlan& plan, const std::vector<int>& pages_by_group);
  // Requests that have started end with `why`; the others wait for the next epoch.
  void EndEpoch(const absl::Status& why);

  // Accepts, or ends the request at once with the reason. `id` is new.
  void Submit(RequestId id, GenerationRequest request, std::shared_ptr<GenerationSink> sink,
              absl::Time now);
  void Cancel(RequestId id);
  // Ends every request submitted before `time` with `why`.
  void FailSubmittedBefore(absl::Time time, const absl::Status& why);

  // Plans what can be planned and repeats what was not answered.
  using SendStep = std::function<void(int rank, const StepPlan& plan)>;
  void Pump(absl::Time now, const SendStep& send);

  // Facts of a rank of the current epoch. InvalidArgument: the worker's fault; the epoch is to be
  // ended.
  absl::Status OnStepDone(int rank, const StepResult& result);
  absl::Status OnLogits(int rank, Logits logits);
  void OnHeartbeat(int rank, const Heartbeat& heartbeat);

  size_t requests() const { return requests_.size(); }
  const RequestTable::Totals& totals() const { return requests_.totals(); }
  const Batcher& batcher() const { return batcher_; }
  const std::vector<RankTotals>& ranks() const { return ranks_; }
  int64_t steps() const { return steps_; }
  const ExpertLoads& experts() const { return experts_; }  // of all epochs

 private:
  absl::Status TakeComplete();

  const Options options_;
  Batcher batcher_;
  RequestTable requests_;
  std::optional<StepTracker> tracker_;  // none between epochs
  ParallelSpec spec_;
  std::vector<RankTotals> ranks_;
  ExpertLoads experts_;
  int64_t steps_ = 0;  // complete, of all epochs
};

}  // namespace conclave
