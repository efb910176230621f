#include "tests/hosts/exchange_case.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "comm/exchange/exchange_test_maps.h"
#include "comm/exchange/transfers.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Bounds of what comes as text.
constexpr int64_t kRanksMax = 4096;
constexpr int64_t kTokensMax = 1 << 16;
constexpr int64_t kHiddenMax = 1 << 16;
constexpr int64_t kExpertsMax = 1 << 14;

int TokensOf(const ExchangeCase& what, int dp) {
  const int groups = what.ranks / what.tp;
  return (dp + 1) * what.tokens / groups - dp * what.tokens / groups;
}

// Rows are multiples of 1/8 below 2^13: products with it, and sums of these, are exact in floats.
float Scale(int expert) { return 1.0f + static_cast<float>(expert % 16) / 8; }

}  // namespace

ParallelSpec ExchangeCase::spec() const {
  ParallelSpec spec;
  spec.tp = tp;
  spec.dp = ranks / tp;
  return spec;
}

RankNodes ExchangeCase::hosts() const {
  RankNodes hosts;
  for (int rank = 0; rank < ranks; ++rank) hosts.push_back(rank / ranks_per_host);
  return hosts;
}

std::string ExchangeCase::ToString() const {
  return absl::StrCat("ranks=", ranks, " ranks_per_host=", ranks_per_host, " tp=", tp,
                      " schedule=", ExchangeKindName(kind),
                      " tokens=", tokens, " hidden=", hidden, " top_k=", top_k,
                      " experts=", experts, " seed=", seed,
                      " timeout_us=", absl::ToInt64Microseconds(timeout));
}

absl::StatusOr<ExchangeCase> ParseExchangeCase(absl::string_view text) {
  ExchangeCase what;
  std::map<std::string, std::pair<int*, int64_t>> numbers = {
      {"ranks", {&what.ranks, kRanksMax}},
      {"ranks_per_host", {&what.ranks_per_host, kRanksMax}},
      {"tp", {&what.tp, kRanksMax}},
      {"tokens", {&what.tokens, kTokensMax}}, {"hidden", {&what.hidden, kHiddenMax}},
      {"top_k", {&what.top_k, kExpertsMax}},  {"experts", {&what.experts, kExpertsMax}}};
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> field = absl::StrSplit(word, absl::MaxSplits('=', 1));
    const auto& [name, value] = field;
    const auto bad = [&](absl::string_view remedy) {
      return absl::InvalidArgumentError(absl::StrCat("exchange case: '", word, "'; ", remedy));
    };
    int64_t number = 0;
    if (name == "schedule") {
      const auto kind = ParseExchangeKind(value);
      if (!kind.ok()) return bad(kind.status().message());
      what.kind = *kind;
    } else if (!absl::SimpleAtoi(value, &number) || number < 0) {
      return bad("give a number");
    } else if (name == "seed") {
      what.seed = static_cast<uint64_t>(number);
    } else if (name == "timeout_us") {
      what.timeout = absl::Microseconds(number);
    } else if (const auto it = numbers.find(name); it == numbers.end()) {
      return bad("there is no such field");
    } else if (number < (name == "tokens" ? 0 : 1) || number > it->second.second) {
      return bad(absl::StrCat("give at most ", it->second.second));
    } else {
      *it->second.first = static_cast<int>(number);
    }
  }
  if (what.ranks % what.tp != 0 || what.top_k > what.experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("exchange case: '", text, "'; tp divides ranks, top_k is at most experts"));
  }
  return what;
}

ExchangeRouting RoutingOf(const ExchangeCase& what) {
  // Drawn for the whole batch, so that every grid exchanges the same work.
  Rng rng(what.seed, 1);
  const std::vector<int32_t> all = RandomRouting(what.tokens, what.top_k, what.experts, rng);
  ExchangeRouting routing;
  routing.top_k = what.top_k;
  auto next = all.begin();
  for (int dp = 0; dp < what.spec().dp; ++dp) {
    const auto end = next + static_cast<int64_t>(TokensOf(what, dp)) * what.top_k;
    routing.experts_by_dp.emplace_back(next, end);
    next = end;
  }
  return routing;
}

