// The part of CoordinatorActor that makes plans, brings them to serving and ends them.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/coordinator_actor.h"
#include "glog/logging.h"
#include "placement/planner.h"

namespace conclave {

int CoordinatorActor::WorkersNeeded() const {
  if (options_.spec.has_value()) return options_.spec->WorkerCount();
  // Once it has served, an automatic cluster goes on with what is left.
  return served_once_ ? 1 : std::max(1, options_.workers_expected);
}

// GPUs compute in bfloat16 unless they are to give the CPU's bits; CPUs in float32.
CacheOptions CoordinatorActor::CacheOfMembers() const {
  CacheOptions cache = options_.cache;
  if (!options_.cache_dtype_auto) return cache;
  bool gpus = !members_.members().empty() && !options_.compute.deterministic;
  for (const auto& [name, member] : members_.members()) {
    gpus = gpus && absl::StartsWith(member.hello.device, "cuda");
  }
  cache.dtype = gpus ? Dtype::kBf16 : Dtype::kF32;
  return cache;
}

void CoordinatorActor::TryPlan(ActorContext& ctx) {
  if (epoch_.has_value() || draining_ || ctx.Now() < retry_at_) return;
  PlacementInput input;
  input.shape = options_.shape;
  input.spec = options_.spec;
  cache_ = CacheOfMembers();
  input.cache = cache_;
  input.exchange = options_.exchange;
  input.payload = options_.payload;
  for (const auto& [name, member] : members_.members()) {
    if (members_.IsSuspect(member, ctx.Now())) continue;
    input.workers.push_back({member.id, name, member.hello.node, member.hello.memory_bytes});
  }
  if (static_cast<int>(input.workers.size()) < WorkersNeeded()) return;
  absl::StatusOr<ParallelPlan> plan = MakePlan(input);
  if (!plan.ok()) {
    if (plan_failure_ != plan.status().message()) {
      plan_failure_ = std::string(plan.status().message());
      Note(ctx.Now(), absl::StrCat("no plan: ", plan_failure_));
    }
    retry_at_ = ctx.Now() + options_.retry_min;
    last_failure_ = plan.status();
    return;
  }
  plan_failure_.clear();
  BeginPlan(ctx, *std::move(plan));
}

void CoordinatorActor::BeginPlan(ActorContext& ctx, ParallelPlan plan) {
  last_epoch_ = last_epoch_.Next();
  plan.epoch = last_epoch_;
  std::vector<std::string> names(plan.workers.size());
  std::vector<std::string> nodes(plan.workers.size());
  std::map<WorkerId, const Member*> by_id;
  for (const auto& [name, member] : members_.members()) by_id[member.id] = &member;
  for (size_t rank = 0; rank < plan.workers.size(); ++rank) {
    const Member& member = *by_id.at(plan.workers[rank]);
    names[rank] = member.hello.name;
    nodes[rank] = member.hello.node;
  }
  for (const std::string& name : names) members_.SetState(name, WorkerState::kLoading, ctx.Now());
  Note(ctx.Now(), absl::StrCat(plan.epoch.ToString(), " begins: ", plan.spec.ToString()));
  epoch_.emplace(std::move(plan), std::move(names), std::move(nodes));
  AdvanceEpoch(ctx);
}

// Assign while the epoch loads, Commit from then on: what a rank may be told again at any time.
void CoordinatorActor::SendDecision(ActorContext& ctx, int rank) {
  if (epoch_->phase() != PlacementEpoch::Phase::kLoading) {
    SendToRank(ctx, rank, epoch_->MakeCommit());
    return;
  }
  SendToRank(
      ctx, rank,
      Assign{options_.shape, options_.source, epoch_->plan(), rank, cache_, options_.compute});
}

// Sends what is due of Assign and Commit.
void CoordinatorActor::AdvanceEpoch(ActorContext& ctx) {
  if (!epoch_.has_value()) return;
  const bool loading = epoch_->phase() == PlacementEpoch::Phase::kLoading;
  const absl::Duration repeat = loading ? options_.assign_repeat : options_.commit_repeat;
  for (int rank : epoch_->DueRanks(ctx.Now(), repeat)) {
    // A heartbeat of this epoch says that the Assign has arrived; its Prepared the worker repeats.
    const Member* member = members_.Find(epoch_->names()[rank]);
    if (loading && member != nullptr && member->epoch == epoch_->epoch()) continue;
    SendDecision(ctx, rank);
  }
}

void CoordinatorActor::BeginServing(ActorContext& ctx) {
  served_once_ = true;
  failures_ = 0;
  last_failure_ = absl::OkStatus();
  Note(ctx.Now(), absl::StrCat(epoch_->epoch().ToString(), " serves"));
  loop_.BeginEpoch(epoch_->plan(), epoch_->PagesByGroup());
  PumpSteps(ctx);
}

void CoordinatorActor::EndEpoch(ActorContext& ctx, const absl::Status& why) {
  const bool served = serving();
  if (served) {
    loop_.EndEpoch(why);
    not_serving_since_ = ctx.Now();
  }
  last_failure_ = why;
  pending_fault_.reset();
  Note(ctx.Now(), absl::StrCat(epoch_->epoch().ToString(), " ends: ", why.message()));
  for (size_t rank = 0; rank < epoch_->names().size(); ++rank) {
    const std::string& name = epoch_->names()[rank];
    const Member* member = members_.Find(name);
    if (member == nullptr || member->id != epoch_->plan().workers[rank]) continue;
    SendToRank(ctx, static_cast<int>(rank), Abort{std::string(why.message())});
    members_.SetState(name, WorkerState::kJoined, ctx.Now());
  }
  epoch_.reset();
}

// Workers that fail while they load would fail again: each time the next plan waits longer.
void CoordinatorActor::FailEpoch(ActorContext& ctx, const absl::Status& why) {
  if (!serving()) {
    const int doublings = std::min(failures_++, 10);
    retry_at_ = ctx.Now() + std::min(options_.retry_max, options_.retry_min * (1 << doublings));
  }
  EndEpoch(ctx, why);
  TryPlan(ctx);
}

// The member is no longer in the table, or is there as a new process.
void CoordinatorActor::LoseMember(ActorContext& ctx, const Member& member,
                                  const std::string& reason) {
  Note(ctx.Now(), absl::StrCat(member.Describe(), " is lost: ", reason));
  if (!epoch_.has_value() || epoch_->RankOf(member.id) < 0) return;
  EndEpoch(ctx, absl::UnavailableError(absl::StrCat(
                    member.Describe(), " was lost in ", epoch_->epoch().ToString(), ": ", reason,
                    "; the cluster plans again without it, send the request again")));
}

}  // namespace conclave
