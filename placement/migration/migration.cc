#include "placement/migration/migration.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "placement/migration/check_input.h"
#include "placement/migration/gather.h"
#include "placement/migration/move_state.h"
#include "placement/migration/rank_bytes.h"
#include "placement/migration/small_search.h"
#include "placement/migration/wave_planner.h"

namespace conclave {
namespace {

struct Attempt {
  bool solved = false;
  MigrationPlan plan;
  int stuck_rank = -1;           // of an attempt that is not solved: one that misses a unit,
  int64_t stuck_unit_bytes = 0;  // and the bytes of the unit
};

int64_t CopiedBytes(const MoveState& state) {
  int64_t bytes = 0;
  for (const UnitMove& move : state.moves) {
    if (move.kind == UnitMove::Kind::kCopy) bytes += state.input->unit_bytes[move.layer];
  }
  return bytes;
}

MigrationPlan Finish(MoveState state, int64_t lower_bound_bytes) {
  MigrationPlan plan;
  plan.moved_bytes = CopiedBytes(state);
  plan.moves = std::move(state.moves);
  plan.waves = state.wave;
  plan.seconds = state.seconds;
  plan.lower_bound_bytes = lower_bound_bytes;
  return plan;
}

// Moves `*best` to `other` if that is a plan with fewer bytes.
void KeepBetter(bool found, MoveState other, bool* best_found, MoveState* best) {
  if (!found || (*best_found && CopiedBytes(other) >= CopiedBytes(*best))) return;
  *best_found = true;
  *best = std::move(other);
}

// Runs `state` to its end. Where detours cost more than they should, or there seems to be no way,
// tries other ways too and keeps the best.
bool RunMoves(const MigrationInput& input, int64_t lower_bound_bytes, MoveState* state) {
  bool found = WavePlanner(DetourSize::kSmallest, state).Run();
  if (found && CopiedBytes(*state) == lower_bound_bytes) return true;
  const auto [smallest, largest] =
      std::minmax_element(input.unit_bytes.begin(), input.unit_bytes.end());
  if (*smallest != *largest) {
    MoveState other = StartMoves(input);
    const bool other_found = WavePlanner(DetourSize::kLargest, &other).Run();
    KeepBetter(other_found, std::move(other), &found, state);
  }
  constexpr double kDetoursMax = 1.05;
  const double bound = kDetoursMax * static_cast<double>(lower_bound_bytes);
  if (found && static_cast<double>(CopiedBytes(*state)) <= bound) return true;
  MoveState searched = StartMoves(input);
  const bool searched_found = SearchMoves(&searched);
  KeepBetter(searched_found, std::move(searched), &found, state);
  if (found) return true;
  MoveState gathered = StartMoves(input);
  const bool gathered_found = GatherAndSpread(&gathered);
  KeepBetter(gathered_found, std::move(gathered), &found, state);
  return found;
}

// Where more memory helps: at a rank that misses a unit, or, if only stores have the unit and that
// rank has none, at one that has.
void FindStuck(const MoveState& state, Attempt* attempt) {
  const std::vector<MigrationRank>& ranks = state.input->ranks;
  for (const MovingUnit& unit : state.units) {
    if (unit.missing.empty()) continue;
    attempt->stuck_rank = unit.missing.front();
    attempt->stuck_unit_bytes = unit.bytes;
    if (!unit.holders.empty() || ranks[attempt->stuck_rank].store_bandwidth > 0) return;
    int rank = 0;
    while (state.ranks[rank].lost || ranks[rank].store_bandwidth <= 0) ++rank;
    attempt->stuck_rank = rank;
    return;
  }
}

Attempt Solve(const MigrationInput& input) {
  Attempt attempt;
  MoveState state = StartMoves(input);
  int64_t lower_bound_bytes = 0;
  for (const MovingRank& rank : state.ranks) lower_bound_bytes += rank.missing_bytes;
  attempt.solved = RunMoves(input, lower_bound_bytes, &state);
  if (attempt.solved) {
    attempt.plan = Finish(std::move(state), lower_bound_bytes);
  } else {
    FindStuck(state, &attempt);
    CHECK_GE(attempt.stuck_rank, 0);
  }
  return attempt;
}

// Bytes by which each rank's new units exceed its memory.
std::vector<int64_t> Excess(const MigrationInput& input) {
  const RankBytes bytes = CountRankBytes(input);
  std::vector<int64_t> excess(input.ranks.size());
  for (size_t r = 0; r < excess.size(); ++r) {
    excess[r] = std::max<int64_t>(0, bytes.after[r] - bytes.capacity[r]);
  }
  return excess;
}

bool AllZero(const std::vector<int64_t>& values) {
  return std::all_of(values.begin(), values.end(), [](int64_t value) { return value == 0; });
}

// With `extra` bytes more on each rank there is a plan.
absl::Status Exhausted(const std::vector<int64_t>& extra, bool fits) {
  std::vector<std::string> parts;
  for (size_t r = 0; r < extra.size(); ++r) {
    if (extra[r] > 0) parts.push_back(absl::StrCat("rank ", r, " needs ", extra[r], " bytes more"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("migration: ",
                   fits ? "no order of moves stays within memory: " : "the new map does not fit: ",
                   absl::StrJoin(parts, ", "), "; raise free_bytes by that or choose another map"));
}

// Finds memory that would do: what is missing for the new map, and then more at one rank that is
// stuck, twice as much each time. Room for all units at one rank is always enough.
absl::Status ExplainExhausted(MigrationInput input, std::vector<int64_t> extra, Attempt attempt) {
  const bool fits = AllZero(extra);
  if (!fits) {
    for (size_t r = 0; r < extra.size(); ++r) input.ranks[r].free_bytes += extra[r];
    attempt = Solve(input);
  }
  const int rank = attempt.stuck_rank;
  int64_t bytes = attempt.stuck_unit_bytes;
  while (!attempt.solved) {
    input.ranks[rank].free_bytes += bytes;
    extra[rank] += bytes;
    bytes = extra[rank];
    attempt = Solve(input);
  }
  return Exhausted(extra, fits);
}

}  // namespace

absl::StatusOr<MigrationPlan> PlanMigration(const MigrationInput& input) {
  RETURN_IF_ERROR(CheckMigrationInput(input));
  std::vector<int64_t> excess = Excess(input);
  Attempt attempt;
  if (AllZero(excess)) {
    attempt = Solve(input);
    if (attempt.solved) return std::move(attempt.plan);
  }
  return ExplainExhausted(input, std::move(excess), std::move(attempt));
}

}  // namespace conclave
