#include "placement/balance/refine.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace conclave {
namespace {

// Within this of the lower bound a layer is done: less than load profiles are exact to.
constexpr double kDone = 1e-4;
// A step must lower the slowest rank's time by this share, so that rounding makes no loops.
constexpr double kStepLeast = 1e-9;
// A step that puts a copy on a node without one is preferred to one that is better by less than
// this share of the ideal time.
constexpr double kNodeBonus = 1e-3;
// Pairs of copies looked at for one step, and at least so many ranks.
constexpr int64_t kPairsFirst = 512;
constexpr int64_t kPairsMost = 16384;
constexpr int64_t kRanksLeast = 32;

struct Edit {
  bool add = false;
  int expert = -1;
  int rank = -1;
};

// Up to two copies removed, then up to two added.
struct Step {
  double peak = 0;  // of the ranks whose time rises, and of the slowest rank
  double score = 0;
  int count = 0;
  Edit edits[4];
  void Then(bool add, int expert, int rank) { edits[count++] = {add, expert, rank}; }
};

// The two slowest ranks of an expert of two or more copies if it had a copy less: the second is for
// when the first is itself the one that loses the copy.
struct Rise {
  double peak = 0;
  int rank = -1;
  double second = 0;
  int64_t step = 0;  // of the search that it holds for
  double Without(int other) const { return rank == other ? second : peak; }
};

class Search {
 public:
  Search(const RefineOptions& options, LayerState& state, int64_t& budget)
      : options_(options),
        state_(state),
        problem_(state.problem()),
        budget_(budget),
        target_(std::max(options.target, problem_.time_least * (1 + kDone))),
        rises_(problem_.experts()) {}

  void Run() {
    while (budget_ > 0 && state_.Makespan() > target_ && TakeStep()) {
    }
  }

 private:
  void Apply(const Edit& edit) {
    if (edit.add) {
      state_.Add(edit.expert, edit.rank);
    } else {
      state_.Remove(edit.expert, edit.rank);
    }
  }

  // Makes the slowest rank faster by the best step there is; false: there is none.
  bool TakeStep() {
    slowest_ = state_.Slowest();
    time_ = state_.Time(slowest_);
    limit_ = time_ * (1 - kStepLeast);
    best_ = Step();
    ++step_;
    // The fastest ranks mostly have the best step; all are looked at when they have none.
    for (const int64_t pairs : {kPairsFirst, kPairsMost}) {
      if (!ChooseRanks(pairs)) continue;
      for (const int e : state_.ExpertsOf(slowest_)) {
        MarkNodes(e);
        TryDropping(e);
        for (const int rank : ranks_) TryRank(e, rank);
      }
      if (best_.count > 0) break;
    }
    for (int i = 0; i < best_.count; ++i) Apply(best_.edits[i]);
    return best_.count > 0;
  }

  const Rise& RiseOf(int e) {
    Rise& rise = rises_[e];
    if (rise.step == step_) return rise;
    rise = Rise();
    rise.step = step_;
    const int copies = state_.Copies(e);
    budget_ -= copies;
    const double more = problem_.weight[e] / (copies - 1) - state_.Share(e);
    for (const int rank : state_.Owners(e)) {
      const double time = (state_.Load(rank) + more) * problem_.inverse_speed[rank];
      if (time > rise.peak) {
        rise.second = rise.peak;
        rise.peak = time;
        rise.rank = rank;
      } else {
        rise.second = std::max(rise.second, time);
      }
    }
    return rise;
  }

  // The fastest ranks, as many as make `pairs` of a copy of theirs and one of the slowest; false:
  // the last call chose as many.
  bool ChooseRanks(int64_t pairs) {
    const size_t chosen = pairs == kPairsFirst ? 0 : ranks_.size();
    ranks_.clear();
    for (int rank = 0; rank < problem_.ranks(); ++rank) {
      if (rank != slowest_ && problem_.slots[rank] > 0 && state_.Time(rank) < limit_) {
        ranks_.push_back(rank);
      }
    }
    const int64_t held = state_.ExpertsOf(slowest_).size();
    const size_t most = std::max(kRanksLeast, pairs / (held * held));
    if (ranks_.size() > most) {
      times_.clear();
      for (const int rank : ranks_) times_.push_back(state_.Time(rank));
      std::nth_element(times_.begin(), times_.begin() + most, times_.end());
      const double bar = times_[most];
      std::erase_if(ranks_, [&](int rank) { return state_.Time(rank) >= bar; });
    }
    budget_ -= problem_.ranks() / 4;
    return ranks_.size() > chosen || pairs == kPairsFirst;
  }

  void MarkNodes(int expert) {
    on_node_.assign(problem_.node_ranks.size(), 0);
    for (const int rank : state_.Owners(expert)) on_node_[problem_.node[rank]] = 1;
  }

