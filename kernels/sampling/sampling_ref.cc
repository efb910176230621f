#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "comm/base/rng.h"
#include "kernels/sampling/sampling.h"

namespace conclave {
namespace {

double Clean(float logit) {
  const double high = std::numeric_limits<float>::max();
  return std::isnan(logit) ? -high : std::clamp<double>(logit, -high, high);
}

std::vector<double> Softmax(absl::Span<const float> logits, double temperature) {
  std::vector<double> p;
  for (float logit : logits) p.push_back(Clean(logit) / temperature);
  const double max = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& x : p) sum += x = std::exp(x - max);
  for (double& x : p) x /= sum;
  return p;
}

double Total(const std::vector<double>& p) { return std::accumulate(p.begin(), p.end(), 0.0); }

// Drops the tokens that min-p, top-k and top-p forbid: their probability becomes 0.
void Restrict(const SamplerOptions& options, std::vector<double>& p) {
  const double max = *std::max_element(p.begin(), p.end());
  for (double& x : p) {
    if (x < options.min_p * max) x = 0;
  }
  std::vector<int32_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return p[a] > p[b]; });
  if (options.top_k > 0) {
    for (size_t i = options.top_k; i < order.size(); ++i) p[order[i]] = 0;
  }
  if (options.top_p >= 1) return;
  const double enough = options.top_p * Total(p);
  double sum = p[order[0]];
  for (size_t i = 1; i < order.size(); ++i) {
    const double x = p[order[i]];
    if (sum >= enough) p[order[i]] = 0;
    sum += x;
  }
}

}  // namespace

Sample SampleTokenRef(absl::Span<const float> logits, const SamplerOptions& options,
                      int64_t position) {
  std::vector<double> p = Softmax(logits, 1.0);
  if (options.temperature < 1e-5f) {
    int32_t best = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (Clean(logits[i]) > Clean(logits[best])) best = static_cast<int32_t>(i);
    }
    return {best, static_cast<float>(std::log(p[best]))};
  }
  std::vector<double> kept = Softmax(logits, options.temperature);
  Restrict(options, kept);
  const double target = UniformAt(options.seed, static_cast<uint64_t>(position)) * Total(kept);
  double walked = 0;
  int32_t token = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] == 0) continue;
    token = static_cast<int32_t>(i);
    walked += kept[i];
    if (walked > target) break;
  }
  return {token, static_cast<float>(std::log(p[token]))};
}

}  // namespace conclave
