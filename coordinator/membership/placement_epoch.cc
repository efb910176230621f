#include "coordinator/membership/placement_epoch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {

PlacementEpoch::PlacementEpoch(ParallelPlan plan, std::vector<std::string> names,
                               std::vector<std::string> nodes)
    : plan_(std::move(plan)), names_(std::move(names)), nodes_(std::move(nodes)) {
  const size_t count = plan_.workers.size();
  CHECK_EQ(count, static_cast<size_t>(plan_.spec.WorkerCount()));
  CHECK_EQ(count, names_.size());
  CHECK_EQ(count, nodes_.size());
  for (size_t rank = 0; rank < count; ++rank) {
    ranks_.emplace_back(plan_.workers[rank], static_cast<int>(rank));
  }
  std::sort(ranks_.begin(), ranks_.end());
  prepared_.resize(count);
  ready_.resize(count);
  Enter(Phase::kLoading);
}

void PlacementEpoch::Enter(Phase phase) {
  phase_ = phase;
  due_.assign(names_.size(), absl::InfinitePast());
  missing_ = static_cast<int>(names_.size());
}

int PlacementEpoch::RankOf(WorkerId id) const {
  const auto it = std::lower_bound(ranks_.begin(), ranks_.end(), std::make_pair(id, 0));
  return it != ranks_.end() && it->first == id ? it->second : -1;
}

bool PlacementEpoch::OnPrepared(int rank, const Prepared& prepared) {
  if (phase_ != Phase::kLoading || prepared_[rank].has_value()) return false;
  prepared_[rank] = prepared;
  if (--missing_ > 0) return false;
  Enter(Phase::kConnecting);
  return true;
}

bool PlacementEpoch::OnReady(int rank) {
  if (phase_ != Phase::kConnecting || ready_[rank]) return false;
  ready_[rank] = true;
  if (--missing_ > 0) return false;
  Enter(Phase::kServing);
  return true;
}

std::string PlacementEpoch::Progress() const {
  const int done = static_cast<int>(names_.size()) - missing_;
  const char* what = phase_ == Phase::kLoading ? "have loaded their weights" : "are connected";
  return absl::StrCat(done, " of ", names_.size(), " workers ", what);
}

std::vector<int> PlacementEpoch::DueRanks(absl::Time now, absl::Duration interval) {
  std::vector<int> ranks;
  if (phase_ == Phase::kServing) return ranks;
  for (size_t rank = 0; rank < due_.size(); ++rank) {
    const bool answered = phase_ == Phase::kLoading ? prepared_[rank].has_value() : ready_[rank];
    if (answered || now < due_[rank]) continue;
    due_[rank] = now + interval;
    ranks.push_back(static_cast<int>(rank));
  }
  return ranks;
}

Commit PlacementEpoch::MakeCommit() const {
  Commit commit;
  commit.nodes = nodes_;
  for (const std::optional<Prepared>& prepared : prepared_) {
    CHECK(prepared.has_value());
    commit.fabric_addresses.push_back(prepared->fabric_address);
  }
  return commit;
}

std::vector<int> PlacementEpoch::PagesByGroup() const {
  std::vector<int> pages(plan_.spec.dp, kKvPagesMax);
  for (size_t rank = 0; rank < prepared_.size(); ++rank) {
    CHECK(prepared_[rank].has_value());
    int& least = pages[plan_.spec.PositionOf(static_cast<int>(rank)).dp];
    least = std::min(least, prepared_[rank]->kv_pages);
  }
  return pages;
}

}  // namespace conclave
