// MoveState: the cluster in the middle of a migration. Who holds and who misses each unit, the free
// bytes of each rank, and the moves so far in waves. Its operations keep the invariants of a plan:
// a copy needs its space before the wave, a drop needs another holder that landed before the wave
// and frees its space after it. Owned by one call of PlanMigration; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/migration/link_clock.h"
#include "placement/migration/migration.h"

namespace conclave {

struct Holder {
  int32_t rank = 0;
  bool wanted = false;  // the new map keeps it here
  int32_t landed = -1;  // the wave in which it came; -1: it was there
};

// One unit of one layer. Live ranks only.
struct MovingUnit {
  int32_t layer = 0;
  ExpertUnit unit;
  int64_t bytes = 0;
  std::vector<Holder> holders;
  std::vector<int32_t> missing;  // ranks that must still get it
};

struct MovingRank {
  int64_t free = 0;              // bytes usable by copies of this wave
  int64_t missing_bytes = 0;     // of `missing`
  std::vector<int32_t> missing;  // units; the best to take first is at the back
  // Units that it held and must hold, dropped for their space: they return at the very end.
  std::vector<int32_t> set_aside;
  bool lost = false;
};

struct MoveState {
  explicit MoveState(const MigrationInput& of) : input(&of), clock(of) {}

  const MigrationInput* input;    // outlives the state
  std::vector<MovingUnit> units;  // in (layer, expert, slice) order
  std::vector<MovingRank> ranks;
  int64_t unit_bytes_min = 0;  // of the smallest unit
  int32_t wave = 0;

  std::vector<UnitMove> moves;  // of finished waves
  double seconds = 0;           // of finished waves
  LinkClock clock;              // of this wave

  std::vector<UnitMove> wave_copies;  // of this wave; sources are chosen when it ends
  std::vector<int32_t> wave_copied;   // [wave_copies] index of the unit
  std::vector<UnitMove> wave_drops;
  std::vector<int64_t> wave_freed_bytes;  // [wave_drops]

  // Units that landed and ranks that gained space in the last finished wave, ascending.
  std::vector<int32_t> landed_units;
  std::vector<int32_t> freed_ranks;

  // At a rank that misses units which do not all fit: what it can drop it should drop.
  bool UnderPressure(int rank) const { return ranks[rank].missing_bytes > ranks[rank].free; }
  // Whether a copy of this wave to `rank` has a source.
  bool Readable(const MovingUnit& unit, int rank) const;
  // Whether a holder other than `rank` was there before this wave.
  bool HeldElsewhere(const MovingUnit& unit, int rank) const;
  bool Fits(int unit, int rank) const { return units[unit].bytes <= ranks[rank].free; }

  // Copies `unit` to `rank`, which does not hold it; takes it off the unit's `missing` (the rank's
  // own lists are the caller's).
  void Copy(int unit, int rank);
  // The rank holds `unit`, since before this wave, and HeldElsewhere is true. A wanted unit is set
  // aside.
  void Drop(int unit, int rank);
  // Ends the wave: chooses sources, adds the moves and the time. False and no new wave when nothing
  // moved.
  bool EndWave();
  bool Done() const;
};

// The state before the first wave, of a valid input.
MoveState StartMoves(const MigrationInput& input);

}  // namespace conclave
