#include "placement/search/grids.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "placement/search/device_order.h"

namespace conclave {
namespace {

constexpr int kStagesMax = 64;
constexpr int kEveryGridUpTo = 32;  // devices of a cluster whose every pp and dp is tried
constexpr int kEveryDpUpTo = 8;     // above it, dp is halved from the largest one
constexpr int kSlicesMax = 8;

std::vector<int> TpChoices(const SearchInput& input, int devices) {
  if (input.spec.has_value()) return {input.spec->tp};
  std::vector<int> choices;
  for (int tp = 1; tp <= std::min(devices, input.model.heads); tp *= 2) choices.push_back(tp);
  return choices;
}

// Powers of two, small numbers, and those that give every stage the same number of nodes.
std::vector<int> StageChoices(const SearchInput& input, int groups) {
  if (input.spec.has_value()) return {input.spec->pp};
  const int most = std::min({kStagesMax, input.model.layers, groups});
  const int nodes = static_cast<int>(input.cluster.nodes.size());
  const bool every = input.cluster.DeviceCount() <= kEveryGridUpTo;
  std::vector<int> choices;
  for (int pp = 1; pp <= most; ++pp) {
    if (every || pp <= 4 || (pp & (pp - 1)) == 0 || nodes % pp == 0) choices.push_back(pp);
  }
  return choices;
}

// All groups, halves of them, and as many as the kinds in front of the order make.
std::vector<int> DpChoices(const SearchInput& input, const DeviceOrder& order, int pp) {
  const int most = static_cast<int>(order.groups.size()) / pp;
  if (input.spec.has_value()) {
    return input.spec->dp <= most ? std::vector<int>{input.spec->dp} : std::vector<int>{};
  }
  std::set<int> choices;
  const bool every = input.cluster.DeviceCount() <= kEveryGridUpTo;
  for (int dp = 1; dp <= (every ? most : std::min(most, kEveryDpUpTo)); ++dp) choices.insert(dp);
  for (int dp = most; dp > kEveryDpUpTo; dp /= 2) choices.insert(dp);
  for (int dp = 1; dp <= most; dp *= 2) choices.insert(dp);
  for (int g = 1; g < static_cast<int>(order.groups.size()); ++g) {
    if (order.kinds[g] != order.kinds[g - 1] && g / pp >= 1) choices.insert(g / pp);
  }
  return {choices.rbegin(), choices.rend()};
}

std::vector<int> SliceChoices(const SearchInput& input, const ParallelSpec& spec) {
  if (!input.model.IsMoe()) return {1};
  if (input.spec.has_value()) return {input.spec->slices};
  std::vector<int> choices;
  for (int slices = 1; slices <= spec.StageSize(); slices *= 2) {
    if (slices > kSlicesMax && !choices.empty()) break;
    ParallelSpec cut = spec;
    cut.slices = slices;
    if (CheckGrid(input.model, cut).ok()) choices.push_back(slices);
  }
  return choices;
}

std::vector<ScheduleKind> ScheduleChoices(const SearchInput& input, const ParallelSpec& spec) {
  if (input.schedule.has_value()) return {*input.schedule};
  std::vector<ScheduleKind> choices = {ScheduleKind::kPcc};
  if (!input.model.IsMoe() || spec.StageSize() == 1) return choices;
  if (spec.tp > 1) choices.push_back(ScheduleKind::kNaive);  // else the same as PCC
  choices.push_back(ScheduleKind::kTwoLevel);
  return choices;
}

class Enumeration {
 public:
  explicit Enumeration(const SearchInput& input) : input_(input) {}

  std::vector<Grid> Run() {
    const std::vector<int> kinds = DeviceKinds(input_.cluster);
    for (const int tp : TpChoices(input_, static_cast<int>(kinds.size()))) {
      for (const DeviceOrder& order : DeviceOrders(input_.cluster, kinds, tp)) {
        const int groups = static_cast<int>(order.groups.size());
        for (const int pp : StageChoices(input_, groups)) {
          for (const int dp : DpChoices(input_, order, pp)) Add(order, tp, dp, pp);
        }
      }
    }
    return std::move(grids_);
  }

 private:
  void Add(const DeviceOrder& order, int tp, int dp, int pp) {
    ParallelSpec spec{.tp = tp, .dp = dp, .pp = pp};
    const std::vector<int> slices = SliceChoices(input_, spec);
    if (slices.empty()) return;
    spec = WithSlices(spec, input_.model, slices[0]);
    if (!CheckGrid(input_.model, spec).ok()) return;
    AddDevices(spec, slices, RankDevices(order, spec));
    AddDevices(spec, slices, MixedRankDevices(order, spec));
  }

  void AddDevices(const ParallelSpec& spec, const std::vector<int>& slices,
                  std::vector<int> devices) {
    if (devices.empty()) return;
    std::set<std::vector<int>>& seen = seen_[{spec.tp, spec.dp, spec.pp}];
    if (!seen.insert(devices).second) return;
    std::vector<ScheduleKind> schedules = ScheduleChoices(input_, spec);
    grids_.push_back({spec, std::move(devices), slices, std::move(schedules)});
  }

  const SearchInput& input_;
  std::vector<Grid> grids_;
  std::map<std::tuple<int, int, int>, std::set<std::vector<int>>> seen_;
};

}  // namespace

ParallelSpec WithSlices(ParallelSpec spec, const ModelDims& model, int slices) {
  spec.slices = slices;
  spec.ep = model.IsMoe() ? spec.StageSize() / slices : 0;
  return spec;
}

std::vector<Grid> EnumerateGrids(const SearchInput& input) { return Enumeration(input).Run(); }

}  // namespace conclave
