// WavePlanner: runs a MoveState to its end, wave by wave: each wave takes every copy that the free
// space and the order of arrivals allow, and drops what need not stay. Where nothing can move it
// takes a detour. Owned by one call of PlanMigration; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/migration/detours.h"
#include "placement/migration/move_state.h"

namespace conclave {

class WavePlanner {
 public:
  // `state` is before its first wave and outlives the planner.
  WavePlanner(DetourSize detours, MoveState* state);

  // False: stuck, or more detours than any sensible plan has.
  bool Run();

 private:
  enum class Order { kStrict, kAny };

  void FirstWave();
  bool NextWave();
  // When nothing can move by the rules of NextWave: takes the cheapest of what else there is.
  bool Unblock();
  // Uses room that came free for circles and seeds that wait for it, before arrivals take it.
  void LookEarly();
  // Whether a rank that waits for nothing gained space in the last wave.
  bool RoomCameFree() const;
  void Evict();
  // Drops the surplus copies of `unit` that are safe to drop and of no more use; or all safe ones.
  void DropSurplus(int unit, bool all);
  void DropAllSurplus();
  void DetourWhereStuck();
  void TakeArrivals(int rank, Order order);
  void TakeAllArrivals(Order order);
  void TakeSetAside();

  DetourSize detours_;
  MoveState* state_;
  std::vector<int32_t> last_arrivals_;  // [ranks]
  std::vector<Eviction> evictions_;     // for the next wave
  int circles_waiting_ = 0;
  int seeds_waiting_ = 0;
  // Bounds on how often all units are looked at: when nothing moves, and before that, where some
  // circle waits for room.
  int64_t looks_left_;
  int64_t early_looks_left_;
};

}  // namespace conclave