ExchangeDemand DemandOf(const ExchangeCase& what) {
  const RankNodes host_of_rank = what.hosts();
  TransferOptions options;
  options.schedule = what.kind == ExchangeKind::kPcc     ? TransferSchedule::kPcc
                     : what.kind == ExchangeKind::kNaive ? TransferSchedule::kNaive
                                                         : TransferSchedule::kTwoLevel;
  options.sums_on_the_way = false;  // as the runtime does it
  options.empty_messages = true;
  options.hidden = what.hidden;
  TransferBuilder builder(options, what.spec(), host_of_rank);
  LayerTransfers transfers;
  builder.BuildInto(EvenMap(what.experts, 1, what.ranks), RoutingOf(what), transfers);
  std::map<int, int64_t> messages, out, in;
  ExchangeDemand demand;
  for (const auto* list : {&transfers.dispatch, &transfers.combine, &transfers.gather}) {
    for (const Transfer& transfer : *list) {
      demand.messages = std::max(demand.messages, ++messages[transfer.from]);
      const int from = host_of_rank[transfer.from], to = host_of_rank[transfer.to];
      if (from == to) continue;
      demand.link_bytes = std::max(demand.link_bytes, out[from] += transfer.bytes);
      demand.link_bytes = std::max(demand.link_bytes, in[to] += transfer.bytes);
    }
  }
  return demand;
}

ExchangeRun::ExchangeRun(Fabric& fabric, const ExchangeCase& what)
    : what_(what),
      position_(what.spec().PositionOf(fabric.rank())),
      routing_(RoutingOf(what)),
      experts_{{EvenMap(what.experts, 1, what.ranks)}},
      units_(experts_.layers[0].UnitsOf(fabric.rank())) {
  for (int dp = 0; dp < what.spec().dp; ++dp) {
    tokens_by_dp_.push_back(TokensOf(what, dp));
    if (dp < position_.dp) first_token_ += tokens_by_dp_.back();
  }
  const int64_t tokens = tokens_by_dp_[position_.dp];
  for (int64_t token = 0; token < tokens; ++token) {
    for (int column = 0; column < what.hidden; ++column) {
      rows_.push_back(Row(first_token_ + token, column));
    }
  }
  MoeExchangeOptions options;
  options.kind = what.kind;
  options.spec = what.spec();
  options.position = position_;
  options.hidden = what.hidden;
  options.top_k = what.top_k;
  options.timeout = what.timeout;
  options.nodes = what.hosts();
  weights_.assign(tokens * what.top_k, 1.0f);
  exchange_ = std::make_unique<MoeExchange>(fabric, experts_, options);
}

float ExchangeRun::Row(int64_t token, int column) const {
  const uint64_t mixed = (what_.seed * 131 + static_cast<uint64_t>(token) * 7919 +
                          static_cast<uint64_t>(column) * 104729) % 65521;
  return static_cast<float>(mixed) / 8;
}

absl::Status ExchangeRun::Dispatch(int layer) {
  CHECK_EQ(layer, 0);
  ASSIGN_OR_RETURN(
      entries_,
      exchange_->Dispatch(
          {layer,
           {rows_.data(), static_cast<int64_t>(tokens_by_dp_[position_.dp]), what_.hidden},
           routing_.experts_by_dp[position_.dp],
           tokens_by_dp_,
           weights_}));
  return absl::OkStatus();
}

void ExchangeRun::Compute() {
  const size_t entries = entries_.slot_of_entry.size();
  computed_.resize(entries * what_.hidden);
  for (size_t e = 0; e < entries; ++e) {
    const float* from = entries_.rows.row(entries_.row_of_entry[e]);
    const float scale = Scale(units_[entries_.slot_of_entry[e]].expert);
    float* to = computed_.data() + e * what_.hidden;
    for (int i = 0; i < what_.hidden; ++i) to[i] = from[i] * scale;
  }
}

absl::Status ExchangeRun::Combine() {
  const int64_t entries = static_cast<int64_t>(entries_.slot_of_entry.size());
  ASSIGN_OR_RETURN(combined_, exchange_->Combine({computed_.data(), entries, what_.hidden}));
  return absl::OkStatus();
}

absl::Status ExchangeRun::Check() const {
  // Outputs come one by one, or summed over a token's choices; the check is of groups of choices.
  const std::vector<int32_t>& chosen = routing_.experts_by_dp[position_.dp];
  const size_t group = combined_.summed ? what_.top_k : 1;
  if (combined_.part_row.size() * group != chosen.size()) {
    return absl::InternalError(absl::StrCat("combine: ", combined_.part_row.size(),
                                            " parts for ", chosen.size(), " choices"));
  }
  for (size_t i = 0; i < combined_.part_row.size(); ++i) {
    const float* part = combined_.parts.row(combined_.part_row[i]);
    const int64_t token = first_token_ + static_cast<int64_t>(i * group) / what_.top_k;
    float scale = 0;
    for (size_t choice = 0; choice < group; ++choice) scale += Scale(chosen[i * group + choice]);
    for (int column = 0; column < what_.hidden; ++column) {
      const float expected = Row(token, column) * scale;
      if (part[column] == expected) continue;
      return absl::InternalError(absl::StrCat("combine: token ", token, ", choice ",
                                              i * group % what_.top_k, ", column ", column,
                                              " is ", part[column], ", not ", expected));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