  double After(int rank, double change) const {
    return (state_.Load(rank) + change) * problem_.inverse_speed[rank];
  }
  double Cut(int e) const {  // of a share, by one copy more
    return state_.Share(e) - problem_.weight[e] / (state_.Copies(e) + 1);
  }
  double ShareOfMore(int e) const { return problem_.weight[e] / (state_.Copies(e) + 1); }
  bool MayAdd(int e) const { return state_.Copies(e) < problem_.copies_max; }

  // Takes `step` if it is better than the best so far.
  void Consider(const Step& step, bool new_node) {
    if (step.peak >= limit_) return;
    double units = 1;
    if (options_.current != nullptr) {
      int moved = 0;
      for (int i = 0; i < step.count; ++i) {
        const Edit& edit = step.edits[i];
        moved += edit.add && !options_.current->Holds(edit.expert, edit.rank);
      }
      units = moved == 0 ? 0.5 : moved;
    }
    const double gain = time_ - std::max(step.peak, target_);
    const double score = (gain + (new_node ? kNodeBonus : 0)) / units;
    // Of steps that are as good the one that leaves faster ranks for those that need them.
    if (best_.count > 0 && std::pair(score, step.peak) <= std::pair(best_.score, best_.peak)) {
      return;
    }
    best_ = step;
    best_.score = score;
  }

  // Copies of `e` leave the slowest rank for nothing, or for one more copy of another expert.
  void TryDropping(int e) {
    if (state_.Copies(e) < 2) return;
    const double others = RiseOf(e).Without(slowest_);
    if (others >= limit_) return;
    Step drop;
    drop.peak = std::max(others, After(slowest_, -state_.Share(e)));
    drop.Then(false, e, slowest_);
    Consider(drop, false);
    budget_ -= problem_.experts();
    for (int f = 0; f < problem_.experts(); ++f) {
      if (f == e || !MayAdd(f) || state_.Holds(f, slowest_)) continue;
      Step replace = drop;
      replace.peak = std::max(others, After(slowest_, ShareOfMore(f) - state_.Share(e)));
      if (replace.peak >= limit_) continue;
      replace.Then(true, f, slowest_);
      Consider(replace, false);
    }
  }

  void TryRank(int e, int rank) {
    if (state_.Holds(e, rank)) return;
    const bool new_node = !on_node_[problem_.node[rank]];
    const double share = state_.Share(e);
    const double more = ShareOfMore(e);
    const bool may_add = MayAdd(e);
    const double without = After(slowest_, -share), cut = After(slowest_, -Cut(e));
    budget_ -= 1 + state_.ExpertsOf(rank).size();
    if (state_.HasFreeSlot(rank)) {
      Offer({std::max(without, After(rank, share))}, {e, slowest_, -1, rank, false}, new_node);
      if (may_add) Offer({std::max(cut, After(rank, more))}, {e, -1, -1, rank, false}, new_node);
    }
    for (const int f : state_.ExpertsOf(rank)) {
      const double other = state_.Share(f);
      if (other < share) {
        const double peak = std::max(After(slowest_, other - share), After(rank, share - other));
        if (peak < limit_ && !state_.Holds(f, slowest_)) {
          Offer({peak}, {e, slowest_, f, rank, true}, new_node);
        }
      }
      if (state_.Copies(f) < 2) continue;
      const double rise = RiseOf(f).Without(rank);
      if (rise >= limit_) continue;
      Offer({std::max({rise, without, After(rank, share - other)})}, {e, slowest_, f, rank, false},
            new_node);
      if (!may_add) continue;
      Offer({std::max({rise, cut, After(rank, more - other)})}, {e, -1, f, rank, false}, new_node);
    }
  }

  // `expert` comes to `rank`, from `from` unless that is -1, where `other` leaves its slot unless
  // that is -1, for `from` or for good.
  struct Change {
    int expert, from, other, rank;
    bool exchange;
  };
  struct Peak {
    double value;
  };
  void Offer(Peak peak, const Change& change, bool new_node) {
    if (peak.value >= limit_) return;
    Step step;
    step.peak = peak.value;
    if (change.from >= 0) step.Then(false, change.expert, change.from);
    if (change.other >= 0) step.Then(false, change.other, change.rank);
    step.Then(true, change.expert, change.rank);
    if (change.exchange) step.Then(true, change.other, change.from);
    Consider(step, new_node);
  }

  const RefineOptions& options_;
  LayerState& state_;
  const LayerProblem& problem_;
  int64_t& budget_;
  const double target_;
  // Of the step being looked for.
  int slowest_ = 0;
  double time_ = 0;
  double limit_ = 0;
  Step best_;
  int64_t step_ = 0;
  std::vector<Rise> rises_;
  std::vector<int> ranks_;
  std::vector<double> times_;
  std::vector<char> on_node_;
};

}  // namespace

void Refine(const RefineOptions& options, LayerState& state, int64_t& budget) {
  Search(options, state, budget).Run();
}

}  // namespace conclave
