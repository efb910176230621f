// WaitGraph: whom to blame when a rank waits in vain. A rank that waits for another which itself
// waits for a third must name the third: ranks that answer live, so the ones at fault are those
// that somebody waits for and that were not heard of. A value, pure; any thread.
#pragma once

#include <map>
#include <vector>

namespace conclave {

class WaitGraph {
 public:
  explicit WaitGraph(int self) : self_(self) {}

  // The caller waits for these, instead of those of an earlier call.
  void SetAwaited(std::vector<int> ranks);
  // `rank` lives and waits for these. What it said last counts.
  void Heard(int rank, std::vector<int> waits_for);

  bool HeardOf(int rank) const { return waits_.count(rank) > 0; }
  // Empty when it was not heard of.
  std::vector<int> WaitsOf(int rank) const;
  // Ascending: the ranks not heard of, other than the caller, that it waits for directly or through
  // ranks that were heard of. When there are none, as when ranks wait for one another, those it
  // waits for itself.
  std::vector<int> Suspects() const;

 private:
  int self_;
  std::vector<int> awaited_;
  std::map<int, std::vector<int>> waits_;
};

}  // namespace conclave
