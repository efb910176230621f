#include "comm/exchange/exchange.h"

#include <algorithm>

#include "comm/exchange/exchange_layout.h"
#include "glog/logging.h"

namespace conclave {

namespace {

RankNodes NodesOrOne(const RankNodes& nodes, int stage_size) {
  if (nodes.empty()) return RankNodes(stage_size, 0);
  CHECK_EQ(static_cast<int>(nodes.size()), stage_size) << "nodes of another stage";
  return nodes;
}

}  // namespace

ExchangeSchedule::ExchangeSchedule(const ExchangeScheduleOptions& options,
                                   const LayerExperts& experts)
    : kind_(options.kind),
      spec_(options.spec),
      stage_rank_(options.stage_rank),
      slices_(experts.slices()),
      nodes_(NodesOrOne(options.nodes, options.spec.StageSize())) {
  const int stage_size = spec_.StageSize();
  CHECK_GE(stage_rank_, 0);
  CHECK_LT(stage_rank_, stage_size);
  const int units = experts.experts() * slices_;
  units_held_.assign(stage_size, 0);
  first_.reserve(units + 1);
  first_.push_back(0);
  for (int unit = 0; unit < units; ++unit) {
    for (const int32_t owner : experts.Owners({unit / slices_, unit % slices_})) {
      CHECK_LT(owner, stage_size) << "an expert map of a larger stage";
      copies_.push_back({owner, units_held_[owner]++});
    }
    first_.push_back(static_cast<int32_t>(copies_.size()));
  }
  if (kind_ == ExchangeKind::kTwoLevel) {
    FindLeaders();
  } else {
    FindOwners();
  }
}

void ExchangeSchedule::FindOwners() {
  const bool naive = kind_ == ExchangeKind::kNaive;
  index_of_.assign(spec_.StageSize(), -1);
  for (int other = 0; other < spec_.StageSize(); ++other) {
    const bool reachable = naive || other % spec_.tp == stage_rank_ % spec_.tp;
    if (other != stage_rank_ && reachable && Owns(other)) peers_.send_to.push_back(other);
    if (other != stage_rank_ && reachable && Owns(stage_rank_)) peers_.recv_from.push_back(other);
    if (other == stage_rank_ || (reachable && Owns(other))) {
      index_of_[other] = static_cast<int32_t>(destinations_.size());
      destinations_.push_back(other);
    }
  }
}

void ExchangeSchedule::FindLeaders() {
  const int own = nodes_.NodeOf(stage_rank_);
  std::vector<bool> node_owns(nodes_.nodes(), false);
  for (int rank = 0; rank < nodes_.ranks(); ++rank) {
    if (Owns(rank)) node_owns[nodes_.NodeOf(rank)] = true;
  }
  // Where rows for a rank go first: to itself on this node, to a leader on another.
  const auto hop = [&](int rank) {
    const int node = nodes_.NodeOf(rank);
    return node == own ? rank : nodes_.LeaderOf(stage_rank_, node);
  };
  std::vector<bool> sends(nodes_.ranks(), false);
  sends[stage_rank_] = true;
  for (int rank = 0; rank < nodes_.ranks(); ++rank) {
    if (Owns(rank)) sends[hop(rank)] = true;
  }
  std::vector<int32_t> position(nodes_.ranks(), -1);
  for (int rank = 0; rank < nodes_.ranks(); ++rank) {
    const int node = nodes_.NodeOf(rank);
    if (sends[rank]) {
      position[rank] = static_cast<int32_t>(destinations_.size());
      destinations_.push_back(rank);
    }
    if (rank == stage_rank_) continue;
    if (sends[rank]) peers_.send_to.push_back(rank);
    const bool comes = node == own ? Owns(stage_rank_)
                                   : node_owns[own] && nodes_.LeaderOf(rank, own) == stage_rank_;
    if (comes) peers_.recv_from.push_back(rank);
    if (node != own) continue;
    if (Owns(rank) && nodes_.Leads(stage_rank_)) hand_on_.send_to.push_back(rank);
    if (Owns(stage_rank_) && nodes_.Leads(rank)) hand_on_.recv_from.push_back(rank);
  }
  index_of_.assign(nodes_.ranks(), -1);
  for (int rank = 0; rank < nodes_.ranks(); ++rank) {
    if (Owns(rank) || rank == stage_rank_) index_of_[rank] = position[hop(rank)];
  }
}

int64_t ExchangeSchedule::HomeTokens(int stage_rank, int64_t tokens) const {
  if (kind_ != ExchangeKind::kTwoLevel) return tokens;
  const int tp = stage_rank % spec_.tp;
  return tokens > tp ? (tokens - tp - 1) / spec_.tp + 1 : 0;
}

int64_t ExchangeSchedule::HandedOnMax(int leader, absl::Span<const int32_t> tokens_by_dp) const {
  const int own = nodes_.NodeOf(stage_rank_);
  int64_t rows = 0;
  for (int rank = 0; rank < nodes_.ranks(); ++rank) {
    if (nodes_.NodeOf(rank) == own || nodes_.LeaderOf(rank, own) != leader) continue;
    rows += HomeTokens(rank, tokens_by_dp[rank / spec_.tp]);
  }
  return rows;
}

const ExchangeSchedule::Copy& ExchangeSchedule::CopyFor(int32_t expert, int slice,
                                                        int32_t token) const {
  const size_t unit = static_cast<size_t>(expert) * slices_ + slice;
  DCHECK_LT(unit + 1, first_.size());
  const int32_t begin = first_[unit];
  return copies_[begin + token % (first_[unit + 1] - begin)];
}

bool ExchangeSchedule::Handles(int32_t expert, int slice, int32_t token) const {
  if (kind_ == ExchangeKind::kTwoLevel) return token % spec_.tp == stage_rank_ % spec_.tp;
  return kind_ == ExchangeKind::kNaive ||
         CopyFor(expert, slice, token).stage_rank % spec_.tp == stage_rank_ % spec_.tp;
}

int ExchangeSchedule::HolderTp(int32_t expert, int slice, int32_t token) const {
  if (kind_ == ExchangeKind::kNaive) return stage_rank_ % spec_.tp;
  if (kind_ == ExchangeKind::kTwoLevel) return token % spec_.tp;
  return CopyFor(expert, slice, token).stage_rank % spec_.tp;
}

void ExchangeSchedule::DispatchInto(absl::Span<const int32_t> experts, int top_k,
                                    std::vector<DispatchToPeer>& out) const {
  CHECK_GT(top_k, 0);
  CHECK_EQ(experts.size() % top_k, 0u);
  out.resize(destinations_.size());
  for (size_t i = 0; i < out.size(); ++i) {
    out[i].stage_rank = destinations_[i];
    out[i].tokens.clear();
    out[i].entries.clear();
  }
  const int32_t expert_count = static_cast<int32_t>(first_.size() - 1) / slices_;
  const int32_t tokens = static_cast<int32_t>(experts.size() / top_k);
  const bool two_level = kind_ == ExchangeKind::kTwoLevel;
  const int32_t step = two_level ? spec_.tp : 1;
  for (int32_t token = two_level ? stage_rank_ % spec_.tp : 0; token < tokens; token += step) {
    for (int32_t choice = 0; choice < top_k; ++choice) {
      const int32_t expert = experts[static_cast<size_t>(token) * top_k + choice];
      CHECK(expert >= 0 && expert < expert_count) << "no such expert: " << expert;
      for (int32_t slice = 0; slice < slices_; ++slice) {
        const Copy& copy = CopyFor(expert, slice, token);
        const int32_t index = index_of_[copy.stage_rank];
        if (index < 0) continue;  // of another tp index: its rank of the dp group handles it
        DispatchToPeer& to = out[index];
        if (to.tokens.empty() || to.tokens.back() != token) to.tokens.push_back(token);
        const int32_t row = static_cast<int32_t>(to.tokens.size()) - 1;
        const int32_t slot = SpeaksOfCopies(to.stage_rank)
                                 ? static_cast<int32_t>(&copy - copies_.data())
                                 : copy.slot;
        to.entries.push_back({row, slot, token, choice, slice});
      }
    }
  }
  for (DispatchToPeer& to : out) {
    // A leader takes them row by row, as they are, and so hands them on.
    if (SpeaksOfCopies(to.stage_rank)) continue;
    // A token may choose one expert twice: choice and slice make the order total.
    std::sort(to.entries.begin(), to.entries.end(),
              [](const ExchangeEntry& a, const ExchangeEntry& b) {
                if (a.slot != b.slot) return a.slot < b.slot;
                if (a.row != b.row) return a.row < b.row;
                return a.choice < b.choice;
              });
  }
}

std::vector<DispatchToPeer> ExchangeSchedule::Dispatch(absl::Span<const int32_t> experts,
                                                       int top_k) const {
  std::vector<DispatchToPeer> out;
  DispatchInto(experts, top_k, out);
  return out;
}

int64_t DispatchBytes(int64_t rows, int64_t entries, const RowFormat& format) {
  return static_cast<int64_t>(sizeof(DispatchHeader)) +
         entries * static_cast<int64_t>(sizeof(WireEntry)) + rows * format.bytes();
}

int64_t CombineBytes(int64_t entries, const RowFormat& format) { return entries * format.bytes(); }

}  // namespace conclave
