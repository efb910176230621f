// Bytes of expert units by rank, before and after a migration. Pure; any thread; of a valid input.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/migration/migration.h"

namespace conclave {

struct RankBytes {
  std::vector<int64_t> before;  // [ranks] of its old units; 0 of a lost rank
  std::vector<int64_t> after;   // [ranks]
  // [ranks] old units, lost ranks' too, and free_bytes; of these no more than all units take, so
  // that sums cannot overflow.
  std::vector<int64_t> capacity;
};

RankBytes CountRankBytes(const MigrationInput& input);

}  // namespace conclave
