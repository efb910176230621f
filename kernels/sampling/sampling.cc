#include "kernels/sampling/sampling.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "comm/base/rng.h"
#include "glog/logging.h"
#include "kernels/sampling/logit_scan.h"

namespace conclave {
namespace {

constexpr float kGreedyBelow = 1e-5f;

struct Candidate {
  int32_t token = 0;
  float weight = 0;
};

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// Calls visit(first token, weights, sum) for each block of the row in order, until it returns true.
template <typename Visit>
void ForEachBlock(absl::Span<const float> logits, const WeightScale& scale, const Visit& visit) {
  float weights[kScanBlock];
  for (size_t first = 0; first < logits.size(); first += kScanBlock) {
    const auto block = logits.subspan(first, kScanBlock);
    const float sum = ScaleBlock(block, scale, weights);
    if (visit(static_cast<int32_t>(first), absl::MakeConstSpan(weights, block.size()), sum)) return;
  }
}

double TotalWeight(absl::Span<const float> logits, const WeightScale& scale) {
  double total = 0;
  ForEachBlock(logits, scale, [&](int32_t, absl::Span<const float>, float sum) {
    total += sum;
    return false;
  });
  return total;
}

// Every token is a candidate: finds the block of the draw by the blocks' sums, then walks it. There
// is one, as the sums are added up as the total was, and uniform is below 1.
int32_t DrawFromAll(absl::Span<const float> logits, const WeightScale& scale, float uniform) {
  const double target = TotalWeight(logits, scale) * uniform;
  double before = 0;
  int32_t token = 0;
  ForEachBlock(logits, scale, [&](int32_t first, absl::Span<const float> weights, float sum) {
    const double after = before + sum;
    if (after <= target) {
      before = after;
      return false;
    }
    for (size_t i = 0; i < weights.size() && before <= target; ++i) {
      if (weights[i] == 0) continue;
      token = first + static_cast<int32_t>(i);
      before += weights[i];
    }
    return true;
  });
  return token;
}

// The k most likely tokens of weight above 0, in no order: a heap whose front is the least likely
// held.
std::vector<Candidate> TopK(absl::Span<const float> logits, const WeightScale& scale, size_t k) {
  std::vector<Candidate> heap;
  ForEachBlock(logits, scale, [&](int32_t first, absl::Span<const float> weights, float) {
    for (size_t i = 0; i < weights.size(); ++i) {
      if (weights[i] == 0) continue;
      const Candidate candidate{first + static_cast<int32_t>(i), weights[i]};
      if (heap.size() == k) {
        if (!MoreLikely(candidate, heap.front())) continue;
        std::pop_heap(heap.begin(), heap.end(), MoreLikely);
        heap.pop_back();
      }
      heap.push_back(candidate);
      std::push_heap(heap.begin(), heap.end(), MoreLikely);
    }
    return false;
  });
  return heap;
}

// The tokens of at least `weight_min`.
std::vector<Candidate> AtLeast(absl::Span<const float> logits, WeightScale scale,
                               float weight_min) {
  scale.weight_min = std::max(scale.weight_min, weight_min);
  std::vector<Candidate> candidates;
  ForEachBlock(logits, scale, [&](int32_t first, absl::Span<const float> weights, float sum) {
    for (size_t i = 0; sum > 0 && i < weights.size(); ++i) {
      if (weights[i] > 0) candidates.push_back({first + static_cast<int32_t>(i), weights[i]});
    }
    return false;
  });
  return candidates;
}

double SumOf(absl::Span<const Candidate> candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

// Leaves the fewest most likely candidates whose weights reach `enough`, at least one.
void CutTopP(std::vector<Candidate>& candidates, double enough) {
  std::sort(candidates.begin(), candidates.end(), MoreLikely);
  double sum = 0;
  size_t left = 0;
  while (left < candidates.size() && (left == 0 || sum < enough)) sum += candidates[left++].weight;
  candidates.resize(left);
}

std::vector<Candidate> Nucleus(absl::Span<const float> logits, const WeightScale& scale,
                               float top_p) {
  const double enough = TotalWeight(logits, scale) * top_p;
  // Sorting a vocabulary is slow, and its unlikely end is seldom needed: look there only when the
  // rest does not reach.
  std::vector<Candidate> candidates;
  for (const float weight_min : {1e-3f, 1e-6f, 0.0f}) {
    candidates = AtLeast(logits, scale, weight_min);
    if (SumOf(candidates) >= enough) break;
  }
  CutTopP(candidates, enough);
  return candidates;
}

int32_t Draw(std::vector<Candidate> candidates, float uniform) {
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  const double target = SumOf(candidates) * uniform;
  double walked = 0;
  for (const Candidate& candidate : candidates) {
    walked += candidate.weight;
    if (walked > target) return candidate.token;
  }
  return candidates.back().token;
}

int32_t Choose(absl::Span<const float> logits, const SamplerOptions& options, float max,
               float uniform) {
  const WeightScale scale{max, options.temperature, std::min(1.0f, options.min_p)};
  const bool top_k = options.top_k > 0 && options.top_k < static_cast<int64_t>(logits.size());
  if (!top_k && options.top_p >= 1) return DrawFromAll(logits, scale, uniform);
  if (!top_k) return Draw(Nucleus(logits, scale, options.top_p), uniform);
  std::vector<Candidate> candidates = TopK(logits, scale, options.top_k);
  if (options.top_p < 1) {
    std::sort(candidates.begin(), candidates.end(), MoreLikely);
    CutTopP(candidates, SumOf(candidates) * options.top_p);
  }
  return Draw(std::move(candidates), uniform);
}

}  // namespace

Sample SampleToken(absl::Span<const float> logits, const SamplerOptions& options,
                   int64_t position) {
  CHECK(!logits.empty());
  const float max = MaxLogit(logits);
  int32_t token = 0;
  if (!(options.temperature >= kGreedyBelow)) {
    while (CleanLogit(logits[token]) != max) ++token;
  } else {
    const float uniform = UniformAt(options.seed, static_cast<uint64_t>(position));
    token = Choose(logits, options, max, uniform);
  }
  const double sum = TotalWeight(logits, {max, 1, 0});
  const double above = static_cast<double>(CleanLogit(logits[token])) - max;
  return {token, static_cast<float>(std::max<double>(above - std::log(sum), -3e38))};
}

}  // namespace conclave
