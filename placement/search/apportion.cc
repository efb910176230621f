#include "placement/search/apportion.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace conclave {
namespace {

// Proportional amounts; entries at their cap are taken out until none exceeds it.
std::vector<double> FillUnderCaps(const std::vector<double>& weights, const std::vector<int>& caps,
                                  double total) {
  std::vector<double> amounts(weights.size());
  std::vector<bool> full(weights.size());
  for (size_t pass = 0; pass <= weights.size(); ++pass) {  // each pass fills one entry at least
    double weight = 0;
    double left = total;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (full[i]) left -= caps[i];
      if (!full[i]) weight += weights[i];
    }
    bool filled = false;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (full[i]) continue;
      amounts[i] = weight > 0 ? left * weights[i] / weight : 0;
      if (amounts[i] <= caps[i]) continue;
      amounts[i] = caps[i];
      full[i] = filled = true;
    }
    if (!filled) break;
  }
  return amounts;
}

}  // namespace

std::optional<std::vector<int>> ApportionWhole(const std::vector<double>& weights,
                                               const std::vector<double>& caps, int total,
                                               int least) {
  std::vector<int> room(weights.size());  // above `least`
  int64_t held = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    room[i] = static_cast<int>(std::min<double>(total, std::floor(caps[i] + 1e-9))) - least;
    if (room[i] < 0) return std::nullopt;
    held += room[i];
  }
  const int64_t above = total - static_cast<int64_t>(least) * static_cast<int64_t>(weights.size());
  if (above < 0 || held < above) return std::nullopt;
  const std::vector<double> amounts = FillUnderCaps(weights, room, static_cast<double>(above));
  std::vector<int> counts(weights.size());
  int64_t left = above;
  for (size_t i = 0; i < weights.size(); ++i) {
    counts[i] = std::min(room[i], static_cast<int>(std::floor(amounts[i] + 1e-9)));
    left -= counts[i];
  }
  std::vector<size_t> by_remainder(weights.size());
  std::iota(by_remainder.begin(), by_remainder.end(), 0);
  // Whole millionths, so that rounding in the amounts does not decide between equals.
  const auto remainder = [&](size_t i) { return std::llround((amounts[i] - counts[i]) * 1e6); };
  std::stable_sort(by_remainder.begin(), by_remainder.end(),
                   [&](size_t a, size_t b) { return remainder(a) > remainder(b); });
  while (left > 0) {  // `held` bounds the passes
    for (const size_t i : by_remainder) {
      if (left == 0) break;
      if (counts[i] == room[i]) continue;
      ++counts[i];
      --left;
    }
  }
  for (int& count : counts) count += least;
  return counts;
}

std::optional<std::vector<int>> LevelLayers(const std::vector<StageTime>& times,
                                            const std::vector<double>& caps, int total) {
  std::vector<int> layers(times.size(), 1);
  for (const double cap : caps) {
    if (cap < 1) return std::nullopt;
  }
  // Each layer goes where it ends earliest, which minimises the latest end.
  for (int left = total - static_cast<int>(times.size()); left != 0; --left) {
    if (left < 0) return std::nullopt;
    int chosen = -1;
    double earliest = 0;
    for (size_t i = 0; i < times.size(); ++i) {
      if (layers[i] + 1 > caps[i] + 1e-9) continue;
      const double end = times[i].fixed + (layers[i] + 1) * times[i].of_layer;
      if (chosen >= 0 && end >= earliest) continue;
      chosen = static_cast<int>(i);
      earliest = end;
    }
    if (chosen < 0) return std::nullopt;
    ++layers[chosen];
  }
  return layers;
}

}  // namespace conclave
