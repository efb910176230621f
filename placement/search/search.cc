#include "placement/search/search.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "placement/search/check_input.h"
#include "placement/search/device_order.h"
#include "placement/search/explain.h"
#include "placement/search/grids.h"
#include "placement/search/leaders.h"
#include "placement/search/pricing.h"
#include "placement/search/refine.h"
#include "placement/search/shares.h"
#include "placement/search/too_large.h"

namespace conclave {
namespace {

// Up to this many ranks priced (ranks of a candidate x steps it takes to price it) every start,
// schedule and slicing of every grid is priced; above it those of the best grids only.
constexpr int64_t kExhaustiveRanks = 2500000;
constexpr int64_t kStepsOfSearch = 6;  // of a search over concurrencies; twice that with an SLO
constexpr int64_t kStartsOfMixed = 4;
constexpr int kBeamGridsMax = 24;
constexpr int kBeamGridsMin = 6;
constexpr int64_t kBeamRanks = 300000;  // that the beam prices, about
constexpr int kRefinedGridsMax = 8;
// Prices of one refinement, times the ranks of its candidate.
constexpr int64_t kRefineRanks = 40000;
constexpr int kRefineEvaluationsMax = 250;
constexpr int kRunnersUpMax = 100;

class Search {
 public:
  explicit Search(const SearchInput& input)
      : input_(input),
        pricer_(input),
        kinds_(DeviceKinds(input.cluster)),
        leaders_(pricer_,
                 std::max(kBeamGridsMax, 1 + std::clamp(input.runners_up, 0, kRunnersUpMax))) {}

  absl::StatusOr<SearchResult> Run() {
    const std::vector<Grid> grids = EnumerateGrids(input_);
    if (grids.empty()) return NoGrid();
    exhaustive_ = RanksToPrice(grids) <= kExhaustiveRanks;
    for (const Grid& grid : grids) PriceGrid(grid);
    if (leaders_.plans().empty()) return TooLarge(input_, grids);
    if (!exhaustive_) PriceBeam(grids);
    if (input_.uneven) RefineBest();
    return Finish();
  }

 private:
  absl::Status NoGrid() const {
    if (input_.spec.has_value()) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("plan search: %s needs %d devices in groups of tp=%d, but %s has %d; "
                          "use smaller degrees "
                          "or %d more devices",
                          input_.spec->ToString(), input_.spec->WorkerCount(), input_.spec->tp,
                          input_.cluster.name, input_.cluster.DeviceCount(),
                          std::max(1, input_.spec->WorkerCount() - input_.cluster.DeviceCount())));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("plan search: no grid of %d devices can cut %s (%d heads, %d layers, "
                        "%d "
                        "experts); check the "
                        "model's sizes",
                        input_.cluster.DeviceCount(), input_.model.name, input_.model.heads,
                        input_.model.layers, input_.model.experts));
  }

  int64_t RanksToPrice(const std::vector<Grid>& grids) const {
    int64_t ranks = 0;
    for (const Grid& grid : grids) {
      const bool mixed = input_.uneven && !UniformDevices(grid.devices);
      ranks +=
          static_cast<int64_t>(grid.devices.size() * grid.slices.size() * grid.schedules.size()) *
          (mixed ? kStartsOfMixed : 1);
    }
    return ranks * StepsOfPrice();
  }

  int64_t StepsOfPrice() const {
    if (input_.mix.concurrency > 0 || input_.objective == Objective::kLatency) return 1;
    const bool slo = input_.ttft_seconds > 0 || input_.tpot_seconds > 0;
    return kStepsOfSearch * (slo ? 2 : 1);
  }

  // How many of the leading grids are looked at closely: fewer on a large cluster.
  int BeamGrids() const {
    const int64_t each = input_.cluster.DeviceCount() * StepsOfPrice();
    return static_cast<int>(std::clamp<int64_t>(kBeamRanks / each, kBeamGridsMin, kBeamGridsMax));
  }

  void PriceGrid(const Grid& grid) {
    const size_t slices = exhaustive_ ? grid.slices.size() : 1;
    const size_t schedules = exhaustive_ ? grid.schedules.size() : 1;
    for (size_t s = 0; s < slices; ++s) {
      for (size_t k = 0; k < schedules; ++k) PriceStarts(grid, s, k);
    }
  }

  Candidate EvenOf(const Grid& grid, size_t slices, size_t schedule) const {
    return EvenCandidate(WithSlices(grid.spec, input_.model, grid.slices[slices]),
                         grid.schedules[schedule], input_.model.layers, grid.devices);
  }

  // The even candidate and, where ranks are unlike, those with shares by speed and by memory.
  void PriceStarts(const Grid& grid, size_t slices, size_t schedule) {
    const Candidate even = EvenOf(grid, slices, schedule);
    Offer(even);
    if (!input_.uneven) return;
    const ShareBuilder builder(input_, even, kinds_);
    // Stages of a uniform cluster differ by a layer at most; refinement sees to that.
    if (!builder.Mixed() && (even.spec.pp == 1 || UniformDevices(grid.devices))) return;
    std::vector<Candidate> seen = {even};
    for (const Tilt& tilt : builder.Starts()) {
      std::optional<Candidate> candidate = builder.Build(tilt);
      if (!candidate.has_value()) {
        ++counts_.too_large;
      } else if (std::find(seen.begin(), seen.end(), *candidate) == seen.end()) {
        Offer(*candidate);
        seen.push_back(*std::move(candidate));
        if (!exhaustive_) break;  // the first is by speed
      }
    }
  }

