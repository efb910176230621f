// Apportioning whole things under caps: experts by weight, layers by time. Pure functions; any
// thread.
#pragma once

#include <optional>
#include <vector>

namespace conclave {

// Counts that sum to `total`: everyone gets `least`, the rest goes out in proportion to `weights`
// (>= 0) up to `caps` rounded down; what a full entry cannot take goes to the others. Fractions go
// to the largest remainders, ties to the lower index. nullopt when the caps hold less than `total`,
// or one is below `least`.
std::optional<std::vector<int>> ApportionWhole(const std::vector<double>& weights,
                                               const std::vector<double>& caps, int total,
                                               int least);

// A stage of n layers takes `fixed` + n * `of_layer`.
struct StageTime {
  double fixed = 0;
  double of_layer = 0;
};

// Layers of each stage, at least one and at most `caps` rounded down, so that the slowest stage is
// as fast as can be; ties to the lower index. nullopt when the caps hold less than `total`, or one
// is below 1.
std::optional<std::vector<int>> LevelLayers(const std::vector<StageTime>& times,
                                            const std::vector<double>& caps, int total);

}  // namespace conclave
