#include "placement/forecast/token_routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "glog/logging.h"
#include "placement/forecast/forecast.h"

namespace conclave {
namespace {

// After so many draws of experts that a token has already, the rest is scanned.
constexpr int kTriesMax = 32;

}  // namespace

ExpertSampler::ExpertSampler(const std::vector<double>& weights) : weights_(weights) {
  const size_t n = weights_.size();
  CHECK_GT(n, 0u);
  const size_t top = std::max_element(weights_.begin(), weights_.end()) - weights_.begin();
  const double most = weights_[top];
  for (double& weight : weights_) weight = most > 0 ? weight / most : 1;  // sums stay finite
  const double sum = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  keep_.assign(n, 0xffffffffu);
  other_.resize(n);
  std::iota(other_.begin(), other_.end(), 0);
  std::vector<double> scaled(n);
  std::vector<int32_t> small, large;
  for (size_t i = 0; i < n; ++i) {
    scaled[i] = weights_[i] / sum * static_cast<double>(n);
    (scaled[i] < 1 ? small : large).push_back(static_cast<int32_t>(i));
  }
  while (!small.empty() && !large.empty()) {
    const int32_t low = small.back();
    const int32_t high = large.back();
    small.pop_back();
    keep_[low] = static_cast<uint32_t>(scaled[low] * 4294967295.0);
    other_[low] = high;
    scaled[high] -= 1 - scaled[low];
    if (scaled[high] < 1) {
      large.pop_back();
      small.push_back(high);
    }
  }
  for (const int32_t low : small) {  // left by rounding; near 1 but for those without weight
    if (weights_[low] > 0) continue;
    keep_[low] = 0;
    other_[low] = static_cast<int32_t>(top);
  }
}

int32_t ExpertSampler::DrawOne(Rng& rng) const {
  const uint64_t bits = rng.Next();
  const uint64_t index = ((bits >> 32) * weights_.size()) >> 32;
  return static_cast<uint32_t>(bits) < keep_[index] ? static_cast<int32_t>(index) : other_[index];
}

int32_t ExpertSampler::DrawRest(const int32_t* chosen, int count, Rng& rng) const {
  const auto taken = [&](int32_t e) {
    return std::find(chosen, chosen + count, e) != chosen + count;
  };
  double sum = 0;
  int32_t last = -1;
  const int32_t n = static_cast<int32_t>(weights_.size());
  for (int32_t e = 0; e < n; ++e) {
    if (!taken(e)) sum += weights_[e];
  }
  const bool weighted = sum > 0;
  double left = rng.Uniform() * (weighted ? sum : static_cast<double>(n - count));
  for (int32_t e = 0; e < n; ++e) {
    const double weight = weighted ? weights_[e] : 1;
    if (taken(e) || weight <= 0) continue;
    last = e;
    left -= weight;
    if (left < 0) break;
  }
  return last;
}

void ExpertSampler::Draw(int64_t tokens, int top_k, Rng& rng, std::vector<int32_t>& out) const {
  CHECK_LE(top_k, static_cast<int>(weights_.size()));
  const size_t first = out.size();
  out.resize(first + static_cast<size_t>(tokens) * top_k);
  int32_t* chosen = out.data() + first;
  for (int64_t token = 0; token < tokens; ++token, chosen += top_k) {
    for (int k = 0; k < top_k; ++k) {
      int32_t expert = DrawOne(rng);
      int tries = 0;
      while (std::find(chosen, chosen + k, expert) != chosen + k) {
        expert = ++tries < kTriesMax ? DrawOne(rng) : DrawRest(chosen, k, rng);
      }
      chosen[k] = expert;
    }
  }
}

std::vector<ExpertSampler> SamplersOf(const LoadProfile& load, int experts) {
  std::vector<ExpertSampler> samplers;
  if (load.layers() == 0) {
    samplers.emplace_back(std::vector<double>(experts, 1.0));
    return samplers;
  }
  for (int layer = 0; layer < load.layers(); ++layer) {
    std::vector<double> weights;
    for (int expert = 0; expert < load.experts(); ++expert) {
      weights.push_back(load.at(layer, expert));
    }
    samplers.emplace_back(weights);
  }
  return samplers;
}

std::vector<int64_t> SplitTokens(double tokens, const std::vector<double>& shares) {
  const int64_t total = std::max<int64_t>(1, std::llround(tokens));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<int64_t> split;
  std::vector<std::pair<double, int>> rest;  // (negated remainder, group)
  int64_t left = total;
  for (size_t d = 0; d < shares.size(); ++d) {
    const double exact = static_cast<double>(total) * shares[d] / sum;
    const int64_t whole = static_cast<int64_t>(std::floor(exact + 1e-9));
    split.push_back(whole);
    rest.push_back({static_cast<double>(whole) - exact, static_cast<int>(d)});
    left -= whole;
  }
  std::sort(rest.begin(), rest.end());
  for (size_t i = 0; left > 0; i = (i + 1) % rest.size(), --left) ++split[rest[i].second];
  return split;
}

LoadProfile SyntheticLoad(int layers, int experts, double skew, uint64_t seed) {
  if (layers <= 0 || experts <= 0) return LoadProfile();
  if (!std::isfinite(skew) || skew < 0) skew = 0;
  std::vector<double> law;
  double sum = 0;
  for (int i = 0; i < experts; ++i) {
    law.push_back(std::pow(i + 1.0, -skew));
    sum += law.back();
  }
  LoadProfile load(layers, experts);
  std::vector<int> order(experts);
  for (int layer = 0; layer < layers; ++layer) {
    Rng rng(seed, static_cast<uint64_t>(layer));
    std::iota(order.begin(), order.end(), 0);
    for (int i = experts - 1; i > 0; --i) {
      std::swap(order[i], order[rng.Below(static_cast<uint64_t>(i) + 1)]);
    }
    for (int i = 0; i < experts; ++i) load.Add(layer, order[i], law[i] / sum);
  }
  return load;
}

}  // namespace conclave
