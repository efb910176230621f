#include "coordinator/cluster_view.h"

#include <algorithm>
#include <tuple>

namespace conclave {
namespace {

void FillRank(const ClusterView& view, int rank, WorkerStatus* worker) {
  worker->rank = rank;
  worker->position = view.epoch->plan().spec.PositionOf(rank);
  if (view.epoch->prepared(rank) != nullptr) worker->prepared = *view.epoch->prepared(rank);
  if (view.epoch->phase() != PlacementEpoch::Phase::kServing) return;
  worker->kv_pages_used = view.loop.batcher().pages().used(worker->position.dp);
  const RankTotals& totals = view.loop.ranks()[rank];
  worker->exchange = totals.exchange;
  worker->last_step = totals.last_step;
}

WorkerStatus MakeWorkerStatus(const ClusterView& view, const Member& member, absl::Time now) {
  WorkerStatus worker;
  worker.id = member.id;
  worker.hello = member.hello;
  worker.state = view.members.IsSuspect(member, now) ? WorkerState::kSuspect : member.state;
  worker.heartbeat_age_us = absl::ToInt64Microseconds(now - member.heard);
  const int rank = view.epoch == nullptr ? -1 : view.epoch->RankOf(member.id);
  if (rank >= 0) FillRank(view, rank, &worker);
  return worker;
}

}  // namespace

ClusterStatus MakeClusterStatus(const ClusterView& view, absl::Time now) {
  ClusterStatus status;
  if (view.epoch != nullptr) status.plan = view.epoch->plan();
  for (const auto& [name, member] : view.members.members()) {
    status.workers.push_back(MakeWorkerStatus(view, member, now));
  }
  const auto order = [](const WorkerStatus& w) {
    return std::make_tuple(w.rank < 0, w.rank, w.hello.name);
  };
  std::sort(status.workers.begin(), status.workers.end(),
            [&](const auto& a, const auto& b) { return order(a) < order(b); });
  status.requests_running = view.loop.batcher().running();
  status.requests_waiting = view.loop.batcher().waiting();
  status.requests_finished = view.loop.totals().finished;
  status.prompt_tokens = view.loop.totals().prompt_tokens;
  status.generated_tokens = view.loop.totals().generated_tokens;
  status.steps = view.loop.steps();
  for (const RankTotals& totals : view.loop.ranks()) {
    status.weight_bytes_read += totals.weight_bytes_read;
  }
  return status;
}

}  // namespace conclave
