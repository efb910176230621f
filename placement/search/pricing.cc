#include "placement/search/pricing.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr int kSloBisections = 3;  // between the last power of two that meets an SLO and the next

// Full length of a sequence, of which its KV pages are kept to the end.
double SequenceTokens(const RequestMix& mix) { return mix.prompt_tokens + mix.output_tokens; }

// Of a sequence half way through its output.
double DecodeContext(const RequestMix& mix) { return mix.prompt_tokens + mix.output_tokens / 2; }

double ChunkTokens(const RequestMix& mix) { return std::min(mix.prompt_tokens, kChunkTokensMax); }

StepCost CostWithImbalance(const SearchInput& input, const Candidate& candidate, StepLoad load) {
  if (input.model.IsMoe()) {
    load.imbalance =
        ExpectedImbalance(std::max(1, candidate.spec.ep), load.tokens * input.model.top_k);
  }
  return CostOfStep(input.model, input.cluster, candidate, load);
}

// A decode step of `sequences` that also computes `prompt_tokens` of arriving prompts.
StepLoad MixedLoad(const RequestMix& mix, double sequences, double prompt_tokens) {
  const double prompts = prompt_tokens / ChunkTokens(mix);
  StepLoad load;
  load.sequences = sequences + prompts;
  load.tokens = sequences + prompt_tokens;
  // Reads of KV add up over sequences; a chunk sees half of its prompt on average.
  load.context_tokens =
      (sequences * DecodeContext(mix) + prompts * mix.prompt_tokens / 2) / load.sequences;
  load.logit_rows = sequences + prompt_tokens / mix.prompt_tokens;
  return load;
}

// Keeps about nine decimal digits.
double Rounded(double value) {
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);
  return std::ldexp(std::round(std::ldexp(mantissa, 30)), exponent - 30);
}

}  // namespace

double Pricer::LeastSequences(const Candidate& candidate) const {
  return std::max(input_.mix.concurrency, static_cast<double>(candidate.spec.dp));
}

absl::Status Pricer::FitsAt(const Candidate& candidate, double sequences) const {
  const double step_tokens = std::max(sequences, candidate.spec.dp * ChunkTokens(input_.mix));
  return CheckFits(input_.model, input_.cluster, candidate, sequences * SequenceTokens(input_.mix),
                   step_tokens);
}

absl::Status Pricer::Fits(const Candidate& candidate) const {
  return FitsAt(candidate, LeastSequences(candidate));
}

double Pricer::SequencesMax(const Candidate& candidate) const {
  // Bytes grow with the sequences by a straight line as long as a step has fewer of them than a
  // chunk has tokens: the lines give a bracket, CheckFits has the last word.
  const double chunk = candidate.spec.dp * ChunkTokens(input_.mix);
  const std::vector<RankBytes> bytes = BytesOfCandidate(input_.model, candidate, chunk);
  double likely = kConcurrencyMax;
  double most = kConcurrencyMax;
  for (int rank = 0; rank < static_cast<int>(bytes.size()); ++rank) {
    const double share = candidate.token_shares[candidate.spec.PositionOf(rank).dp];
    const double kv = bytes[rank].kv_per_token * SequenceTokens(input_.mix) * share;
    if (kv <= 0) continue;
    const double memory = input_.cluster.ProfileOf(candidate.devices[rank]).memory_bytes;
    const double taken = bytes[rank].weights + bytes[rank].activations;
    likely = std::min(likely, (kPlannedMemoryShare * memory - taken) / kv);
    most = std::min(most, (memory - taken) / kv);
  }
  double fits = LeastSequences(candidate);
  double fails = std::floor(std::max(most, fits)) + 1;
  likely = std::floor(likely);
  if (likely > fits) (FitsAt(candidate, likely).ok() ? fits : fails) = likely;
  while (fails - fits > std::max(1.0, fits / 256)) {
    const double middle = std::floor((fits + fails) / 2);
    (FitsAt(candidate, middle).ok() ? fits : fails) = middle;
  }
  return fits;
}

double Pricer::CostPerHour(const Candidate& candidate) const {
  std::set<int> nodes;  // whole nodes are paid for
  for (const int device : candidate.devices) nodes.insert(input_.cluster.NodeOf(device));
  double cost = 0;
  for (const int node : nodes) cost += input_.cluster.nodes[node].cost_per_hour;
  return cost;
}

