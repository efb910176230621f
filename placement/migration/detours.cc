#include "placement/migration/detours.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "placement/migration/rank_groups.h"

namespace conclave {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// One way to make room at `rank`.
struct Opening {
  bool second_choice = false;  // less room than the caller likes
  int64_t bytes = 0;           // that must be copied because of it
  bool set_aside = false;
  int rank = 0;
  std::vector<int32_t> units;
};

// Units that a rank holds since before this wave.
struct Held {
  std::vector<int32_t> leaving;  // it must lose them
  std::vector<int32_t> spare;    // it keeps them, and others hold them too
  std::vector<int32_t> kept;     // it keeps them, and no other holds them
};

// [ranks]; of ranks not in `of` nothing.
std::vector<Held> HeldUnits(const MoveState& state, const std::vector<char>& of) {
  std::vector<Held> held(state.ranks.size());
  for (size_t u = 0; u < state.units.size(); ++u) {
    const MovingUnit& unit = state.units[u];
    for (const Holder& holder : unit.holders) {
      if (holder.landed >= state.wave || !of[holder.rank]) continue;
      if (!holder.wanted) {
        held[holder.rank].leaving.push_back(static_cast<int32_t>(u));
      } else if (unit.holders.size() > 1 && state.HeldElsewhere(unit, holder.rank)) {
        held[holder.rank].spare.push_back(static_cast<int32_t>(u));
      } else {
        held[holder.rank].kept.push_back(static_cast<int32_t>(u));
      }
    }
  }
  return held;
}

// The smallest of `units` that has at least `bytes`, or several of the largest.
std::vector<int32_t> Cover(const MoveState& state, std::vector<int32_t> units, int64_t bytes) {
  std::sort(units.begin(), units.end(), [&](int32_t a, int32_t b) {
    return std::make_tuple(-state.units[a].bytes, a) < std::make_tuple(-state.units[b].bytes, b);
  });
  std::vector<int32_t> several;
  int64_t covered = 0;
  int32_t single = -1;
  for (const int32_t u : units) {
    if (state.units[u].bytes >= bytes) single = u;
    if (covered < bytes) {
      several.push_back(u);
      covered += state.units[u].bytes;
    }
  }
  if (single >= 0) return {single};
  if (covered < bytes) return {};
  return several;
}

// Bytes by which the smallest or the largest unit that the rank misses does not fit; kNever: none
// can be read.
int64_t Shortage(const MoveState& state, int rank, DetourSize size) {
  int64_t smallest = kNever;
  int64_t largest = 0;
  for (const int32_t u : state.ranks[rank].missing) {
    if (!state.Readable(state.units[u], rank)) continue;
    smallest = std::min(smallest, state.units[u].bytes);
    largest = std::max(largest, state.units[u].bytes);
  }
  if (smallest == kNever) return kNever;
  return (size == DetourSize::kLargest ? largest : smallest) - state.ranks[rank].free;
}

// The ways to make room at `rank` for `shortage` bytes.
void AddOpenings(const MoveState& state, const Held& held, Opening opening, int64_t shortage,
                 std::vector<Opening>* openings) {
  for (const bool set_aside : {false, true}) {
    opening.set_aside = set_aside;
    opening.units = Cover(state, set_aside ? held.spare : held.leaving, shortage);
    if (opening.units.empty()) continue;
    opening.bytes = 0;
    for (const int32_t u : opening.units) opening.bytes += state.units[u].bytes;
    openings->push_back(opening);
  }
}

// Of the ranks of one circle, the cheapest first.
std::vector<Opening> Openings(const MoveState& state, DetourSize size,
                              const std::vector<Held>& held, const std::vector<int>& ranks) {
  std::vector<Opening> openings;
  for (const int r : ranks) {
    const int64_t least = Shortage(state, r, DetourSize::kSmallest);
    if (least == kNever) continue;
    const int64_t shortage = Shortage(state, r, size);
    Opening opening;
    opening.rank = r;
    AddOpenings(state, held[r], opening, shortage, &openings);
    opening.second_choice = true;
    if (shortage > least) AddOpenings(state, held[r], opening, least, &openings);
  }
  std::stable_sort(openings.begin(), openings.end(), [](const Opening& a, const Opening& b) {
    return std::make_tuple(a.second_choice, a.bytes, a.set_aside) <
           std::make_tuple(b.second_choice, b.bytes, b.set_aside);
  });
  return openings;
}

// The ranks of each circle: of each group in which nothing moves, those that miss a unit.
std::vector<std::vector<int>> FindCircles(const MoveState& state) {
  RankGroups groups(state);
  const std::vector<char> moving = groups.Moving(state);
  std::vector<std::vector<int>> by_group(state.ranks.size());
  for (int r = 0; r < static_cast<int>(state.ranks.size()); ++r) {
    const int group = groups.Of(r);
    if (!state.ranks[r].missing.empty() && !moving[group]) by_group[group].push_back(r);
  }
  by_group.erase(std::remove_if(by_group.begin(), by_group.end(),
                                [](const std::vector<int>& ranks) { return ranks.empty(); }),
                 by_group.end());
  return by_group;
}

// HeldUnits of the ranks of `count` circles from `begin`.
std::vector<Held> HeldInCircles(const MoveState& state,
                                const std::vector<std::vector<int>>& circles, size_t begin,
                                size_t count) {
  std::vector<char> of(state.ranks.size());
  for (size_t c = begin; c < std::min(begin + count, circles.size()); ++c) {
    for (const int r : circles[c]) of[r] = true;
  }
  return HeldUnits(state, of);
}

bool Holds(const MovingUnit& unit, int rank) {
  return std::any_of(unit.holders.begin(), unit.holders.end(),
                     [&](const Holder& holder) { return holder.rank == rank; });
}

bool Misses(const MovingUnit& unit, int rank) {
  return std::find(unit.missing.begin(), unit.missing.end(), rank) != unit.missing.end();
}

// The best rank to take `unit` in for a while: one that waits for nothing, on the node of `near`. A
// rank that misses the unit is none: its own order decides when that lands. `taken` [ranks] bytes
// that count as used. -1: none.
int RoomFor(const MoveState& state, int unit, int near, const std::vector<int64_t>& taken) {
  const MovingUnit& moving = state.units[unit];
  const std::vector<MigrationRank>& input = state.input->ranks;
  int best = -1;
  auto best_key = std::make_tuple(false, false);
  for (int h = 0; h < static_cast<int>(state.ranks.size()); ++h) {
    const MovingRank& rank = state.ranks[h];
    if (rank.lost || rank.free - taken[h] < moving.bytes) continue;
    if (Holds(moving, h) || Misses(moving, h)) continue;
    const auto key = std::make_tuple(!rank.missing.empty(), input[h].node != input[near].node);
    if (best < 0 || key < best_key) {
      best = h;
      best_key = key;
    }
  }
  return best;
}

bool StepAside(const Opening& opening, MoveState* state, std::vector<Eviction>* evictions) {
  std::vector<int64_t> taken(state->ranks.size());
  std::vector<int> rooms;
  for (const int32_t u : opening.units) {
    rooms.push_back(RoomFor(*state, u, opening.rank, taken));
    if (rooms.back() < 0) return false;
    taken[rooms.back()] += state->units[u].bytes;
  }
  for (size_t i = 0; i < rooms.size(); ++i) {
    state->Copy(opening.units[i], rooms[i]);
    evictions->push_back({opening.units[i], opening.rank});
  }
  return true;
}

bool SetAside(const Opening& opening, MoveState* state) {
  // Another opening of this wave may have counted on this copy.
  const bool held = std::all_of(opening.units.begin(), opening.units.end(), [&](int32_t u) {
    return state->HeldElsewhere(state->units[u], opening.rank);
  });
  if (!held) return false;
  for (const int32_t u : opening.units) state->Drop(u, opening.rank);
  return true;
}

// Whether only stores have the unit, and no rank that misses it has one.
bool NeedsSeed(const MoveState& state, const MovingUnit& unit) {
  return unit.holders.empty() && !unit.missing.empty() &&
         std::none_of(unit.missing.begin(), unit.missing.end(),
                      [&](int32_t rank) { return state.input->ranks[rank].store_bandwidth > 0; });
}

// [ranks] the least free bytes that would help there; kNever: none would.
std::vector<int64_t> SeekRoom(const MoveState& state, const std::vector<Held>& held) {
  int64_t aside = kNever;  // of the smallest unit that could step aside
  for (size_t r = 0; r < held.size(); ++r) {
    if (state.ranks[r].missing.empty()) continue;
    for (const int32_t u : held[r].leaving) aside = std::min(aside, state.units[u].bytes);
  }
  int64_t seed = kNever;
  for (const MovingUnit& unit : state.units) {
    if (NeedsSeed(state, unit)) seed = std::min(seed, unit.bytes);
  }
  std::vector<int64_t> sought(held.size(), aside);
  for (size_t r = 0; r < held.size(); ++r) {
    if (state.input->ranks[r].store_bandwidth > 0) sought[r] = std::min(aside, seed);
  }
  return sought;
}

// The smallest unit whose leaving would give its rank the room sought.
struct Room {
  int64_t bytes = kNever;
  int rank = 0;
  int32_t unit = 0;

