// Migration: from one expert map to another as an ordered list of moves that a cluster can carry
// out while it serves: at every prefix no expert is without an owner and no rank exceeds its
// memory. Sources are chosen by cost. Pure; deterministic; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/types/expert_map.h"

namespace conclave {

// Ranks are those of a stage, old and new numbered alike (a joined rank is new at the end, a lost
// one is listed in MigrationInput::lost).
struct UnitMove {
  enum class Kind : uint8_t { kCopy = 0, kDrop = 1 };
  Kind kind = Kind::kCopy;
  int layer = 0;
  ExpertUnit unit;
  int from = -1;  // of a copy: the rank it is read from, -1: the target node's store (NVMe, origin)
  int to = 0;     // of a copy: the rank that gains it; of a drop: the rank that loses it
  int wave = 0;   // moves of one wave run at the same time; waves are in order
  bool operator==(const UnitMove&) const = default;
};

struct MigrationRank {
  int node = 0;
  int64_t free_bytes = 0;        // memory beyond what its old units take
  double peer_bandwidth = 0;     // bytes/s it can send, and receive, within its node
  double network_bandwidth = 0;  // to and from other nodes
  double store_bandwidth = 0;    // from its node's store; 0: it has none
};

struct MigrationInput {
  ExpertMap from;
  ExpertMap to;
  std::vector<MigrationRank> ranks;
  std::vector<int> lost;            // ranks that can no longer be read
  std::vector<int64_t> unit_bytes;  // [layers] of one unit; 0 in dense layers
};

struct MigrationPlan {
  std::vector<UnitMove> moves;
  int waves = 0;
  int64_t moved_bytes = 0;        // of all copies
  int64_t lower_bound_bytes = 0;  // of units that a rank must hold and does not
  double seconds = 0;             // predicted: sum over waves of the busiest link's time
};

// The moves; within 5 % of the lower bound even when a unit must step aside through a third rank
// because all memory is full. ResourceExhausted when the new map does not fit a rank, or when no
// order exists within the memory (says which rank and how many bytes would do). InvalidArgument:
// maps of different shapes, a unit without an owner, a unit whose every holder is lost and that no
// store has.
absl::StatusOr<MigrationPlan> PlanMigration(const MigrationInput& input);

}  // namespace conclave