  bool UniformDevices(const std::vector<int>& devices) const {
    return std::all_of(devices.begin(), devices.end(),
                       [&](int device) { return kinds_[device] == kinds_[devices[0]]; });
  }

  void Offer(const Candidate& candidate) {
    if (!pricer_.Fits(candidate).ok()) {
      ++counts_.too_large;
      return;
    }
    ++counts_.priced;
    if (leaders_.full() && pricer_.CannotBeat(candidate, leaders_.plans().back())) return;
    PricedPlan plan = pricer_.Rank(candidate);
    if (pricer_.SloRatio(plan) > 1) ++counts_.slo_missed;
    leaders_.Offer(std::move(plan));
  }

  // All schedules and slicings of the grids that lead with the first of each.
  void PriceBeam(const std::vector<Grid>& grids) {
    std::vector<PricedPlan> plans = leaders_.plans();
    if (static_cast<int>(plans.size()) > BeamGrids()) plans.resize(BeamGrids());
    for (const Grid& grid : grids) {
      const auto leads = [&](const PricedPlan& plan) {
        const ParallelSpec& spec = plan.candidate.spec;
        return spec.tp == grid.spec.tp && spec.dp == grid.spec.dp && spec.pp == grid.spec.pp &&
               plan.candidate.devices == grid.devices;
      };
      if (std::none_of(plans.begin(), plans.end(), leads)) continue;
      for (size_t s = 0; s < grid.slices.size(); ++s) {
        for (size_t k = 0; k < grid.schedules.size(); ++k) {
          if (s + k > 0) PriceStarts(grid, s, k);
        }
      }
    }
  }

  void RefineBest() {
    std::vector<PricedPlan> plans = leaders_.plans();
    const size_t most = std::min(kRefinedGridsMax, BeamGrids());
    if (plans.size() > most) plans.resize(most);
    for (PricedPlan& plan : plans) {
      const Candidate even = EvenCandidate(plan.candidate.spec, plan.candidate.schedule,
                                           input_.model.layers, plan.candidate.devices);
      const ShareBuilder builder(input_, even, kinds_);
      if (!builder.Mixed() && even.spec.pp == 1) continue;
      const int evaluations = static_cast<int>(
          std::clamp<int64_t>(kRefineRanks / plan.devices, 30, kRefineEvaluationsMax));
      std::vector<Tilt> starts = builder.Starts();
      starts.push_back(builder.Even());
      // From the start that the plan was built from, or from the even one.
      Tilt tilt = builder.Even();
      for (const Tilt& start : starts) {
        const std::optional<Candidate> candidate = builder.Build(start);
        if (candidate.has_value() && *candidate == plan.candidate) tilt = start;
      }
      leaders_.Offer(
          Refine(pricer_, builder, {std::move(tilt), std::move(plan), evaluations}, &counts_));
    }
  }

  absl::StatusOr<SearchResult> Finish() {
    const std::vector<PricedPlan>& plans = leaders_.plans();
    if (pricer_.SloRatio(plans[0]) > 1) return SloMissed(input_, plans[0]);
    SearchResult result;
    result.candidates = counts_.priced;
    result.too_large = counts_.too_large;
    result.slo_missed = counts_.slo_missed;
    result.best = pricer_.Price(plans[0].candidate);
    result.best.note = BindingNote(input_, result.best);
    for (size_t i = 1; i < plans.size() && static_cast<int>(i) <= input_.runners_up; ++i) {
      if (pricer_.SloRatio(plans[i]) > 1) break;
      PricedPlan plan = pricer_.Price(plans[i].candidate);
      plan.note = LossNote(input_, result.best, plan);
      result.runners_up.push_back(std::move(plan));
    }
    result.reason = ReasonOf(input_, result);
    return result;
  }

  const SearchInput& input_;
  const Pricer pricer_;
  const std::vector<int> kinds_;
  Leaders leaders_;
  RefineCounts counts_;
  bool exhaustive_ = false;
};

// With the index of devices that a cluster changed by hand lacks, or has of its earlier nodes.
SearchInput Indexed(SearchInput input) {
  input.cluster.IndexDevices();
  return input;
}

}  // namespace

absl::string_view ObjectiveName(Objective objective) {
  switch (objective) {
    case Objective::kLatency:
      return "latency";
    case Objective::kThroughput:
      return "throughput";
    case Objective::kCost:
      return "cost";
  }
  return "?";
}

absl::StatusOr<Objective> ParseObjective(absl::string_view name) {
  for (const Objective objective :
       {Objective::kLatency, Objective::kThroughput, Objective::kCost}) {
    if (name == ObjectiveName(objective)) return objective;
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "objective '%s' is not known; use latency, throughput or cost", std::string(name)));
}

absl::StatusOr<SearchResult> SearchPlan(const SearchInput& input) {
  RETURN_IF_ERROR(CheckSearchInput(input));
  if (input.spec.has_value()) RETURN_IF_ERROR(CheckSearchSpec(input, *input.spec));
  const SearchInput indexed = Indexed(input);
  return Search(indexed).Run();
}

absl::StatusOr<PricedPlan> PricePlan(const SearchInput& asked, const Candidate& candidate) {
  RETURN_IF_ERROR(CheckSearchInput(asked));
  const SearchInput input = Indexed(asked);
  RETURN_IF_ERROR(CheckCandidate(input, candidate));
  const Pricer pricer(input);
  RETURN_IF_ERROR(pricer.Fits(candidate));
  PricedPlan plan = pricer.Price(candidate);
  plan.note = BindingNote(input, plan);
  return plan;
}

}  // namespace conclave
