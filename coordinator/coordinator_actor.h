// CoordinatorActor: plans, and tells workers what to do. A shell around the state machines that
// decide: member_table (who is here), placement (which plan), placement_epoch (the plan on its way
// to serving), serving_loop (requests and steps). Owned by main; runs on the actor's thread.
// Everything it sends is repeated until answered, so that messages may be lost, doubled or late;
// what is of an older epoch is dropped.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "comm/actor/actor.h"
#include "coordinator/membership/member_table.h"
#include "coordinator/membership/placement_epoch.h"
#include "coordinator/request/serving_loop.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

struct CoordinatorOptions {
  ModelShape shape;
  std::string model;  // as served
  ModelSource source;
  CacheOptions cache;
  bool cache_dtype_auto = false;  // cache.dtype by the workers' devices
  ComputeOptions compute;
  ExchangeKind exchange = ExchangeKind::kPcc;
  PayloadFormat payload = PayloadFormat::kF32;  // of the exchange
  std::optional<ParallelSpec> spec;             // nullopt: chosen by memory
  int workers_expected = 1;  // without a spec: how many to wait for before the first plan

  // Above every epoch that an earlier coordinator of these workers may have begun, so that a
  // restart does not use a number twice.
  Epoch last_epoch;

  int batch_tokens_max = 512;  // of one dp group in one step
  int sequences_max = 64;      // running in one dp group
  int waiting_max = 1024;      // requests queued
  int context_tokens_max = 0;  // lowers the model's context; 0: does not

  MemberOptions members;
  absl::Duration tick = absl::Milliseconds(100);
  absl::Duration assign_repeat = absl::Milliseconds(500);
  absl::Duration commit_repeat = absl::Milliseconds(250);
  absl::Duration step_repeat = absl::Milliseconds(250);
  // A fault that a lost peer may have caused waits this long for the loss to be noticed, so that
  // the error names it.
  absl::Duration fault_grace = absl::Milliseconds(1200);
  absl::Duration queue_patience = absl::Seconds(10);  // of queued requests while no plan serves
  absl::Duration drain_deadline = absl::Seconds(30);
  absl::Duration shutdown_deadline = absl::Seconds(2);
  absl::Duration retry_min = absl::Seconds(1);  // after a plan that failed to load, doubled
  absl::Duration retry_max = absl::Seconds(30);
};

class CoordinatorActor : public Actor {
 public:
  explicit CoordinatorActor(CoordinatorOptions options);
  ~CoordinatorActor() override;

  void OnStart(ActorContext& ctx) override;
  void OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) override;
  void OnTimer(ActorContext& ctx, uint64_t tag) override;
  void OnPeerLost(ActorContext& ctx, const PeerId& peer) override;

  // ClusterService's calls, on the actor's thread; ids are new and ascending.
  void Submit(ActorContext& ctx, RequestId id, GenerationRequest request,
              std::shared_ptr<GenerationSink> sink);
  void Cancel(ActorContext& ctx, RequestId id);
  void Drain(ActorContext& ctx);
  ClusterStatus Status(absl::Time now) const;
  const LoadProfile& ExpertCounts() const { return loop_.experts().counts(); }

 private:
  bool serving() const;
  std::string WaitingFor() const;
  int WorkersNeeded() const;
  void Note(absl::Time now, const std::string& event);
  void SendToRank(ActorContext& ctx, int rank, Message message);
  void SendDecision(ActorContext& ctx, int rank);
  bool SeeEpoch(Epoch epoch);

  void OnHello(ActorContext& ctx, const PeerId& from, const Envelope& envelope);
  void OnHeartbeat(ActorContext& ctx, const PeerId& from, const Envelope& envelope);
  void OnRankFact(ActorContext& ctx, int rank, const Envelope& envelope);
  absl::Status OnPrepared(ActorContext& ctx, int rank, const Prepared& prepared);
  void OnFault(ActorContext& ctx, int rank, const Fault& fault);
  void OnGoodbye(ActorContext& ctx, const PeerId& from, WorkerId id, const Goodbye& goodbye);

  CacheOptions CacheOfMembers() const;
  void TryPlan(ActorContext& ctx);
  void BeginPlan(ActorContext& ctx, ParallelPlan plan);
  void AdvanceEpoch(ActorContext& ctx);
  void BeginServing(ActorContext& ctx);
  // Ends the current epoch: requests that have started fail with `why`, the workers are told.
  void EndEpoch(ActorContext& ctx, const absl::Status& why);
  // The same, of what workers did wrong.
  void FailEpoch(ActorContext& ctx, const absl::Status& why);
  void LoseMember(ActorContext& ctx, const Member& member, const std::string& reason);
  void PumpSteps(ActorContext& ctx);
  void AdvanceDrain(ActorContext& ctx);

  const CoordinatorOptions options_;
  MemberTable members_;
  CacheOptions cache_;                   // of the plan made last
  std::optional<PlacementEpoch> epoch_;  // none while waiting for workers
  Epoch last_epoch_;                     // the newest used, by this or a former coordinator
  ServingLoop loop_;

  absl::Time last_tick_;
  bool served_once_ = false;
  std::string plan_failure_;   // why the members here cannot be planned
  absl::Status last_failure_;  // of the newest epoch that ended
  int failures_ = 0;           // plans in a row that failed before they served
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Time not_serving_since_ = absl::InfinitePast();
  struct PendingFault {
    absl::Status status;
    absl::Time at;
  };
  std::optional<PendingFault> pending_fault_;

  bool draining_ = false;
  absl::Time drain_by_ = absl::InfiniteFuture();
  absl::Time shutdown_by_ = absl::InfiniteFuture();  // finite once workers are told to shut down
  std::deque<std::string> events_;                   // the last 64
};

}  // namespace conclave
