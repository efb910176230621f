#include "placement/cost/expected.h"

#include <algorithm>
#include <cmath>

#include "placement/cost/cost_model.h"

namespace conclave {
namespace {

// Of `n` whole units. E[max] = sum over j of P(max > j) = sum of 1 - F(j)^ranks.
double MostHitOf(int n, double hit, int ranks) {
  if (n <= 0 || hit <= 0) return 0;
  if (hit >= 1) return n;
  double probability = std::pow(1 - hit, n);  // of exactly j units
  if (probability < 1e-280)
    return std::min<double>(n, n * hit + std::sqrt(2 * n * hit * (1 - hit) * std::log(ranks)));
  double below = 0;  // F(j)
  double expected = 0;
  for (int j = 0; j < n; ++j) {
    below = std::min(1.0, below + probability);
    expected += 1 - std::pow(below, ranks);
    probability *= (n - j) / (j + 1.0) * hit / (1 - hit);
  }
  return expected;
}

}  // namespace

double ExpectedMostHit(double units, double hit, int ranks) {
  if (ranks <= 1) return units * hit;
  const int low = static_cast<int>(std::floor(units + 1e-9));
  const double part = std::max(0.0, units - low);
  const double of_low = MostHitOf(low, hit, ranks);
  if (part < 1e-9) return of_low;
  return (1 - part) * of_low + part * MostHitOf(low + 1, hit, ranks);
}

double ExpectedExpertsHit(int experts, int top_k, double tokens) {
  if (experts <= 0) return 0;
  const double missed = 1 - std::min(1.0, static_cast<double>(top_k) / experts);
  return experts * (1 - std::pow(missed, tokens));
}

double ExpectedImbalance(int ranks, double rows) {
  if (ranks <= 1 || rows <= 0) return 1;
  const double mean = rows / ranks;
  // Of Poisson counts; the largest of `ranks` lies about sqrt(2 ln ranks) deviations above.
  const double largest = mean + std::sqrt(2 * std::log(ranks) * mean);
  return std::min<double>(ranks, std::max(largest, std::min(1.0, rows)) / mean);
}

}  // namespace conclave
