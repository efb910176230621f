#include "placement/migration/migration_checker.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "placement/migration/link_clock.h"
#include "placement/migration/rank_bytes.h"

namespace conclave {
namespace {

template <typename... Parts>
absl::Status Wrong(const Parts&... parts) {
  return absl::FailedPreconditionError(absl::StrCat("migration plan: ", parts...));
}

std::string Name(const UnitMove& move) {
  const bool copy = move.kind == UnitMove::Kind::kCopy;
  return absl::StrCat(copy ? "copy" : "drop", " of layer ", move.layer, " expert ",
                      move.unit.expert, " slice ", move.unit.slice,
                      copy ? absl::StrCat(" from ", move.from) : "", " at rank ", move.to,
                      " in wave ", move.wave);
}

class Replay {
 public:
  Replay(const MigrationInput& input, const MigrationPlan& plan);
  absl::Status Run();

 private:
  using Owners = std::set<int>;

  absl::Status CheckShape(const UnitMove& move) const;
  // The moves [begin, end) are those of one wave.
  absl::Status RunWave(size_t begin, size_t end);
  absl::Status CheckCopy(const UnitMove& copy, const std::vector<const UnitMove*>& drops);
  absl::Status CheckMemory(size_t begin, size_t end) const;
  // The moves one by one, as the wave would run in the order of the list.
  absl::Status RunInOrder(size_t begin, size_t end);
  absl::Status CheckEnd() const;

  Owners& OwnersOf(const UnitMove& move) { return owners_[move.layer][RowOf(move)]; }
  size_t RowOf(const UnitMove& move) const {
    return static_cast<size_t>(move.unit.expert) * input_.to.layers[move.layer].slices() +
           move.unit.slice;
  }