  void Offer(const MoveState& state, int at, int32_t candidate, int64_t sought) {
    const int64_t free = state.ranks[at].free;
    const int64_t freed = state.units[candidate].bytes;
    if (freed >= bytes || free >= sought || free + freed < sought) return;
    *this = {freed, at, candidate};
  }
};

}  // namespace

DetourResult OpenCircles(DetourSize size, MoveState* state, std::vector<Eviction>* evictions) {
  // Where room is scarce most circles find none; so many in a row and it is used up.
  constexpr size_t kFailuresMax = 32;
  const std::vector<std::vector<int>> circles = FindCircles(*state);
  std::vector<Held> held;
  DetourResult result;
  size_t failures = 0;
  for (size_t c = 0; c < circles.size(); ++c) {
    if (failures == kFailuresMax) {
      result.waiting += static_cast<int>(circles.size() - c);
      break;
    }
    if (c % kFailuresMax == 0) held = HeldInCircles(*state, circles, c, kFailuresMax);
    bool opened = false;
    for (const Opening& opening : Openings(*state, size, held, circles[c])) {
      opened = opening.set_aside ? SetAside(opening, state) : StepAside(opening, state, evictions);
      if (opened) break;
    }
    failures = opened ? 0 : failures + 1;
    ++(opened ? result.opened : result.waiting);
  }
  return result;
}

