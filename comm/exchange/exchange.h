// Schedules of MoE dispatch and combine as pure values: which rows a rank sends to whom, given the
// routing of its tokens. The worker executes them on a Fabric, the planner prices them, tests count
// them, dashboards draw them.
//
// Activations are replicated over tp, so every rank (d, t) of a stage holds the tokens of its dp
// group d. Naive: each rank sends its rows to every owner of a chosen expert: up to p - 1 peers.
// PCC (paper, section V-B): rank (d, t) serves only owners (d', t) of its own t: p / L - 1 peers
// and 1 / L of the rows; after the combine the tp group gathers, so that each rank again has all
// outputs of its tokens. Two-level: token i is at home on t = i % tp, which alone sends it: to the
// owners on its own node, and once to each other node that owns a chosen expert, to the leader
// there (node_layout.h), which hands it on to the owners of its node. A token goes to a destination
// at most once, however many of its experts live there. Pure: no state, no I/O; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "comm/exchange/node_layout.h"
#include "comm/exchange/payload.h"
#include "comm/types/expert_map.h"
#include "comm/types/parallel_plan.h"
#include "comm/types/parallel_spec.h"

namespace conclave {

// One (token, choice, slice) that a destination computes: row `row` of the rows sent to it goes
// through `slot`.
struct ExchangeEntry {
  int32_t row = 0;  // index into DispatchToPeer::tokens
  // Position of the unit among the destination's units of the layer; of a leader on another node,
  // which the unit need not be of: a copy (ExchangeSchedule::CopyAt).
  int32_t slot = 0;
  int32_t token = 0;   // of the sender's dp group
  int32_t choice = 0;  // 0..top_k
  int32_t slice = 0;
  bool operator==(const ExchangeEntry&) const = default;
};

// What one rank sends to one destination in the dispatch; the combine returns one row for each
// entry, in entry order.
struct DispatchToPeer {
  int stage_rank = 0;                  // the destination; may be the sender itself
  std::vector<int32_t> tokens;         // rows sent, ascending
  std::vector<ExchangeEntry> entries;  // sorted by (slot, row); to a leader by (row, choice, slice)
  bool operator==(const DispatchToPeer&) const = default;
};

// The static part for a rank and layer: who it may exchange with. Every pair in `peers` exchanges a
// message each way in dispatch and in combine, even an empty one, so that nobody waits for an
// unknown.
struct ExchangePeers {
  std::vector<int> send_to;    // stage ranks, ascending, own excluded
  std::vector<int> recv_from;  // stage ranks, ascending, own excluded
};

struct ExchangeScheduleOptions {
  ExchangeKind kind = ExchangeKind::kPcc;
  ParallelSpec spec;
  int stage_rank = 0;  // the caller's
  RankNodes nodes;     // two-level: of the stage's ranks; empty: all on one
};

// Pre-computed lookups of one layer for one rank: unit -> (owner chosen, slot). Built once per
// epoch.
class ExchangeSchedule {
 public:
  // Copies of a unit are chosen by token index, so that load spreads without talk.
  ExchangeSchedule(const ExchangeScheduleOptions& options, const LayerExperts& experts);
  ExchangeSchedule(ExchangeKind kind, const ParallelSpec& spec, const LayerExperts& experts,
                   int stage_rank)
      : ExchangeSchedule({kind, spec, stage_rank, {}}, experts) {}

  // Of the first round; for two-level also of the second, in which leaders hand rows on.
  const ExchangePeers& peers() const { return peers_; }
  const ExchangePeers& hand_on_peers() const { return hand_on_; }
  ExchangeKind kind() const { return kind_; }
  int stage_rank() const { return stage_rank_; }

  // Who holds a copy of a unit, as the position among its units tells.
  struct Copy {
    int32_t stage_rank;
    int32_t slot;
  };
  int32_t copies() const { return static_cast<int32_t>(copies_.size()); }
  const Copy& CopyAt(int32_t copy) const { return copies_[copy]; }
  // True when messages between the caller and `stage_rank` name copies: two-level, another node.
  bool SpeaksOfCopies(int stage_rank) const {
    return kind_ == ExchangeKind::kTwoLevel &&
           nodes_.NodeOf(stage_rank) != nodes_.NodeOf(stage_rank_);
  }
  // How many of the `tokens` of its dp group `stage_rank` sends.
  int64_t HomeTokens(int stage_rank, int64_t tokens) const;
  // The most rows that `leader` may hand on to the caller.
  int64_t HandedOnMax(int leader, absl::Span<const int32_t> tokens_by_dp) const;

  // experts: [tokens, top_k] chosen expert ids. One element per destination that gets rows or is
  // the caller itself, or a peer (maybe with nothing), ascending by stage_rank.
  std::vector<DispatchToPeer> Dispatch(absl::Span<const int32_t> experts, int top_k) const;
  // The same into `out`, whose memory is reused: nothing is allocated once the largest batch was
  // seen.
  void DispatchInto(absl::Span<const int32_t> experts, int top_k,
                    std::vector<DispatchToPeer>& out) const;

  // True when the caller handles this choice (naive: always; PCC: the owner shares its t;
  // two-level: the token is at home here).
  bool Handles(int32_t expert, int slice, int32_t token) const;

  // The tp index whose rank holds the combined output of (expert, slice) for `token` before the
  // gather.
  int HolderTp(int32_t expert, int slice, int32_t token) const;

 private:
  bool Owns(int stage_rank) const { return units_held_[stage_rank] > 0; }
  void FindOwners();
  void FindLeaders();
  const Copy& CopyFor(int32_t expert, int slice, int32_t token) const;

  ExchangeKind kind_;
  ParallelSpec spec_;
  int stage_rank_;
  int slices_ = 1;
  NodeLayout nodes_;
  std::vector<int32_t> first_;  // [units + 1] into copies_
  std::vector<Copy> copies_;
  std::vector<int32_t> units_held_;    // [stage size]
  std::vector<int32_t> destinations_;  // stage ranks, ascending: send_to and the caller
  // [stage size] position in destinations_ of the first rank on the way to an owner, or -1.
  std::vector<int32_t> index_of_;
  ExchangePeers peers_, hand_on_;
};

// Bytes of one dispatch message: header, `entries` (row, slot) pairs, `rows` activations; and of
// one combine message. The wire layout is comm/exchange/exchange_layout.h.
int64_t DispatchBytes(int64_t rows, int64_t entries, const RowFormat& format);
int64_t CombineBytes(int64_t entries, const RowFormat& format);

}  // namespace conclave
