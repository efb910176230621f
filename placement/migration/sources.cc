#include "placement/migration/sources.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr int kNoSource = std::numeric_limits<int>::max();

int OptionCount(const MoveState& state, const MovingUnit& unit, int to) {
  int count = state.input->ranks[to].store_bandwidth > 0 ? 1 : 0;
  for (const Holder& holder : unit.holders) {
    if (holder.landed < state.wave) ++count;
  }
  return count;
}

// The nearest source whose links end before the wave does anyway; else the one that ends first.
int BestSource(const MoveState& state, const MovingUnit& unit, int to) {
  int best = kNoSource;
  auto best_key = std::make_tuple(0.0, 0, 0.0);
  const auto offer = [&](int from) {
    const double until = state.clock.Until(from, to, unit.bytes);
    const auto key = std::make_tuple(std::max(until, state.clock.seconds()),
                                     state.clock.Distance(from, to), until);
    // Holders come in no order of their own: ties go to the lower rank.
    if (best == kNoSource || key < best_key || (key == best_key && from < best)) {
      best = from;
      best_key = key;
    }
  };
  for (const Holder& holder : unit.holders) {
    if (holder.landed < state.wave) offer(holder.rank);
  }
  if (state.input->ranks[to].store_bandwidth > 0) offer(-1);
  CHECK_NE(best, kNoSource) << "a copy to rank " << to << " without a source";
  return best;
}

}  // namespace

double ChooseSources(MoveState* state) {
  // Who has no choice goes first, so that who has one can see the load.
  std::vector<int32_t> order(state->wave_copies.size());
  std::vector<int32_t> options(order.size());
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = 0; i < order.size(); ++i) {
    options[i] = OptionCount(*state, state->units[state->wave_copied[i]], state->wave_copies[i].to);
  }
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return std::make_tuple(options[a], a) < std::make_tuple(options[b], b);
  });
  state->clock.Reset();
  for (const int32_t i : order) {
    UnitMove& copy = state->wave_copies[i];
    const MovingUnit& unit = state->units[state->wave_copied[i]];
    copy.from = BestSource(*state, unit, copy.to);
    state->clock.Add(copy.from, copy.to, unit.bytes);
  }
  return state->clock.seconds();
}

}  // namespace conclave