bool MakeRoom(MoveState* state, std::vector<Eviction>* evictions) {
  const std::vector<Held> held = HeldUnits(*state, std::vector<char>(state->ranks.size(), true));
  const std::vector<int64_t> sought = SeekRoom(*state, held);
  Room spare;
  for (int r = 0; r < static_cast<int>(held.size()); ++r) {
    for (const int32_t u : held[r].spare) spare.Offer(*state, r, u, sought[r]);
  }
  if (spare.bytes != kNever) {
    state->Drop(spare.unit, spare.rank);
    return true;
  }
  Room moved;
  const std::vector<int64_t> taken(state->ranks.size());
  for (int r = 0; r < static_cast<int>(held.size()); ++r) {
    for (const std::vector<int32_t>* units : {&held[r].leaving, &held[r].kept}) {
      for (const int32_t u : *units) {
        if (RoomFor(*state, u, r, taken) >= 0) moved.Offer(*state, r, u, sought[r]);
      }
    }
  }
  if (moved.bytes == kNever) return false;
  state->Copy(moved.unit, RoomFor(*state, moved.unit, moved.rank, taken));
  evictions->push_back({moved.unit, moved.rank});
  return true;
}

int SeedFromStores(SeedChoice choice, MoveState* state) {
  const std::vector<MigrationRank>& ranks = state->input->ranks;
  std::vector<int64_t> taken(ranks.size());
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].store_bandwidth <= 0) taken[r] = kNever / 2;
  }
  int waiting = 0;
  for (int u = 0; u < static_cast<int>(state->units.size()); ++u) {
    const MovingUnit& unit = state->units[u];
    if (!NeedsSeed(*state, unit)) continue;
    const bool lands = choice == SeedChoice::kAll ||
                       std::any_of(unit.missing.begin(), unit.missing.end(),
                                   [&](int32_t rank) { return state->Fits(u, rank); });
    const int room = lands ? RoomFor(*state, u, unit.missing.front(), taken) : -1;
    if (room >= 0) {
      state->Copy(u, room);
    } else {
      ++waiting;
    }
  }
  return waiting;
}

}  // namespace conclave
