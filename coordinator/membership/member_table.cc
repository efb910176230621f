#include "coordinator/membership/member_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Late hellos of a former process come within seconds; more ids than that need not be remembered.
constexpr size_t kFormerMax = 256;

bool Contains(const std::deque<WorkerId>& ids, WorkerId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

void Remember(WorkerId id, std::deque<WorkerId>* ids) {
  ids->push_back(id);
  if (ids->size() > kFormerMax) ids->pop_front();
}

std::string Seconds(absl::Duration duration) {
  return absl::StrFormat("%.1fs", absl::ToDoubleSeconds(duration));
}

}  // namespace

std::string Member::Describe() const {
  return absl::StrCat("worker ", hello.name, " (pid ", hello.process, " on ", hello.node, ")");
}

MemberTable::HelloOutcome MemberTable::OnHello(const Hello& hello, WorkerId id, absl::Time now) {
  if (Contains(left_, id)) return HelloOutcome::kRefused;
  const auto it = members_.find(hello.name);
  if (it != members_.end() && it->second.id == id) {
    OnHeard(hello.name, id, now);
    return HelloOutcome::kKnown;
  }
  if (it == members_.end() && members_.size() >= options_.members_max) {
    return HelloOutcome::kRefused;
  }
  const bool restarted = it != members_.end();
  if (restarted) {
    if (Contains(replaced_, id) && !IsSuspect(it->second, now)) return HelloOutcome::kRefused;
    replaced_.erase(std::remove(replaced_.begin(), replaced_.end(), id), replaced_.end());
    Remember(it->second.id, &replaced_);
  }
  Member member;
  member.id = id;
  member.hello = hello;
  member.heard = member.advanced = now;
  members_[hello.name] = std::move(member);
  return restarted ? HelloOutcome::kRestarted : HelloOutcome::kJoined;
}

bool MemberTable::OnHeartbeat(const std::string& name, WorkerId id, Epoch epoch,
                              const Heartbeat& heartbeat, absl::Time now) {
  if (!OnHeard(name, id, now)) return false;
  Member& member = members_.at(name);
  // A late heartbeat may show less progress than a newer one did: any change is an advance.
  const bool working = member.state == WorkerState::kLoading ||
                       (member.state == WorkerState::kReady && heartbeat.steps_queued > 0);
  if (!working || heartbeat.progress != member.heartbeat.progress) member.advanced = now;
  member.epoch = epoch;
  member.heartbeat = heartbeat;
  return true;
}

bool MemberTable::OnHeard(const std::string& name, WorkerId id, absl::Time now) {
  const auto it = members_.find(name);
  if (it == members_.end() || it->second.id != id) return false;
  it->second.heard = now;
  it->second.peer_lost = false;
  return true;
}

void MemberTable::OnPeerLost(const std::string& name) {
  const auto it = members_.find(name);
  if (it != members_.end()) it->second.peer_lost = true;
}

void MemberTable::SetState(const std::string& name, WorkerState state, absl::Time now) {
  const auto it = members_.find(name);
  if (it == members_.end()) return;
  it->second.state = state;
  it->second.advanced = now;
}

std::string MemberTable::LossReason(const Member& member, absl::Time now) const {
  const absl::Duration silent = now - member.heard;
  if (silent >= options_.lost_after) return absl::StrCat("silent for ", Seconds(silent));
  if (member.peer_lost && silent >= options_.suspect_after) return "its connection closed";
  const absl::Duration stalled = now - member.advanced;
  const bool stepping = member.state == WorkerState::kReady && member.heartbeat.steps_queued > 0;
  if (stepping && stalled >= options_.step_stall) {
    return absl::StrCat("no progress for ", Seconds(stalled), " with ",
                        member.heartbeat.steps_queued, " steps queued");
  }
  if (member.state == WorkerState::kLoading && stalled >= options_.load_stall) {
    return absl::StrCat("no progress for ", Seconds(stalled), " while loading or connecting");
  }
  return "";
}

void MemberTable::Forgive(absl::Duration duration) {
  for (auto& [name, member] : members_) {
    member.heard += duration;
    member.advanced += duration;
  }
}

std::vector<MemberLoss> MemberTable::Expire(absl::Time now) {
  std::vector<MemberLoss> losses;
  for (auto it = members_.begin(); it != members_.end();) {
    std::string reason = LossReason(it->second, now);
    if (reason.empty()) {
      ++it;
      continue;
    }
    losses.push_back({it->second, std::move(reason)});
    it = members_.erase(it);
  }
  return losses;
}

void MemberTable::Remove(const std::string& name, bool for_good) {
  const auto it = members_.find(name);
  if (it == members_.end()) return;
  if (for_good) Remember(it->second.id, &left_);
  members_.erase(it);
}

const Member* MemberTable::Find(const std::string& name) const {
  const auto it = members_.find(name);
  return it == members_.end() ? nullptr : &it->second;
}

bool MemberTable::IsSuspect(const Member& member, absl::Time now) const {
  return member.peer_lost || now - member.heard >= options_.suspect_after;
}

}  // namespace conclave
