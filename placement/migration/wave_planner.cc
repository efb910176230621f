#include "placement/migration/wave_planner.h"

#include <algorithm>
#include <utility>

#include "placement/migration/arrivals.h"

namespace conclave {
namespace {

// Looking at all units to find a detour is linear in them; a plan of N copies that needs more than
// a few detours for each has lost its way. The first figure bounds large inputs (about a second).
constexpr int64_t kUnitLooksMax = 50'000'000;
constexpr int64_t kLooksPerCopy = 8;
constexpr int64_t kLooksMin = 256;

int64_t LooksMax(const MoveState& state) {
  const int64_t units = static_cast<int64_t>(state.units.size()) + 1;
  int64_t copies = 0;
  for (const MovingRank& rank : state.ranks) copies += static_cast<int64_t>(rank.missing.size());
  return std::min(kLooksPerCopy * copies, kUnitLooksMax / units) + kLooksMin;
}

}  // namespace

WavePlanner::WavePlanner(DetourSize detours, MoveState* state)
    : detours_(detours),
      state_(state),
      looks_left_(LooksMax(*state)),
      early_looks_left_(looks_left_ / 4) {}

bool WavePlanner::Run() {
  FirstWave();
  state_->EndWave();
  while (NextWave() || Unblock()) {
  }
  return state_->Done();
}

void WavePlanner::FirstWave() {
  for (size_t u = 0; u < state_->units.size(); ++u) DropSurplus(static_cast<int>(u), false);
  last_arrivals_ = LastArrivals(*state_);
  DetourWhereStuck();
  // Before the ranks with stores fill up for good.
  seeds_waiting_ = SeedFromStores(SeedChoice::kLanding, state_);
  TakeAllArrivals(Order::kStrict);
}

bool WavePlanner::NextWave() {
  Evict();
  std::vector<int32_t> active = state_->freed_ranks;
  for (const int32_t u : state_->landed_units) {
    DropSurplus(u, false);
    // The first copies of a unit that only a store had: now it can be read from them.
    const MovingUnit& unit = state_->units[u];
    const bool first =
        std::all_of(unit.holders.begin(), unit.holders.end(),
                    [&](const Holder& holder) { return holder.landed == state_->wave - 1; });
    if (first) active.insert(active.end(), unit.missing.begin(), unit.missing.end());
  }
  LookEarly();
  std::sort(active.begin(), active.end());
  active.erase(std::unique(active.begin(), active.end()), active.end());
  for (const int32_t rank : active) TakeArrivals(rank, Order::kStrict);
  return state_->EndWave();
}

bool WavePlanner::Unblock() {
  if (state_->Done() || --looks_left_ < 0) return false;
  last_arrivals_ = LastArrivals(*state_);
  TakeAllArrivals(Order::kStrict);
  if (state_->EndWave()) return true;
  TakeAllArrivals(Order::kAny);
  if (state_->EndWave()) return true;
  DropAllSurplus();
  if (state_->EndWave()) return true;
  DetourWhereStuck();
  if (state_->EndWave()) return true;
  seeds_waiting_ = SeedFromStores(SeedChoice::kAll, state_);
  if (state_->EndWave()) return true;
  TakeSetAside();
  if (state_->EndWave()) return true;
  return MakeRoom(state_, &evictions_) && state_->EndWave();
}

bool WavePlanner::RoomCameFree() const {
  return std::any_of(state_->freed_ranks.begin(), state_->freed_ranks.end(),
                     [&](int32_t rank) { return state_->ranks[rank].missing.empty(); });
}

void WavePlanner::LookEarly() {
  if (early_looks_left_ <= 0) return;
  const bool circles = circles_waiting_ > 0 && RoomCameFree();
  const bool seeds = seeds_waiting_ > 0 && !state_->freed_ranks.empty();
  if (circles || seeds) --early_looks_left_;
  if (circles) DetourWhereStuck();
  if (seeds) seeds_waiting_ = SeedFromStores(SeedChoice::kLanding, state_);
}

void WavePlanner::Evict() {
  for (const Eviction& eviction : evictions_) state_->Drop(eviction.unit, eviction.rank);
  evictions_.clear();
}

void WavePlanner::DropSurplus(int unit, bool all) {
  MovingUnit& moving = state_->units[unit];
  for (size_t i = 0; i < moving.holders.size();) {
    const Holder holder = moving.holders[i];
    const bool of_use = !all && !moving.missing.empty() && !state_->UnderPressure(holder.rank);
    if (holder.wanted || of_use || holder.landed >= state_->wave ||
        !state_->HeldElsewhere(moving, holder.rank)) {
      ++i;
    } else {
      state_->Drop(unit, holder.rank);
    }
  }
}

void WavePlanner::DropAllSurplus() {
  for (size_t u = 0; u < state_->units.size(); ++u) DropSurplus(static_cast<int>(u), true);
}

void WavePlanner::DetourWhereStuck() {
  const DetourResult result = OpenCircles(detours_, state_, &evictions_);
  circles_waiting_ = result.waiting;
  if (result.opened > 0) last_arrivals_ = LastArrivals(*state_);
}

void WavePlanner::TakeArrivals(int rank, Order order) {
  MovingRank& moving = state_->ranks[rank];
  const bool hold_last = order == Order::kStrict && moving.missing_bytes > moving.free;
  const int32_t last = last_arrivals_[rank];
  const auto take = [&](size_t i) {
    const int32_t u = moving.missing[i];
    if (!state_->Fits(u, rank) || !state_->Readable(state_->units[u], rank)) return;
    moving.missing.erase(moving.missing.begin() + static_cast<int64_t>(i));
    moving.missing_bytes -= state_->units[u].bytes;
    state_->Copy(u, rank);
  };
  for (size_t i = moving.missing.size(); i-- > 0;) {
    if (moving.free < state_->unit_bytes_min) return;
    if (!hold_last || moving.missing[i] != last || moving.missing.size() == 1) take(i);
  }
  // Now all others are there.
  if (moving.missing.size() == 1) take(0);
}

void WavePlanner::TakeAllArrivals(Order order) {
  for (size_t r = 0; r < state_->ranks.size(); ++r) TakeArrivals(static_cast<int>(r), order);
}

void WavePlanner::TakeSetAside() {
  for (size_t r = 0; r < state_->ranks.size(); ++r) {
    const int rank = static_cast<int>(r);
    std::vector<int32_t> kept;
    for (const int32_t u : std::exchange(state_->ranks[r].set_aside, {})) {
      if (state_->Fits(u, rank) && state_->Readable(state_->units[u], rank)) {
        state_->Copy(u, rank);
      } else {
        kept.push_back(u);
      }
    }
    state_->ranks[r].set_aside = std::move(kept);
  }
}

}  // namespace conclave
