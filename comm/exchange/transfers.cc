#include "comm/exchange/transfers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "comm/exchange/exchange_layout.h"
#include "glog/logging.h"

namespace conclave {
namespace {

bool Before(const Transfer& a, const Transfer& b) {
  if (a.round != b.round) return a.round < b.round;
  if (a.from != b.from) return a.from < b.from;
  return a.to < b.to;
}

}  // namespace

TransferBuilder::TransferBuilder(const TransferOptions& options, const ParallelSpec& spec,
                                 const RankNodes& nodes)
    : options_(options), spec_(spec), layout_(nodes) {
  const int size = spec.StageSize();
  CHECK_EQ(layout_.ranks(), size);
  nodes_.resize(layout_.nodes());
  int32_t cells = 0;
  for (int node = 0; node < layout_.nodes(); ++node) {
    const std::vector<int32_t>& ranks = layout_.RanksOf(node);
    by_node_.insert(by_node_.end(), ranks.begin(), ranks.end());
    nodes_[node].first_cell = cells;
    if (layout_.nodes() > 1) cells += static_cast<int32_t>(ranks.size() * ranks.size());
  }
  direct_.cells.resize(size);
  if (options.schedule == TransferSchedule::kTwoLevel) {
    across_.cells.resize(nodes_.size());
    inside_.cells.resize(cells);
  } else {
    by_node_.clear();
    for (int rank = 0; rank < size; ++rank) by_node_.push_back(rank);
  }
}

int TransferBuilder::rounds() const {
  if (options_.schedule != TransferSchedule::kTwoLevel) return 1;
  return options_.variant == TwoLevelVariant::kNodeLeaders ? 2 : 3;
}

// The rank of `node` that speaks with `other_node`; of node leaders, for the rank at `position` of
// that other node.
int TransferBuilder::LeaderFor(int node, int other_node, int position) const {
  const bool turns = options_.variant == TwoLevelVariant::kGatherFirst;
  return layout_.RankAt(node, turns ? node + other_node : position);
}

void TransferBuilder::FindOwners(const LayerExperts& layer) {
  owner_.assign(spec_.StageSize(), false);
  for (Node& node : nodes_) node.owns = false;
  for (const int32_t rank : layer.ranks()) {
    CHECK_LT(rank, spec_.StageSize()) << "an expert map of a larger stage";
    owner_[rank] = true;
    nodes_[layout_.NodeOf(rank)].owns = true;
  }
}

// True when rows of another node may come to `rank` to be handed on.
bool TransferBuilder::LeadsInto(int rank) const {
  if (options_.variant == TwoLevelVariant::kNodeLeaders) return layout_.Leads(rank);
  const int node = layout_.NodeOf(rank);
  for (int other = 0; other < layout_.nodes(); ++other) {
    if (other != node && LeaderFor(node, other, 0) == rank) return true;
  }
  return false;
}

// Whom `from` sends to in `round`, ascending, rows or not.
std::vector<int32_t> TransferBuilder::Peers(int round, int from) const {
  std::vector<int32_t> peers;
  const int size = spec_.StageSize();
  if (options_.schedule != TransferSchedule::kTwoLevel) {
    const bool pcc = options_.schedule == TransferSchedule::kPcc;
    for (int to = pcc ? from % spec_.tp : 0; to < size; to += pcc ? spec_.tp : 1) {
      if (to != from && owner_[to]) peers.push_back(to);
    }
    return peers;
  }
  const int own = layout_.NodeOf(from);
  const bool turns = options_.variant == TwoLevelVariant::kGatherFirst;
  const bool last = round == rounds() - 1;
  if (round == 0 || (last && nodes_[own].owns && LeadsInto(from))) {
    for (const int32_t to : layout_.RanksOf(own)) {
      if (to != from && owner_[to]) peers.push_back(to);
    }
  }
  if (!last) {
    for (int node = 0; node < static_cast<int>(nodes_.size()); ++node) {
      if (node == own || !nodes_[node].owns) continue;
      const int speaker = turns ? LeaderFor(own, node, 0) : from;
      if (turns && round == 0) {
        if (speaker != from) peers.push_back(speaker);
      } else if (speaker == from) {
        peers.push_back(LeaderFor(node, own, layout_.PositionOf(from)));
      }
    }
  }
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

std::vector<RoundPeers> TransferBuilder::PeerCounts(const LayerExperts& layer) {
  FindOwners(layer);
  const int size = spec_.StageSize();
  std::vector<RoundPeers> counts(rounds());
  for (int round = 0; round < rounds(); ++round) {
    counts[round].receives.resize(size);
    for (int rank = 0; rank < size; ++rank) {
      const std::vector<int32_t> peers = Peers(round, rank);
      counts[round].sends.push_back(static_cast<int32_t>(peers.size()));
      for (const int32_t to : peers) ++counts[round].receives[to];
    }
  }
  return counts;
}

void TransferBuilder::Add(Table& table, int index, RowId row) {
  Cell& cell = table.cells[index];
  ++cell.entries;
  if (cell.last == row_) return;
  cell.last = row_;
  if (++cell.rows == 1) table.touched.push_back(index);
  if (!options_.list_rows) return;
  if (cell.list < 0) {
    cell.list = static_cast<int32_t>(lists_.size());
    lists_.emplace_back();
  }
  lists_[cell.list].push_back(row);
}

// One (token, choice, slice) of `sender` that `owner` computes.
void TransferBuilder::AddEntry(int sender, int owner, RowId row) {
  const int own = layout_.NodeOf(sender);
  const int node = layout_.NodeOf(owner);
  if (options_.schedule != TransferSchedule::kTwoLevel || own == node) {
    if (owner != sender) Add(direct_, owner, row);
    return;
  }
  const int leader = LeaderFor(node, own, layout_.PositionOf(sender));
  if (options_.variant == TwoLevelVariant::kNodeLeaders) {
    Add(direct_, leader, row);
  } else {
    const int speaker = LeaderFor(own, node, 0);
    if (speaker != sender) Add(direct_, speaker, row);
    Add(across_, node, row);
  }
  if (leader == owner) return;
  const int width = static_cast<int>(layout_.RanksOf(node).size());
  const int line = nodes_[node].first_cell + layout_.PositionOf(leader) * width;
  Add(inside_, line + layout_.PositionOf(owner), row);
}

void TransferBuilder::AddRows(int sender, const LayerExperts& layer, const ExchangeRouting& routing,
                              LayerTransfers& out) {
  const std::vector<int32_t>& experts = routing.experts_by_dp[sender / spec_.tp];
  const int slices = layer.slices();
  const int32_t expert_count = static_cast<int32_t>(layer.experts());
  const int tp = spec_.tp;
  const bool two_level = options_.schedule == TransferSchedule::kTwoLevel;
  const bool pcc = options_.schedule == TransferSchedule::kPcc;
  const int32_t tokens = static_cast<int32_t>(experts.size() / routing.top_k);
  const int32_t* first = layer.first().data();
  const int32_t* ranks = layer.ranks().data();
  for (int32_t token = two_level ? sender % tp : 0; token < tokens; token += two_level ? tp : 1) {
    ++row_;
    int64_t entries = 0;
    for (int choice = 0; choice < routing.top_k; ++choice) {
      const int32_t expert = experts[static_cast<size_t>(token) * routing.top_k + choice];
      CHECK(expert >= 0 && expert < expert_count) << "no such expert: " << expert;
      for (int32_t unit = expert * slices; unit < (expert + 1) * slices; ++unit) {
        const int32_t copy = first[unit] + token % (first[unit + 1] - first[unit]);
        const int32_t owner = ranks[copy];
        if (pcc && owner % tp != sender % tp) continue;  // its rank of the dp group handles it
        ++entries;
        RankWork& work = out.work[owner];
        ++work.entries;
        work.units += seen_[copy] != build_;
        seen_[copy] = build_;
        AddEntry(sender, owner, {sender, token});
      }
    }
    held_[sender] += two_level ? 1 : entries;
  }
}

// Appends the message that `index` sums up, and empties the cell.
void TransferBuilder::List(Table& table, int index, Transfer transfer, LayerTransfers& out) {
  Cell& cell = table.cells[index];
  transfer.rows = cell.rows;
  transfer.entries = cell.entries;
  transfer.bytes = static_cast<int64_t>(sizeof(DispatchHeader)) +
                   transfer.entries * static_cast<int64_t>(sizeof(WireEntry)) +
                   RowBytes(transfer.rows);
  out.dispatch.push_back(transfer);
  if (options_.list_rows) {
    out.dispatch_rows.emplace_back();
    if (cell.list >= 0) out.dispatch_rows.back() = std::move(lists_[cell.list]);
  }
  cell = Cell{};
}

void TransferBuilder::ListSender(int sender, LayerTransfers& out) {
  if (options_.empty_messages) {
    for (const int32_t to : Peers(0, sender)) List(direct_, to, {.from = sender, .to = to}, out);
  } else if (direct_.touched.size() * 8 > direct_.cells.size()) {
    for (int to = 0; to < static_cast<int>(direct_.cells.size()); ++to) {
      if (direct_.cells[to].rows > 0) List(direct_, to, {.from = sender, .to = to}, out);
    }
  } else {
    std::sort(direct_.touched.begin(), direct_.touched.end());
    for (const int32_t to : direct_.touched) List(direct_, to, {.from = sender, .to = to}, out);
  }
  direct_.touched.clear();
}

void TransferBuilder::ListNodePairs(int node, LayerTransfers& out) {
  for (int other = 0; other < static_cast<int>(nodes_.size()); ++other) {
    if (other == node) continue;
    const bool asked = options_.empty_messages && nodes_[other].owns;
    if (across_.cells[other].rows == 0 && !asked) continue;
    List(across_, other,
         {.round = 1, .from = LeaderFor(node, other, 0), .to = LeaderFor(other, node, 0)}, out);
  }
  across_.touched.clear();
}

void TransferBuilder::ListInside(LayerTransfers& out) {
  if (nodes_.size() < 2) return;
  const int round = rounds() - 1;
  for (int node = 0; node < layout_.nodes(); ++node) {
    const std::vector<int32_t>& ranks = layout_.RanksOf(node);
    const int width = static_cast<int>(ranks.size());
    for (int i = 0; i < width; ++i) {
      const bool asked = options_.empty_messages && LeadsInto(ranks[i]);
      for (int j = 0; j < width; ++j) {
        const int cell = nodes_[node].first_cell + i * width + j;
        const bool empty = asked && i != j && owner_[ranks[j]];
        if (inside_.cells[cell].rows == 0 && !empty) continue;
        List(inside_, cell, {.round = round, .from = ranks[i], .to = ranks[j]}, out);
      }
    }
  }
  inside_.touched.clear();
}

void TransferBuilder::SortDispatch(LayerTransfers& out) const {
  if (std::is_sorted(out.dispatch.begin(), out.dispatch.end(), Before)) return;
  if (!options_.list_rows) {
    std::sort(out.dispatch.begin(), out.dispatch.end(), Before);
    return;
  }
  std::vector<size_t> order(out.dispatch.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return Before(out.dispatch[a], out.dispatch[b]); });
  std::vector<Transfer> dispatch;
  std::vector<std::vector<RowId>> rows;
  for (const size_t i : order) {
    dispatch.push_back(out.dispatch[i]);
    rows.push_back(std::move(out.dispatch_rows[i]));
  }
  out.dispatch = std::move(dispatch);
  out.dispatch_rows = std::move(rows);
}

int64_t TransferBuilder::RowBytes(int64_t rows) const {
  if (options_.payload) return rows * RowFormat(options_.hidden, *options_.payload).bytes();
  return std::llround(static_cast<double>(rows) * options_.hidden * options_.element_bytes);
}

// Swaps the ends by a counting sort: as many messages as the dispatch, in linear time.
void TransferBuilder::ListCombine(LayerTransfers& out) {
  const int size = spec_.StageSize();
  const bool sums = options_.schedule == TransferSchedule::kTwoLevel && options_.sums_on_the_way;
  starts_.assign(static_cast<size_t>(out.rounds) * size + 1, 0);
  const auto bucket = [&](const Transfer& t) {
    return static_cast<size_t>(out.rounds - 1 - t.round) * size + t.to;
  };
  for (const Transfer& t : out.dispatch) ++starts_[bucket(t) + 1];
  for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
  out.combine.resize(out.dispatch.size());
  for (const Transfer& t : out.dispatch) {
    Transfer& back = out.combine[starts_[bucket(t)]++];
    back = {out.rounds - 1 - t.round, t.to, t.from, sums ? t.rows : t.entries, t.entries, 0};
    back.bytes = RowBytes(back.rows);
  }
}

void TransferBuilder::ListGather(const ExchangeRouting& routing, LayerTransfers& out) const {
  if (options_.schedule == TransferSchedule::kNaive) return;
  for (int from = 0; from < spec_.StageSize(); ++from) {
    // A group knows when it has no tokens at all, and gathers nothing.
    const bool idle = routing.experts_by_dp[from / spec_.tp].empty();
    if (idle || (held_[from] == 0 && !options_.empty_messages)) continue;
    const int group = from - from % spec_.tp;
    for (int to = group; to < group + spec_.tp; ++to) {
      if (to == from) continue;
      out.gather.push_back({0, from, to, held_[from], held_[from], RowBytes(held_[from])});
    }
  }
}

void TransferBuilder::BuildInto(const LayerExperts& layer, const ExchangeRouting& routing,
                                LayerTransfers& out) {
  CHECK_EQ(static_cast<int>(routing.experts_by_dp.size()), spec_.dp);
  CHECK_GT(routing.top_k, 0);
  FindOwners(layer);
  out.rounds = rounds();
  out.dispatch.clear();
  out.gather.clear();
  out.dispatch_rows.clear();
  out.work.assign(spec_.StageSize(), {});
  held_.assign(spec_.StageSize(), 0);
  if (seen_.size() < layer.ranks().size()) seen_.resize(layer.ranks().size(), 0);
  if (build_ == std::numeric_limits<int32_t>::max()) {
    std::fill(seen_.begin(), seen_.end(), 0);
    build_ = 0;
  }
  ++build_;
  row_ = 0;
  lists_.clear();
  const bool gathers = rounds() == 3;
  for (size_t i = 0; i < by_node_.size(); ++i) {
    const int sender = by_node_[i];
    AddRows(sender, layer, routing, out);
    ListSender(sender, out);
    const int node = layout_.NodeOf(sender);
    const bool node_done = i + 1 == by_node_.size() || layout_.NodeOf(by_node_[i + 1]) != node;
    if (gathers && node_done) ListNodePairs(node, out);
  }
  if (options_.schedule == TransferSchedule::kTwoLevel) ListInside(out);
  SortDispatch(out);
  ListCombine(out);
  ListGather(routing, out);
}

}  // namespace conclave
