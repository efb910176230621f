// Transfers: the dispatch, combine and gather of one MoE layer as the exact list of messages of a
// schedule: naive and PCC as ExchangeSchedule runs them, and two-level, which crosses to a node
// once. Planners run them through modelled links, tests count them, dashboards draw them. Values
// but for TransferBuilder, which keeps scratch memory: one thread at a time.
//
// A row is the activation of one token at one home rank. Naive and PCC: every rank (d, t) is home
// to the tokens of its dp group d, and sends as exchange.h says. Two-level: the tp ranks share a
// dp group's tokens (token i is at home on t = i % tp); a row goes at most once to each other node,
// to a leader there, which hands it to the owners of its node. Sources: arXiv 2207.00032, V-B
// (PCC); DeepEP, github.com/deepseek-ai/DeepEP (rows cross nodes once, inside by NVLink).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/exchange/exchange_volume.h"
#include "comm/exchange/node_layout.h"
#include "comm/exchange/payload.h"
#include "comm/types/expert_map.h"
#include "comm/types/parallel_spec.h"

namespace conclave {

// Not on the wire, unlike ExchangeKind.
enum class TransferSchedule : uint8_t { kNaive = 0, kPcc = 1, kTwoLevel = 2 };

enum class TwoLevelVariant : uint8_t {
  // Every rank sends to one leader on each other node: the rank there with its own position,
  // modulo their number. Then leaders hand on. Two rounds.
  kNodeLeaders = 0,
  // The rows of a node for another node meet first at one rank of theirs, so that a node sends one
  // message to each other node; its ranks take turns as leader, by (own node + other node) modulo
  // their number. Three rounds: fewer and longer messages over the network, one hop more.
  kGatherFirst = 1,
};

struct TransferOptions {
  TransferSchedule schedule = TransferSchedule::kPcc;
  TwoLevelVariant variant = TwoLevelVariant::kNodeLeaders;
  // Two-level: ranks and leaders add the outputs of a token before they send them back: one row
  // for each row of the dispatch. False: one for each entry, which the exactness rule of DESIGN 4
  // needs. Naive and PCC always return entries.
  bool sums_on_the_way = true;
  // Lists also messages without rows, which the runtime sends to every peer so that nobody waits
  // for an unknown. False: only pairs with rows.
  bool empty_messages = false;
  bool list_rows = false;  // fills LayerTransfers::dispatch_rows
  int hidden = 0;
  double element_bytes = 4;  // of an activation
  // What the runtime sends instead, scales included; overrides element_bytes.
  std::optional<PayloadFormat> payload;
};

struct Transfer {
  int32_t round = 0;  // of its phase; a round starts when its sender has received the one before
  int32_t from = 0;   // stage ranks
  int32_t to = 0;
  int64_t rows = 0;     // activations in the message
  int64_t entries = 0;  // (token, choice, slice) that it asks for or answers
  int64_t bytes = 0;    // header and entries included
  bool operator==(const Transfer&) const = default;
};

// What one rank computes: entries, and how many of its units at least one of them goes through.
struct RankWork {
  int64_t entries = 0;
  int64_t units = 0;
  bool operator==(const RankWork&) const = default;
};

struct RowId {
  int32_t home = 0;   // stage rank
  int32_t token = 0;  // of its dp group
  auto operator<=>(const RowId&) const = default;
};

// Each list is sorted by (round, from, to); a pair has at most one message a round.
struct LayerTransfers {
  int rounds = 1;  // of the dispatch, and of the combine
  std::vector<Transfer> dispatch;
  std::vector<Transfer> combine;  // the dispatch backwards: last round first, ends swapped
  std::vector<Transfer> gather;   // one round inside each tp group; PCC and two-level
  std::vector<RankWork> work;     // [stage size]
  // [dispatch.size()] if asked for: the rows of each, in the order of their homes.
  std::vector<std::vector<RowId>> dispatch_rows;
};

// How many messages each rank sends and receives in one round of the dispatch, empty ones included.
struct RoundPeers {
  std::vector<int32_t> sends;     // [stage size]
  std::vector<int32_t> receives;  // [stage size]; in the combine a rank sends as many
  bool operator==(const RoundPeers&) const = default;
};

// Builds transfers of one stage, layer by layer, reusing its memory. The arguments are the
// caller's own: broken ones CHECK; BuildTransfers checks those from outside.
class TransferBuilder {
 public:
  TransferBuilder(const TransferOptions& options, const ParallelSpec& spec, const RankNodes& nodes);

  // `layer`: owners within the stage. `out` is overwritten.
  void BuildInto(const LayerExperts& layer, const ExchangeRouting& routing, LayerTransfers& out);

  // [rounds] The static part: whoever might have rows for a rank sends it a message.
  std::vector<RoundPeers> PeerCounts(const LayerExperts& layer);

  int rounds() const;

 private:
  struct Cell {
    int32_t last = -1;  // newest row counted: rows come one after another
    int32_t rows = 0;
    int32_t entries = 0;
    int32_t list = -1;  // into lists_
  };
  // Sums of the messages of one round that are not listed yet, by a small index.
  struct Table {
    std::vector<Cell> cells;
    std::vector<int32_t> touched;
  };
  struct Node {
    int32_t first_cell = 0;  // of the node's square in inside_
    bool owns = false;       // some rank holds a unit of the layer
  };

  int LeaderFor(int node, int other_node, int position) const;
  void FindOwners(const LayerExperts& layer);
  std::vector<int32_t> Peers(int round, int from) const;
  bool LeadsInto(int rank) const;
  void Add(Table& table, int cell, RowId row);
  void AddEntry(int sender, int owner, RowId row);
  void AddRows(int sender, const LayerExperts& layer, const ExchangeRouting& routing,
               LayerTransfers& out);
  void ListSender(int sender, LayerTransfers& out);
  void ListNodePairs(int node, LayerTransfers& out);
  void ListInside(LayerTransfers& out);
  void List(Table& table, int cell, Transfer transfer, LayerTransfers& out);
  void SortDispatch(LayerTransfers& out) const;
  void ListCombine(LayerTransfers& out);
  void ListGather(const ExchangeRouting& routing, LayerTransfers& out) const;
  int64_t RowBytes(int64_t rows) const;

  TransferOptions options_;
  ParallelSpec spec_;
  NodeLayout layout_;
  std::vector<Node> nodes_;       // of the layout
  std::vector<int32_t> by_node_;  // [stage size] ranks, node by node
  std::vector<bool> owner_;       // [stage size] holds a unit of the layer
  Table direct_;                  // round 0, by receiver; one sender at a time
  Table across_;                  // gather-first's round 1, by node; one node at a time
  Table inside_;                  // the last round, by Node::first_cell and positions
  std::vector<std::vector<RowId>> lists_;
  std::vector<int64_t> held_;  // [stage size] rows that a rank has after the combine
  std::vector<int32_t> seen_;  // [copies] build that last used it
  int32_t build_ = 0;
  int32_t row_ = 0;
  std::vector<int32_t> starts_;  // scratch of ListCombine
};

// The same once, of input from outside. InvalidArgument names what does not fit: sizes of the
// grid, nodes, map and routing; experts and owners out of range.
absl::StatusOr<LayerTransfers> BuildTransfers(const TransferOptions& options,
                                              const ParallelSpec& spec, const RankNodes& nodes,
                                              const LayerExperts& layer,
                                              const ExchangeRouting& routing);

}  // namespace conclave
