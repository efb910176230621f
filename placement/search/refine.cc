#include "placement/search/refine.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

namespace conclave {
namespace {

constexpr double kWeightFactors[] = {2, 1.5, 1.25, 1.12, 1.06, 1.03};
constexpr int kLayerSteps[] = {8, 4, 2, 1};
constexpr size_t kGivingStagesMax = 4;  // tried in one round: the slowest ones

class Refinement {
 public:
  Refinement(const Pricer& pricer, const ShareBuilder& builder, RefineStart start,
             RefineCounts* counts)
      : pricer_(pricer),
        builder_(builder),
        tilt_(std::move(start.tilt)),
        best_(std::move(start.plan)),
        left_(start.evaluations_max),
        counts_(counts) {}

  PricedPlan Run() {
    // Moves are compared at one concurrency, then the best concurrency is searched anew, which may
    // make other moves pay.
    for (bool improved = true; improved && left_ > 0;) {
      Descend();
      PricedPlan again = pricer_.Rank(best_.candidate);
      improved = pricer_.Better(again, best_);
      if (improved) best_ = std::move(again);
    }
    return std::move(best_);
  }

 private:
  // Layers and shares depend on one another: goes on until neither finds anything.
  void Descend() {
    for (bool improved = true; improved && left_ > 0;) {
      improved = Try(builder_.LevelStages(tilt_, best_));
      for (const int step : kLayerSteps) improved |= MoveLayers(step);
      if (!builder_.Mixed()) continue;
      for (const double factor : kWeightFactors) improved |= ShiftWeights(factor);
    }
  }

  // Takes `tilt` if its candidate is better.
  bool Try(const Tilt& tilt) {
    if (left_ <= 0) return false;
    const std::optional<Candidate> candidate = builder_.Build(tilt);
    if (!candidate.has_value() || WithOwn(*candidate) == best_.candidate) return false;
    --left_;
    const Candidate own = WithOwn(*candidate);
    if (!pricer_.FitsLike(own, best_)) {
      ++counts_->too_large;
      return false;
    }
    PricedPlan plan = pricer_.RankLike(own, best_);
    ++counts_->priced;
    if (pricer_.SloRatio(plan) > 1) ++counts_->slo_missed;
    if (!pricer_.Better(plan, best_)) return false;
    best_ = std::move(plan);
    tilt_ = tilt;
    return true;
  }

  Candidate WithOwn(Candidate candidate) const {
    candidate.schedule = best_.candidate.schedule;
    return candidate;
  }

  // Stages by the time of their slowest rank, the slowest first.
  std::vector<int> StagesBySpeed() const {
    const ParallelSpec& spec = best_.candidate.spec;
    std::vector<double> seconds(spec.pp);
    for (int rank = 0; rank < spec.WorkerCount(); ++rank) {
      double& slowest = seconds[rank / spec.StageSize()];
      slowest = std::max(slowest, best_.decode.ranks[rank].Seconds());
    }
    std::vector<int> stages(spec.pp);
    std::iota(stages.begin(), stages.end(), 0);
    std::stable_sort(stages.begin(), stages.end(),
                     [&](int a, int b) { return seconds[a] > seconds[b]; });
    return stages;
  }

  bool MoveLayers(int step) {
    const std::vector<int> stages = StagesBySpeed();
    bool improved = false;
    // A stage that gives once tends to give again, so it repeats while it pays.
    for (size_t i = 0; i < std::min(stages.size(), kGivingStagesMax); ++i) {
      const int from = stages[i];
      for (auto at = stages.rbegin(); at != stages.rend(); ++at) {
        const int to = *at;
        while (from != to && tilt_.layers[from] > step) {
          Tilt tilt = tilt_;
          tilt.layers[from] -= step;
          tilt.layers[to] += step;
          if (!Try(tilt)) break;
          improved = true;
        }
      }
    }
    return improved;
  }

  bool ShiftWeights(double factor) {
    bool improved = false;
    for (std::vector<double> Tilt::*weights : {&Tilt::expert_weights, &Tilt::token_weights}) {
      // Weights are relative: the first class stays.
      for (size_t c = 1; c < (tilt_.*weights).size(); ++c) {
        for (const double by : {factor, 1 / factor}) {
          Tilt tilt = tilt_;
          (tilt.*weights)[c] *= by;
          while (Try(tilt)) {
            improved = true;
            (tilt.*weights)[c] *= by;
          }
        }
      }
    }
    return improved;
  }

  const Pricer& pricer_;
  const ShareBuilder& builder_;
  Tilt tilt_;
  PricedPlan best_;
  int left_;
  RefineCounts* counts_;
};

}  // namespace

PricedPlan Refine(const Pricer& pricer, const ShareBuilder& builder, RefineStart start,
                  RefineCounts* counts) {
  return Refinement(pricer, builder, std::move(start), counts).Run();
}

}  // namespace conclave
