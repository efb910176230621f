// RankGroups: ranks joined by units that must move between them. Groups move independently of each
// other, so one in which nothing moves stays so until a detour opens it. A value of one moment of a
// MoveState; one thread.
#pragma once

#include <vector>

#include "placement/migration/move_state.h"

namespace conclave {

class RankGroups {
 public:
  explicit RankGroups(const MoveState& state);

  // The lowest rank of the group.
  int Of(int rank);
  // [ranks], of the lowest rank of a group: whether the group has a move now or in flight.
  std::vector<char> Moving(const MoveState& state);

 private:
  void Join(int a, int b);

  std::vector<int> parent_;  // [ranks]
};

}  // namespace conclave
