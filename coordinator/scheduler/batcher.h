// Batcher: decides what each step computes. Continuous batching with chunked prefill over paged KV,
// for all dp groups in lockstep, one step ahead of the workers: a plan may be made while one step
// is in flight, and then takes decode inputs from it. Pure: requests and results go in, plans and
// tokens come out. Owned by the coordinator actor, on its thread.
//
// A sequence waits (by id: arrival order), runs in one dp group, and leaves. When pages run out,
// the running sequence that arrived last goes back to waiting and is computed again later. A
// sequence that ends or goes back while a step with it is in flight keeps its pages until that step
// is complete.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "comm/base/strong_id.h"
#include "comm/types/step_plan.h"
#include "comm/types/step_result.h"
#include "coordinator/scheduler/kv_pages.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

struct BatcherOptions {
  int batch_tokens_max = 512;  // of one dp group in one step (--max-num-batched-tokens)
  int sequences_max = 64;      // running in one dp group (--max-num-seqs)
  int waiting_max = 1024;      // requests queued, beyond which Add refuses
  int page_tokens = 16;
  int context_tokens = 0;  // of the model
};

struct PlannedStep {
  StepId step;
  std::vector<StepPlan> by_dp;  // [dp]
};

// What a complete step brought.
struct StepOutcome {
  struct Ended {
    RequestId request;
    FinishReason reason;
  };
  std::vector<SampledToken> tokens;  // to hand out, in batch order
  std::vector<Ended> ended;          // after their tokens
};

class Batcher {
 public:
  explicit Batcher(BatcherOptions options);

  // Steps are counted from 1 again. Returns the waiting requests that can never fit these pages;
  // they are dropped.
  std::vector<RequestId> BeginEpoch(Epoch epoch, const std::vector<int>& pages_by_group);
  // Nothing is in flight any more. Returns the requests that had started, which are dropped; the
  // others wait on.
  std::vector<RequestId> EndEpoch();

  // Queues a request; stop_token_ids are complete (eos included). InvalidArgument: longer than the
  // context; ResourceExhausted: longer than the pages of an epoch, or the queue is full.
  absl::Status Add(RequestId id, const GenerationRequest& request);
  // Ends a request before its time; false when there is none.
  bool Cancel(RequestId id);

  // The next step for all groups, or nullopt: nobody has work, or two steps are in flight.
  std::optional<PlannedStep> NextPlan();

  // The oldest step in flight is complete; `tokens` are of all groups. InvalidArgument when they
  // are not what the step samples: a worker's fault; nothing has changed then.
  absl::Status Complete(StepId step, const std::vector<SampledToken>& tokens, StepOutcome* outcome);

  int in_flight() const { return static_cast<int>(in_flight_.size()); }
  int running() const;
  int waiting() const { return static_cast<int>(waiting_.size()); }
  const KvPages& pages() const { return pages_; }

 private:
  enum class State { kWaiting, kRunning, kPreempted, kEnded };
  struct Sequence {
    RequestId id;
    GenerationRequest request;    // prompt is moved to `tokens`
    std::vector<int32_t> tokens;  // prompt and what was generated
    int prompt_size = 0;
    State state = State::kWaiting;
    bool started = false;  // in this epoch
    int group = -1;
    std::vector<int32_t> pages;
    int computed = 0;      // positions in KV once what is in flight is done
    int in_flight = 0;     // steps with a share of it
    int pending = 0;       // of these, samples
    int logits_until = 0;  // prompt positions whose logits are complete

    int known_or_pending() const { return static_cast<int>(tokens.size()) + pending; }
    int generated() const { return known_or_pending() - prompt_size; }
    // Positions left to compute before the next sample; 0: nothing to do.
    int remaining() const;
  };
  // A sequence's share of a step in flight.
  struct Share {
    RequestId request;
    int end = 0;
    bool sample = false;
    bool want_logits = false;
  };
  struct InFlight {
    StepId step;
    std::vector<Share> shares;
  };
  struct GroupPlan {
    int budget = 0;
    StepPlan plan;
  };

  int PagesFor(int tokens) const {
    return (tokens + options_.page_tokens - 1) / options_.page_tokens;
  }
  // Pages a request holds at its longest: its last token is never computed.
  int PagesAtMost(int prompt_size, int tokens_max) const;
  absl::Status CheckFits(int prompt_size, int tokens_max) const;
  void PlanDecodes(int group, GroupPlan* plan, InFlight* record);
  void PlanPrefills(int group, GroupPlan* plan, InFlight* record);
  void Admit(std::vector<GroupPlan>* plans, InFlight* record);
  int ChooseGroup(const Sequence& sequence, const std::vector<GroupPlan>& plans) const;
  void AddSlice(Sequence& sequence, GroupPlan* plan, InFlight* record);
  int SliceEnd(const Sequence& sequence, int budget) const;
  bool MakeRoom(Sequence& sequence);
  void Preempt(Sequence& sequence);
  void Settle(RequestId id);
  void End(Sequence& sequence);
  void TakeShare(const Share& share, const SampledToken* sampled, StepOutcome* outcome);
  int64_t TokensOf(int group) const;

  const BatcherOptions options_;
  Epoch epoch_;
  StepId next_step_{1};
  KvPages pages_;
  std::map<RequestId, Sequence> sequences_;
  std::set<RequestId> waiting_;
  std::vector<std::set<RequestId>> running_;  // by group
  std::vector<int> releasing_;                // by group: sequences that left and still hold pages
  std::deque<InFlight> in_flight_;            // at most kStepsInFlightMax
};

inline constexpr int kStepsInFlightMax = 2;

}  // namespace conclave