void Pricer::PriceInFlight(int steps, PricedPlan* plan) const {
  const RequestMix& mix = input_.mix;
  const Candidate& candidate = plan->candidate;
  const int dp = candidate.spec.dp;
  plan->steps_in_flight = steps;
  const double in_step = std::max<double>(plan->concurrency, dp) / steps;
  plan->decode = CostWithImbalance(input_, candidate, DecodeLoad(in_step, DecodeContext(mix)));
  plan->tpot_seconds = std::max(plan->decode.seconds, steps * plan->decode.interval_seconds);
  plan->ttft_seconds = plan->prefill.seconds;
  // Prompt tokens that arrive while a step runs, for every sequence but the one that waits.
  const double others = std::max(0.0, plan->concurrency - dp);
  const double arriving = others * mix.prompt_tokens / mix.output_tokens / steps;
  if (arriving > 0) {
    const double chunk = std::max(dp * ChunkTokens(mix), arriving);
    const double share = arriving / chunk;  // of steps that carry a chunk
    const StepCost mixed = CostWithImbalance(input_, candidate, MixedLoad(mix, in_step, chunk));
    const auto mean = [share](double without, double with) {
      return without + share * (with - without);
    };
    plan->tpot_seconds =
        std::max(mean(plan->decode.seconds, mixed.seconds),
                 steps * mean(plan->decode.interval_seconds, mixed.interval_seconds));
    const double chunks = std::ceil(dp * mix.prompt_tokens / chunk);
    plan->ttft_seconds = mixed.seconds + (chunks - 1) * std::max(mixed.interval_seconds,
                                                                 mixed.seconds / candidate.spec.pp);
  }
  const double request_seconds = plan->ttft_seconds + (mix.output_tokens - 1) * plan->tpot_seconds;
  plan->tokens_per_second = plan->concurrency * mix.output_tokens / request_seconds;
  plan->cost_per_million_tokens = CostPerHour(candidate) / 3600 / plan->tokens_per_second * 1e6;
}

PricedPlan Pricer::PriceAt(const Candidate& candidate, double concurrency) const {
  PricedPlan one;
  one.candidate = candidate;
  one.devices = candidate.spec.WorkerCount();
  one.prefill = CostWithImbalance(input_, candidate,
                                  PrefillLoad(candidate.spec.dp, input_.mix.prompt_tokens));
  return Reprice(std::move(one), concurrency);
}

PricedPlan Pricer::Reprice(PricedPlan plan, double concurrency) const {
  plan.concurrency = concurrency;
  const ParallelSpec& spec = plan.candidate.spec;
  const int groups = static_cast<int>(std::max(1.0, concurrency / spec.dp));
  const int steps = std::min(spec.pp, groups);
  PriceInFlight(1, &plan);
  if (steps == 1) return plan;
  PricedPlan full = plan;
  PriceInFlight(steps, &full);
  return Better(full, plan) ? full : plan;
}

PricedPlan Pricer::RankLike(const Candidate& candidate, const PricedPlan& other) const {
  if (!SearchesConcurrency()) return Rank(candidate);
  if (other.concurrency < 0.99 * other.sequences_max) {
    PricedPlan plan = PriceAt(candidate, other.concurrency);
    plan.sequences_max = other.sequences_max;
    return plan;
  }
  const double sequences_max = SequencesMax(candidate);
  PricedPlan plan = PriceAt(candidate, sequences_max);
  plan.sequences_max = sequences_max;
  return plan;
}

bool Pricer::FitsLike(const Candidate& candidate, const PricedPlan& other) const {
  const bool at_capacity = other.concurrency >= 0.99 * other.sequences_max;
  if (!SearchesConcurrency() || at_capacity) return Fits(candidate).ok();
  return FitsAt(candidate, other.concurrency).ok();
}

PricedPlan Pricer::SearchConcurrency(const Candidate& candidate, double sequences_max) const {
  const double least = candidate.spec.dp;
  std::vector<double> steps = {least};  // ascending
  for (double power = 1; power < sequences_max; power *= 2) {
    if (power > least) steps.push_back(power);
  }
  if (sequences_max > least) steps.push_back(sequences_max);
  // Both times grow with the sequences, so an SLO holds up to some step.
  size_t low = 0;
  size_t high = steps.size() - 1;
  PricedPlan best = PriceAt(candidate, steps[high]);
  if (high > 0 && SloRatio(best) > 1) {
    best = Reprice(std::move(best), steps[low]);
    if (SloRatio(best) > 1) return best;
    while (high - low > 1) {
      const size_t middle = (low + high) / 2;
      PricedPlan plan = Reprice(best, steps[middle]);
      const bool meets = SloRatio(plan) <= 1;
      (meets ? low : high) = middle;
      if (meets) best = std::move(plan);
    }
    best = CloseOnSlo(steps[high], std::move(best));
    high = low;
  }
  // More sequences are nearly always more tokens per second. Twice worse ends it, so that one
  // ripple of the expected values does not.
  int worse = 0;
  for (size_t i = high; i-- > 0 && worse < 2;) {
    PricedPlan plan = Reprice(best, steps[i]);
    if (Better(plan, best)) {
      best = std::move(plan);
      worse = 0;
    } else {
      ++worse;
    }
  }
  return best;
}

