#include "comm/fabric/fabric_bench_moe.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "comm/fabric/grow_buffer.h"
#include "comm/fabric/moe_exchange.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

absl::Status CheckLoad(const MoeLoad& load) {
  const bool grid = load.ranks > 0 && load.tp > 0 && load.ranks % load.tp == 0;
  if (grid && load.nodes > 0 && load.tokens >= 0 && load.hidden > 0 && load.top_k > 0 &&
      load.experts >= load.top_k && load.calls.calls > 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "MoE load: tp=", load.tp, " of ", load.ranks, " ranks, ", load.nodes, " nodes, ",
      load.tokens, " tokens of ", load.hidden, ", top ", load.top_k, " of ", load.experts,
      " experts; tp must divide the ranks, and no size be below one"));
}

// Expert e on rank e * ranks / experts.
ExpertMap SpreadExperts(const MoeLoad& load) {
  std::vector<std::vector<int32_t>> owners;
  for (int64_t e = 0; e < load.experts; ++e) {
    owners.push_back({static_cast<int32_t>(e * load.ranks / load.experts)});
  }
  return {.layers = {LayerExperts(1, owners)}};
}

// [tokens, top_k] different experts for each token of dp group `dp`.
std::vector<int32_t> Route(const MoeLoad& load, int dp) {
  Rng rng(static_cast<uint64_t>(dp) + 1);
  std::vector<int32_t> all(load.experts), chosen;
  std::iota(all.begin(), all.end(), 0);
  for (int token = 0; token < load.tokens; ++token) {
    for (int choice = 0; choice < load.top_k; ++choice) {
      std::swap(all[choice], all[choice + rng.Below(load.experts - choice)]);
      chosen.push_back(all[choice]);
    }
  }
  return chosen;
}

MoeExchangeOptions OptionsOf(const MoeLoad& load, int rank) {
  MoeExchangeOptions options;
  options.kind = load.kind;
  options.spec.tp = load.tp;
  options.spec.dp = load.ranks / load.tp;
  options.spec.ep = load.ranks;
  options.position = options.spec.PositionOf(rank);
  options.hidden = load.hidden;
  options.top_k = load.top_k;
  for (int i = 0; i < load.ranks; ++i) options.nodes.push_back(i * load.nodes / load.ranks);
  return options;
}

}  // namespace

absl::Span<const ExchangeKind> BenchExchangeKinds() {
  static constexpr ExchangeKind kKinds[] = {ExchangeKind::kNaive, ExchangeKind::kPcc,
                                            ExchangeKind::kTwoLevel};
  return kKinds;
}

absl::StatusOr<MoeTimes> TimeMoeExchange(Fabric& fabric, const MoeLoad& load) {
  RETURN_IF_ERROR(CheckLoad(load));
  const MoeExchangeOptions options = OptionsOf(load, fabric.rank());
  MoeExchange exchange(fabric, SpreadExperts(load), options);
  const std::vector<int32_t> experts = Route(load, options.position.dp);
  const std::vector<int32_t> tokens_by_dp(options.spec.dp, load.tokens);
  const std::vector<float> rows(static_cast<size_t>(load.tokens) * load.hidden, 1.0f);
  const std::vector<float> weights(experts.size(), 1.0f / static_cast<float>(load.top_k));
  const DispatchInput input = {.layer = 0,
                               .tokens = {rows.data(), load.tokens, load.hidden},
                               .experts = experts,
                               .tokens_by_dp = tokens_by_dp,
                               .weights = weights};
  GrowBuffer computed;  // stands for what the experts make; its values do not matter
  const FabricCounters before = fabric.counters();
  MoeTimes times;
  Clock::time_point start = Clock::now();
  for (int call = -load.calls.warmups; call < load.calls.calls; ++call) {
    ASSIGN_OR_RETURN(const DispatchedEntries entries, exchange.Dispatch(input));
    const int64_t count = static_cast<int64_t>(entries.slot_of_entry.size());
    const float* outputs = computed.Floats(static_cast<size_t>(count) * load.hidden);
    RETURN_IF_ERROR(exchange.Combine({outputs, count, load.hidden}).status());
    const Clock::time_point end = Clock::now();
    if (call >= 0) times.seconds.push_back(std::chrono::duration<double>(end - start).count());
    start = end;
  }
  const FabricCounters after = fabric.counters();
  const double calls = load.calls.warmups + load.calls.calls;
  times.bytes_per_call = static_cast<double>(after.bytes_sent - before.bytes_sent) / calls;
  times.messages_per_call = static_cast<double>(after.messages_sent - before.messages_sent) / calls;
  return times;
}

}  // namespace conclave
