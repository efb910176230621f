#include "placement/balance/eplb_heuristic.h"

#include <algorithm>
#include <numeric>

#include "glog/logging.h"

namespace conclave {
namespace {

// Puts each item, heaviest first, into the lightest pack with room; packs get equally many.
std::vector<std::vector<int>> PackEvenly(const std::vector<double>& weight, int packs) {
  CHECK_EQ(weight.size() % packs, 0u);
  const size_t room = weight.size() / packs;
  std::vector<int> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weight[a] > weight[b]; });
  std::vector<std::vector<int>> result(packs);
  std::vector<double> total(packs);
  for (const int item : order) {
    int best = -1;
    for (int pack = 0; pack < packs; ++pack) {
      if (result[pack].size() == room) continue;
      if (best < 0 || total[pack] < total[best]) best = pack;
    }
    result[best].push_back(item);
    total[best] += weight[item];
  }
  return result;
}

// Copies of `experts` over `ranks` with `slots` each: replicated, then packed.
EplbLayer Spread(const std::vector<int>& experts, const std::vector<double>& weight, int ranks,
                 int slots) {
  std::vector<int> copies(experts.size(), 1);
  std::vector<size_t> items(experts.size());  // position in `experts` of each copy
  std::iota(items.begin(), items.end(), 0);
  while (items.size() < static_cast<size_t>(ranks) * slots) {
    size_t best = 0;
    for (size_t i = 1; i < experts.size(); ++i) {
      if (weight[experts[i]] / copies[i] > weight[experts[best]] / copies[best]) best = i;
    }
    ++copies[best];
    items.push_back(best);
  }
  std::vector<double> share;
  for (const size_t i : items) share.push_back(weight[experts[i]] / copies[i]);
  EplbLayer result;
  for (const std::vector<int>& pack : PackEvenly(share, ranks)) {
    result.emplace_back();
    for (const int item : pack) result.back().push_back(experts[items[item]]);
  }
  return result;
}

std::vector<double> Weights(const LoadProfile& load, int layer) {
  std::vector<double> weight;
  for (int e = 0; e < load.experts(); ++e) weight.push_back(load.at(layer, e));
  return weight;
}

}  // namespace

EplbLayer EplbGlobal(const LoadProfile& load, int layer, const EplbShape& shape) {
  std::vector<int> experts(load.experts());
  std::iota(experts.begin(), experts.end(), 0);
  return Spread(experts, Weights(load, layer), shape.ranks, shape.slots);
}

EplbLayer EplbHierarchical(const LoadProfile& load, int layer, const EplbShape& shape) {
  const std::vector<double> weight = Weights(load, layer);
  const int group_experts = load.experts() / shape.groups;
  std::vector<double> group(shape.groups);
  for (int e = 0; e < load.experts(); ++e) group[e / group_experts] += weight[e];
  EplbLayer result;
  for (const std::vector<int>& groups : PackEvenly(group, shape.nodes)) {
    std::vector<int> experts;
    for (const int g : groups) {
      for (int i = 0; i < group_experts; ++i) experts.push_back(g * group_experts + i);
    }
    for (std::vector<int>& rank : Spread(experts, weight, shape.ranks / shape.nodes, shape.slots)) {
      result.push_back(std::move(rank));
    }
  }
  return result;
}

double EplbMakespan(const LoadProfile& load, int layer, const EplbLayer& experts) {
  std::vector<int> copies(load.experts());
  for (const std::vector<int>& rank : experts) {
    for (const int e : rank) ++copies[e];
  }
  double total = 0, slowest = 0;
  for (const std::vector<int>& rank : experts) {
    double time = 0;
    for (const int e : rank) time += load.at(layer, e) / copies[e];
    total += time;
    slowest = std::max(slowest, time);
  }
  return slowest / (total / experts.size());
}

int64_t EplbMoved(const EplbLayer& current, const EplbLayer& next) {
  int64_t moved = 0;
  for (size_t rank = 0; rank < next.size(); ++rank) {
    std::vector<int> here = current[rank];
    for (const int e : next[rank]) {
      const auto it = std::find(here.begin(), here.end(), e);
      if (it == here.end()) {
        ++moved;
      } else {
        here.erase(it);
      }
    }
  }
  return moved;
}

}  // namespace conclave