PricedPlan Pricer::CloseOnSlo(double misses, PricedPlan meets) const {
  for (int i = 0; i < kSloBisections; ++i) {
    const double middle = std::floor((meets.concurrency + misses) / 2);
    if (middle <= meets.concurrency) break;
    PricedPlan plan = Reprice(meets, middle);
    if (SloRatio(plan) > 1) {
      misses = middle;
    } else {
      meets = std::move(plan);
    }
  }
  return meets;
}

bool Pricer::SearchesConcurrency() const {
  return input_.mix.concurrency == 0 && input_.objective != Objective::kLatency;
}

PricedPlan Pricer::Rank(const Candidate& candidate) const {
  if (SearchesConcurrency()) {
    const double sequences_max = SequencesMax(candidate);
    PricedPlan plan = SearchConcurrency(candidate, sequences_max);
    plan.sequences_max = sequences_max;
    return plan;
  }
  const double asked = input_.mix.concurrency;
  return PriceAt(candidate, asked > 0 ? asked : candidate.spec.dp);
}

PricedPlan Pricer::Price(const Candidate& candidate) const {
  PricedPlan plan = Rank(candidate);
  if (plan.sequences_max == 0) plan.sequences_max = SequencesMax(candidate);
  return plan;
}

bool Pricer::CannotBeat(const Candidate& candidate, const PricedPlan& other) const {
  if (!SearchesConcurrency() || input_.tpot_seconds <= 0 || SloRatio(other) > 1) return false;
  const double needed = input_.objective == Objective::kThroughput
                            ? other.tokens_per_second
                            : CostPerHour(candidate) / 3600 / other.cost_per_million_tokens * 1e6;
  // Fewer sequences than this make too few tokens even at their best.
  const double sequences = needed * input_.tpot_seconds;
  if (sequences <= candidate.spec.dp) return false;
  const PricedPlan plan = PriceAt(candidate, sequences);
  return SloRatio(plan) > 1 && plan.tokens_per_second <= needed;
}

double Pricer::Score(const PricedPlan& plan) const {
  switch (input_.objective) {
    case Objective::kLatency:
      return Rounded(plan.tpot_seconds);
    case Objective::kThroughput:
      return Rounded(1 / plan.tokens_per_second);
    case Objective::kCost:
      return Rounded(plan.cost_per_million_tokens);
  }
  return 0;
}

double Pricer::SloRatio(const PricedPlan& plan) const {
  double ratio = 0;
  if (input_.ttft_seconds > 0) ratio = plan.ttft_seconds / input_.ttft_seconds;
  if (input_.tpot_seconds > 0) ratio = std::max(ratio, plan.tpot_seconds / input_.tpot_seconds);
  return ratio;
}

bool Pricer::Better(const PricedPlan& a, const PricedPlan& b) const {
  const double over_a = std::max(1.0, SloRatio(a));
  const double over_b = std::max(1.0, SloRatio(b));
  const auto key = [this](const PricedPlan& plan, double over) {
    const ParallelSpec& spec = plan.candidate.spec;
    return std::make_tuple(over, Score(plan), spec.pp, spec.tp, plan.devices, spec.slices);
  };
  const auto key_a = key(a, over_a);
  const auto key_b = key(b, over_b);
  if (key_a != key_b) return key_a < key_b;
  // PCC first: where it costs the same as another schedule it sends fewer messages.
  const auto rank = [](ScheduleKind kind) { return kind == ScheduleKind::kPcc ? -1 : int(kind); };
  if (a.candidate.schedule != b.candidate.schedule) {
    return rank(a.candidate.schedule) < rank(b.candidate.schedule);
  }
  return a.candidate.devices < b.candidate.devices;
}

}  // namespace conclave
