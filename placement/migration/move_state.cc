#include "placement/migration/move_state.h"

#include <algorithm>
#include <tuple>

#include "glog/logging.h"
#include "placement/migration/rank_bytes.h"
#include "placement/migration/sources.h"

namespace conclave {
namespace {

void SortUnique(std::vector<int32_t>* values) {
  std::sort(values->begin(), values->end());
  values->erase(std::unique(values->begin(), values->end()), values->end());
}

MovingUnit MakeUnit(const MigrationInput& input, int layer, ExpertUnit unit,
                    const std::vector<MovingRank>& ranks) {
  const auto old_owners = input.from.layers[layer].Owners(unit);
  const auto new_owners = input.to.layers[layer].Owners(unit);
  MovingUnit result{layer, unit, input.unit_bytes[layer], {}, {}};
  for (const int32_t rank : old_owners) {
    if (ranks[rank].lost) continue;
    result.holders.push_back(
        {rank, std::binary_search(new_owners.begin(), new_owners.end(), rank), -1});
  }
  for (const int32_t rank : new_owners) {
    if (!std::binary_search(old_owners.begin(), old_owners.end(), rank)) {
      result.missing.push_back(rank);
    }
  }
  return result;
}

// Whether the first copy of `unit` to land frees space at a rank that waits for it.
bool Releases(const MoveState& state, const MovingUnit& unit) {
  bool waits = false;
  for (const Holder& holder : unit.holders) {
    if (holder.wanted) return false;
    waits = waits || state.UnderPressure(holder.rank);
  }
  return waits;
}

void OrderMissing(MoveState* state) {
  std::vector<char> releases(state->units.size());
  for (size_t u = 0; u < releases.size(); ++u) releases[u] = Releases(*state, state->units[u]);
  for (MovingRank& rank : state->ranks) {
    // Large units first, while there is most space; ties by the unit's index.
    std::sort(rank.missing.begin(), rank.missing.end(), [&](int32_t a, int32_t b) {
      return std::make_tuple(releases[a], state->units[a].bytes, -a) <
             std::make_tuple(releases[b], state->units[b].bytes, -b);
    });
  }
}

}  // namespace

bool MoveState::Readable(const MovingUnit& unit, int rank) const {
  return input->ranks[rank].store_bandwidth > 0 || HeldElsewhere(unit, rank);
}

bool MoveState::HeldElsewhere(const MovingUnit& unit, int rank) const {
  return std::any_of(unit.holders.begin(), unit.holders.end(), [&](const Holder& holder) {
    return holder.rank != rank && holder.landed < wave;
  });
}

void MoveState::Copy(int unit, int rank) {
  MovingUnit& moving = units[unit];
  CHECK(Fits(unit, rank));
  const auto missing = std::find(moving.missing.begin(), moving.missing.end(), rank);
  const bool wanted = missing != moving.missing.end();
  if (wanted) moving.missing.erase(missing);
  moving.holders.push_back({rank, wanted, wave});
  ranks[rank].free -= moving.bytes;
  wave_copies.push_back({UnitMove::Kind::kCopy, moving.layer, moving.unit, -1, rank, wave});
  wave_copied.push_back(unit);
}

void MoveState::Drop(int unit, int rank) {
  MovingUnit& moving = units[unit];
  CHECK(HeldElsewhere(moving, rank));
  const auto holder = std::find_if(moving.holders.begin(), moving.holders.end(),
                                   [&](const Holder& held) { return held.rank == rank; });
  CHECK(holder != moving.holders.end() && holder->landed < wave);
  if (holder->wanted) {
    moving.missing.push_back(rank);
    ranks[rank].set_aside.push_back(unit);
  }
  moving.holders.erase(holder);
  wave_drops.push_back({UnitMove::Kind::kDrop, moving.layer, moving.unit, -1, rank, wave});
  wave_freed_bytes.push_back(moving.bytes);
}

bool MoveState::EndWave() {
  if (wave_copies.empty() && wave_drops.empty()) return false;
  seconds += ChooseSources(this);
  landed_units = wave_copied;
  SortUnique(&landed_units);
  freed_ranks.clear();
  for (size_t i = 0; i < wave_drops.size(); ++i) {
    ranks[wave_drops[i].to].free += wave_freed_bytes[i];
    freed_ranks.push_back(wave_drops[i].to);
  }
  SortUnique(&freed_ranks);
  moves.insert(moves.end(), wave_copies.begin(), wave_copies.end());
  moves.insert(moves.end(), wave_drops.begin(), wave_drops.end());
  wave_copies.clear();
  wave_copied.clear();
  wave_drops.clear();
  wave_freed_bytes.clear();
  ++wave;
  return true;
}

bool MoveState::Done() const {
  return std::all_of(units.begin(), units.end(), [](const MovingUnit& unit) {
    return unit.missing.empty() && std::all_of(unit.holders.begin(), unit.holders.end(),
                                               [](const Holder& holder) { return holder.wanted; });
  });
}

MoveState StartMoves(const MigrationInput& input) {
  MoveState state(input);
  state.ranks.resize(input.ranks.size());
  for (const int rank : input.lost) state.ranks[rank].lost = true;
  const RankBytes bytes = CountRankBytes(input);
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    state.ranks[r].free = bytes.capacity[r] - bytes.before[r];
  }
  for (size_t layer = 0; layer < input.to.layers.size(); ++layer) {
    const LayerExperts& experts = input.to.layers[layer];
    for (int row = 0; row < experts.experts() * experts.slices(); ++row) {
      const ExpertUnit unit = {row / experts.slices(), row % experts.slices()};
      state.units.push_back(MakeUnit(input, static_cast<int>(layer), unit, state.ranks));
      const MovingUnit& made = state.units.back();
      if (row == 0 && (state.units.size() == 1 || made.bytes < state.unit_bytes_min)) {
        state.unit_bytes_min = made.bytes;
      }
      for (const int32_t rank : made.missing) {
        state.ranks[rank].missing.push_back(static_cast<int32_t>(state.units.size() - 1));
        state.ranks[rank].missing_bytes += made.bytes;
      }
    }
  }
  OrderMissing(&state);
  return state;
}

}  // namespace conclave