  const MigrationInput& input_;
  const MigrationPlan& plan_;
  std::vector<char> lost_;
  std::vector<std::vector<Owners>> owners_;  // [layers, units] before the wave or move
  std::vector<int64_t> used_;                // [ranks] bytes
  std::vector<int64_t> capacity_;
  LinkClock clock_;
  int64_t lower_bound_bytes_ = 0;
  int64_t moved_bytes_ = 0;
  double seconds_ = 0;
};

Replay::Replay(const MigrationInput& input, const MigrationPlan& plan)
    : input_(input), plan_(plan), lost_(input.ranks.size()), clock_(input) {
  for (const int rank : input.lost) lost_[rank] = true;
  RankBytes bytes = CountRankBytes(input);
  used_ = std::move(bytes.before);
  capacity_ = std::move(bytes.capacity);
  for (size_t layer = 0; layer < input.from.layers.size(); ++layer) {
    const LayerExperts& from = input.from.layers[layer];
    owners_.emplace_back();
    for (int row = 0; row < from.experts() * from.slices(); ++row) {
      const ExpertUnit unit = {row / from.slices(), row % from.slices()};
      Owners owners;
      for (const int32_t rank : from.Owners(unit)) {
        if (!lost_[rank]) owners.insert(rank);
      }
      for (const int32_t rank : input.to.layers[layer].Owners(unit)) {
        if (owners.count(rank) == 0) lower_bound_bytes_ += input.unit_bytes[layer];
      }
      owners_.back().push_back(std::move(owners));
    }
  }
}

absl::Status Replay::CheckShape(const UnitMove& move) const {
  const int ranks = static_cast<int>(input_.ranks.size());
  if (move.layer < 0 || static_cast<size_t>(move.layer) >= input_.to.layers.size()) {
    return Wrong(Name(move), ": no such layer");
  }
  const LayerExperts& layer = input_.to.layers[move.layer];
  if (move.unit.expert < 0 || move.unit.expert >= layer.experts() || move.unit.slice < 0 ||
      move.unit.slice >= layer.slices()) {
    return Wrong(Name(move), ": no such unit");
  }
  if (move.to < 0 || move.to >= ranks || lost_[move.to]) {
    return Wrong(Name(move), ": no such live rank");
  }
  if (move.from < -1 || move.from >= ranks) return Wrong(Name(move), ": no such source");
  return absl::OkStatus();
}

absl::Status Replay::CheckCopy(const UnitMove& copy, const std::vector<const UnitMove*>& drops) {
  if (OwnersOf(copy).count(copy.to) > 0) return Wrong(Name(copy), ": the rank already holds it");
  if (copy.from < 0) {
    if (input_.ranks[copy.to].store_bandwidth > 0) return absl::OkStatus();
    return Wrong(Name(copy), ": the rank has no store");
  }
  // Owners before the wave: a source that lands in this wave is not among them.
  if (OwnersOf(copy).count(copy.from) == 0) return Wrong(Name(copy), ": the source lacks it");
  for (const UnitMove* drop : drops) {
    if (drop->layer == copy.layer && drop->unit == copy.unit && drop->to == copy.from) {
      return Wrong(Name(copy), ": the source drops it in the same wave");
    }
  }
  return absl::OkStatus();
}

absl::Status Replay::CheckMemory(size_t begin, size_t end) const {
  std::map<int, int64_t> needed;
  for (size_t i = begin; i < end; ++i) {
    const UnitMove& move = plan_.moves[i];
    if (move.kind != UnitMove::Kind::kCopy) continue;
    int64_t& bytes = needed[move.to];
    bytes += input_.unit_bytes[move.layer];
    if (used_[move.to] + bytes > capacity_[move.to]) {
      return Wrong(Name(move), ": needs ", used_[move.to] + bytes, " bytes of ",
                   capacity_[move.to]);
    }
  }
  return absl::OkStatus();
}

absl::Status Replay::RunInOrder(size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    const UnitMove& move = plan_.moves[i];
    const int64_t bytes = input_.unit_bytes[move.layer];
    const bool owned = !OwnersOf(move).empty();
    if (move.kind == UnitMove::Kind::kCopy) {
      if (!OwnersOf(move).insert(move.to).second) return Wrong(Name(move), ": comes twice");
      used_[move.to] += bytes;
      moved_bytes_ += bytes;
      clock_.Add(move.from, move.to, bytes);
    } else {
      if (OwnersOf(move).erase(move.to) == 0) return Wrong(Name(move), ": the rank lacks it");
      used_[move.to] -= bytes;
    }
    if (owned && OwnersOf(move).empty()) return Wrong(Name(move), ": no owner is left");
    if (used_[move.to] > capacity_[move.to]) return Wrong(Name(move), ": exceeds the memory");
  }
  return absl::OkStatus();
}

absl::Status Replay::RunWave(size_t begin, size_t end) {
  std::map<std::pair<int, size_t>, std::vector<const UnitMove*>> drops;  // by layer and unit
  for (size_t i = begin; i < end; ++i) {
    const UnitMove& move = plan_.moves[i];
    RETURN_IF_ERROR(CheckShape(move));
    if (move.kind != UnitMove::Kind::kDrop) continue;
    if (OwnersOf(move).count(move.to) == 0) {
      return Wrong(Name(move), ": the rank does not hold it before the wave");
    }
    drops[{move.layer, RowOf(move)}].push_back(&move);
  }
  for (const auto& [unit, dropped] : drops) {
    // Were all drops first and all copies last, an owner must be left.
    if (dropped.size() >= owners_[unit.first][unit.second].size()) {
      return Wrong(Name(*dropped.back()), ": no owner from before the wave is left");
    }
  }
  for (size_t i = begin; i < end; ++i) {
    const UnitMove& move = plan_.moves[i];
    if (move.kind != UnitMove::Kind::kCopy) continue;
    const auto dropped = drops.find({move.layer, RowOf(move)});
    RETURN_IF_ERROR(
        CheckCopy(move, dropped == drops.end() ? std::vector<const UnitMove*>() : dropped->second));
  }
  RETURN_IF_ERROR(CheckMemory(begin, end));
  clock_.Reset();
  RETURN_IF_ERROR(RunInOrder(begin, end));
  seconds_ += clock_.seconds();
  return absl::OkStatus();
}

absl::Status Replay::CheckEnd() const {
  for (size_t layer = 0; layer < owners_.size(); ++layer) {
    const LayerExperts& to = input_.to.layers[layer];
    for (size_t row = 0; row < owners_[layer].size(); ++row) {
      const ExpertUnit unit = {static_cast<int>(row) / to.slices(),
                               static_cast<int>(row) % to.slices()};
      const auto wanted = to.Owners(unit);
      const Owners& owners = owners_[layer][row];
      if (!std::equal(wanted.begin(), wanted.end(), owners.begin(), owners.end())) {
        return Wrong("layer ", layer, " expert ", unit.expert, " slice ", unit.slice,
                     " does not end on the ranks of the new map");
      }
    }
  }
  if (plan_.moved_bytes != moved_bytes_) {
    return Wrong("moved_bytes is ", plan_.moved_bytes, ", the moves copy ", moved_bytes_);
  }
  if (plan_.lower_bound_bytes != lower_bound_bytes_) {
    return Wrong("lower_bound_bytes is ", plan_.lower_bound_bytes, ", the maps differ by ",
                 lower_bound_bytes_);
  }
  // The planner adds the times of a wave in another order.
  const bool close = std::abs(plan_.seconds - seconds_) <= 1e-9 * seconds_;
  if (plan_.seconds != seconds_ && !close) {
    return Wrong("seconds is ", plan_.seconds, ", the waves take ", seconds_);
  }
  return absl::OkStatus();
}

absl::Status Replay::Run() {
  int wave = 0;
  for (size_t begin = 0; begin < plan_.moves.size(); ++wave) {
    if (plan_.moves[begin].wave != wave) {
      return Wrong(Name(plan_.moves[begin]), ": wave ", wave, " comes next");
    }
    size_t end = begin;
    while (end < plan_.moves.size() && plan_.moves[end].wave == wave) ++end;
    RETURN_IF_ERROR(RunWave(begin, end));
    begin = end;
  }
  if (plan_.waves != wave) return Wrong("waves is ", plan_.waves, ", there are ", wave);
  return CheckEnd();
}

}  // namespace

absl::Status CheckMigration(const MigrationInput& input, const MigrationPlan& plan) {
  return Replay(input, plan).Run();
}

}  // namespace conclave
