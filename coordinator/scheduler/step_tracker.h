// StepTracker: the steps in flight and who has answered them. A step is complete when every rank
// has done it and the logits it was to report are all here; steps complete in order. Says which
// ranks to send a step again, as the network may have lost the step or its answer. Pure; owned by
// the serving loop, on the coordinator's thread.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/types/parallel_spec.h"
#include "comm/types/worker_facts.h"
#include "coordinator/scheduler/batcher.h"

namespace conclave {

struct CompleteStep {
  StepId step;
  std::vector<SampledToken> tokens;  // of all dp groups
  std::vector<Logits> logits;        // by request, then position
};

class StepTracker {
 public:
  struct Options {
    int vocab = 0;
    absl::Duration resend_after = absl::Milliseconds(250);  // doubled each time
    absl::Duration resend_after_max = absl::Seconds(2);
  };
  StepTracker(const ParallelSpec& spec, Options options);

  void Add(PlannedStep step, absl::Time now);

  // Facts of a rank. True when it is news, false when it came before. InvalidArgument: it cannot be
  // an answer to what was asked, so the worker is at fault.
  absl::StatusOr<bool> OnStepDone(int rank, const StepResult& result);
  absl::StatusOr<bool> OnLogits(int rank, Logits logits);
  // Tells which steps the rank holds: these need not be sent again.
  void OnHeartbeat(int rank, const Heartbeat& heartbeat);

  // The oldest step, once it is complete.
  std::optional<CompleteStep> PopComplete();

  struct Due {
    int rank;
    const StepPlan* plan;  // of the tracker, until the next call
  };
  std::vector<Due> DueSteps(absl::Time now);

  bool empty() const { return steps_.empty(); }

 private:
  // Positions [begin, end) of one request.
  struct LogitsWanted {
    int begin = 0;
    int end = 0;
    std::map<int, Logits> pieces;  // by position
  };
  struct InFlight {
    PlannedStep planned;
    std::vector<bool> done;  // by rank
    int missing = 0;         // ranks that have not done it
    int logits_missing = 0;  // positions
    std::map<RequestId, LogitsWanted> logits;
    std::vector<std::vector<SampledToken>> tokens;  // by dp
    absl::Time resend_at;
    absl::Duration resend_after;
  };
  // Null with status ok: a step that is complete already.
  absl::StatusOr<InFlight*> Find(int rank, StepId step);
  bool Reports(int rank) const;

  const ParallelSpec spec_;
  const Options options_;
  std::deque<InFlight> steps_;
  StepId last_added_;
  std::vector<StepId> finished_;  // by rank, as its newest heartbeat says
  std::vector<StepId> held_;      // by rank: the last step it has, queued or finished
};

}  // namespace conclave
