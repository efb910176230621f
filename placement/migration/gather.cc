#include "placement/migration/gather.h"

#include <algorithm>
#include <vector>

namespace conclave {
namespace {

bool Holds(const MovingUnit& unit, int rank) {
  return std::any_of(unit.holders.begin(), unit.holders.end(),
                     [&](const Holder& holder) { return holder.rank == rank; });
}

bool HasRoom(const MoveState& state, int hub) {
  int64_t bytes = 0;
  for (const MovingUnit& unit : state.units) {
    if (Holds(unit, hub)) continue;
    if (!state.Readable(unit, hub)) return false;
    bytes += unit.bytes;
  }
  return !state.ranks[hub].lost && bytes <= state.ranks[hub].free;
}

void CopyAllTo(int hub, MoveState* state) {
  for (size_t u = 0; u < state->units.size(); ++u) {
    if (!Holds(state->units[u], hub)) state->Copy(static_cast<int>(u), hub);
  }
  state->EndWave();
}

// Drops surplus copies at `hub`, or everywhere else.
void DropSurplusAt(int hub, bool at_hub, MoveState* state) {
  for (size_t u = 0; u < state->units.size(); ++u) {
    const std::vector<Holder> holders = state->units[u].holders;
    for (const Holder& holder : holders) {
      if (!holder.wanted && (holder.rank == hub) == at_hub) {
        state->Drop(static_cast<int>(u), holder.rank);
      }
    }
  }
  state->EndWave();
}

void CopyMissing(MoveState* state) {
  for (size_t u = 0; u < state->units.size(); ++u) {
    const std::vector<int32_t> missing = state->units[u].missing;
    for (const int32_t rank : missing) state->Copy(static_cast<int>(u), rank);
  }
  state->EndWave();
}

}  // namespace

bool GatherAndSpread(MoveState* state) {
  for (int hub = 0; hub < static_cast<int>(state->ranks.size()); ++hub) {
    if (!HasRoom(*state, hub)) continue;
    CopyAllTo(hub, state);
    DropSurplusAt(hub, false, state);
    CopyMissing(state);
    DropSurplusAt(hub, true, state);
    return true;
  }
  return false;
}

}  // namespace conclave
