#include "tools/cli/plan_diff.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

namespace json = boost::json;

// Of a device's memory, what plans may fill: as CheckFits has it.
constexpr double kUsableShare = 0.94;
constexpr size_t kDevicesShown = 12;

json::string Text(absl::string_view text) { return json::string(text.data(), text.size()); }

// Devices of a cluster by name, flat index order.
std::vector<std::string> DeviceNames(const ClusterTopology& cluster) {
  std::vector<std::string> names;
  for (const ClusterNode& node : cluster.nodes) {
    for (int i = 0; i < node.devices; ++i) names.push_back(absl::StrCat(node.name, "/", i));
  }
  return names;
}

// The devices of two plans under one numbering: those of the old cluster, then those that joined.
struct Union {
  std::vector<std::string> names;
  std::map<std::string, int> index;
  std::vector<int> of_before;  // by flat device
  std::vector<int> of_after;

  Union(const ClusterTopology& before, const ClusterTopology& after) {
    for (const std::string& name : DeviceNames(before)) of_before.push_back(Add(name));
    for (const std::string& name : DeviceNames(after)) of_after.push_back(Add(name));
  }
  int Add(const std::string& name) {
    const auto [found, added] = index.insert({name, static_cast<int>(names.size())});
    if (added) names.push_back(name);
    return found->second;
  }
};

// What one device holds under a plan.
struct Holding {
  bool used = false;
  double expert_bytes = 0;
  double other_bytes = 0;  // weights that are no experts
  double run_bytes = 0;    // KV and scratch
  LayerRange layers;
  int tp = 0;
  int tp_index = 0;
  bool SameSlice(const Holding& other) const {
    return used && other.used && layers == other.layers && tp == other.tp &&
           tp_index == other.tp_index;
  }
};

double UnitBytes(const PlanDocument& document, int slices) {
  const ModelDims& model = document.inputs.search.model;
  return model.ExpertWeights() * NumberFormatBytes(model.expert_format) / slices;
}

int Slices(const PlanDocument& document) {
  return std::max(1, document.result.best.candidate.spec.slices);
}

std::vector<Holding> Holdings(const PlanDocument& document, const std::vector<int>& to_union,
                              int devices) {
  const Candidate& candidate = document.result.best.candidate;
  const std::vector<MemoryUse> memory = MemoryOfRanks(document);
  const double unit_bytes = UnitBytes(document, Slices(document));
  std::vector<Holding> holdings(devices);
  for (int rank = 0; rank < candidate.spec.WorkerCount(); ++rank) {
    const GridPosition at = candidate.spec.PositionOf(rank);
    Holding& holding = holdings[to_union[candidate.devices[rank]]];
    holding.used = true;
    holding.layers = candidate.stages[at.pp];
    holding.tp = candidate.spec.tp;
    holding.tp_index = at.tp;
    double block_bytes = 0;
    const double share = candidate.expert_shares.empty()
                             ? 0
                             : candidate.expert_shares[candidate.spec.StageRankOf(at)];
    const int stage_rank = candidate.spec.StageRankOf(at);
    for (int layer = holding.layers.begin; layer < holding.layers.end; ++layer) {
      const LayerExperts& map = document.experts.map.layers[layer];
      if (map.experts() == 0) continue;
      block_bytes += share * map.experts() * map.slices() * unit_bytes;
      holding.expert_bytes +=
          unit_bytes * std::count(map.ranks().begin(), map.ranks().end(), stage_rank);
    }
    holding.other_bytes = std::max(0.0, memory[rank].weights - block_bytes);
    holding.run_bytes = memory[rank].kv + memory[rank].scratch;
  }
  return holdings;
}

// Owners of each layer's units by device of the union, in slices of 1 / `slices` of an expert.
ExpertMap ByDevice(const PlanDocument& document, const std::vector<int>& to_union, int slices) {
  const Candidate& candidate = document.result.best.candidate;
  ExpertMap map;
  map.layers.resize(document.experts.map.layers.size());
  for (int stage = 0; stage < candidate.spec.pp; ++stage) {
    const LayerRange range = candidate.stages[stage];
    for (int layer = range.begin; layer < range.end; ++layer) {
      const LayerExperts& old = document.experts.map.layers[layer];
      if (old.experts() == 0) continue;
      std::vector<std::vector<int32_t>> owners;
      for (int expert = 0; expert < old.experts(); ++expert) {
        for (int slice = 0; slice < slices; ++slice) {
          std::vector<int32_t> devices;
          for (const int32_t rank : old.Owners({expert, slice * old.slices() / slices})) {
            devices.push_back(
                to_union[candidate.devices[stage * candidate.spec.StageSize() + rank]]);
          }
          std::sort(devices.begin(), devices.end());
          owners.push_back(std::move(devices));
        }
      }
      map.layers[layer] = LayerExperts(slices, owners);
    }
  }
  return map;
}

MigrationRank RankOf(const ClusterNode& node, int node_index) {
  MigrationRank rank;
  rank.node = node_index;
  rank.peer_bandwidth = node.fast_domain >= 0 ? node.fast.bandwidth : node.host.bandwidth;
  rank.network_bandwidth = node.network.bandwidth;
  rank.store_bandwidth = node.nvme_bytes > 0 ? node.nvme_bandwidth / node.devices : 0;
  return rank;
}

// Links and memory of every device of the union; a node's number is its place in order of first
// sight.
std::vector<MigrationRank> MigrationRanks(const PlanDocument& before, const PlanDocument& after,
                                          const Union& devices) {
  std::vector<MigrationRank> ranks(devices.names.size());
  std::map<std::string, int> nodes;
  for (const PlanDocument* document : {&before, &after}) {
    const ClusterTopology& cluster = document->inputs.search.cluster;
    const std::vector<int>& to_union = document == &before ? devices.of_before : devices.of_after;
    for (size_t device = 0; device < to_union.size(); ++device) {
      const ClusterNode& node = cluster.nodes[cluster.NodeOf(static_cast<int>(device))];
      const int number = nodes.insert({node.name, static_cast<int>(nodes.size())}).first->second;
      ranks[to_union[device]] = RankOf(node, number);
      ranks[to_union[device]].free_bytes = static_cast<int64_t>(
          kUsableShare * cluster.ProfileOf(static_cast<int>(device)).memory_bytes);
    }
  }
  return ranks;
}

// While a plan moves, a device keeps the old experts, the KV of the requests that run, and the
// larger of the two sets of other weights.
void SubtractHeld(const std::vector<Holding>& before, const std::vector<Holding>& after,
                  std::vector<MigrationRank>* ranks) {
  for (size_t i = 0; i < ranks->size(); ++i) {
    const double held = before[i].expert_bytes +
                        std::max(before[i].other_bytes, after[i].other_bytes) +
                        (before[i].used ? before[i].run_bytes : after[i].run_bytes);
    (*ranks)[i].free_bytes =
        std::max<int64_t>(0, (*ranks)[i].free_bytes - static_cast<int64_t>(held));
  }
}

void CountMoves(const MigrationInput& input, PlanDiff* diff) {
  std::map<int, DeviceMoves> by_device;
  for (const UnitMove& move : diff->migration.moves) {
    DeviceMoves& moves = by_device[move.to];
    moves.device = diff->devices[move.to];
    if (move.kind == UnitMove::Kind::kCopy) {
      ++moves.gains;
      moves.gains_bytes += static_cast<double>(input.unit_bytes[move.layer]);
    } else {
      ++moves.drops;
    }
  }
  for (const auto& [device, moves] : by_device) diff->by_device.push_back(moves);
  std::stable_sort(
      diff->by_device.begin(), diff->by_device.end(),
      [](const DeviceMoves& a, const DeviceMoves& b) { return a.gains_bytes > b.gains_bytes; });
}

// Weights that are no experts: a device whose layers or tp slice changed reads its new ones.
void CountOthers(const std::vector<Holding>& before, const std::vector<Holding>& after,
                 const std::vector<MigrationRank>& ranks, PlanDiff* diff) {
  for (size_t i = 0; i < after.size(); ++i) {
    if (!after[i].used || after[i].SameSlice(before[i])) continue;
    diff->other_bytes += after[i].other_bytes;
    const double rate =
        ranks[i].store_bandwidth > 0 ? ranks[i].store_bandwidth : ranks[i].network_bandwidth;
    if (rate > 0) diff->other_seconds = std::max(diff->other_seconds, after[i].other_bytes / rate);
  }
}

absl::Status CheckSameWeights(const ModelDims& a, const ModelDims& b) {
  const bool same = a.layers == b.layers && a.hidden == b.hidden && a.experts == b.experts &&
                    a.expert_ffn == b.expert_ffn && a.moe_layers == b.moe_layers &&
                    a.expert_format == b.expert_format;
  if (same) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the models differ (", a.name, " in ", NumberFormatName(a.expert_format), ", ", b.name,
      " in ", NumberFormatName(b.expert_format), "): every weight is loaded anew"));
}

void CompareFields(const PlanDocument& before, const PlanDocument& after, PlanDiff* diff) {
  const auto add = [&](const std::string& name, const std::string& a, const std::string& b) {
    if (a != b) diff->changes.push_back({name, a, b});
  };
  const std::vector<InputRow> old_rows = InputRows(before.inputs);
  for (const InputRow& row : InputRows(after.inputs)) {
    std::string old = "-";
    for (const InputRow& candidate : old_rows) {
      if (candidate.name == row.name) old = candidate.value;
    }
    add(row.name, old, row.value);
  }
  const PricedPlan& a = before.result.best;
  const PricedPlan& b = after.result.best;
  add("grid", GridText(a.candidate.spec), GridText(b.candidate.spec));
  add("exchange", std::string(ScheduleName(a.candidate.schedule)),
      std::string(ScheduleName(b.candidate.schedule)));
  add("devices", absl::StrCat(a.devices), absl::StrCat(b.devices));
  add("sequences", CountText(a.concurrency), CountText(b.concurrency));
  add("time a token", TimeText(a.tpot_seconds), TimeText(b.tpot_seconds));
  add("first token", TimeText(a.ttft_seconds), TimeText(b.ttft_seconds));
  add("tokens/s", CountText(std::round(a.tokens_per_second)),
      CountText(std::round(b.tokens_per_second)));
  add("cost a million", absl::StrFormat("%.3f", a.cost_per_million_tokens),
      absl::StrFormat("%.3f", b.cost_per_million_tokens));
  add("sequences max", CountText(a.sequences_max), CountText(b.sequences_max));
}

}  // namespace

absl::StatusOr<PlanDiff> DiffPlans(const PlanDocument& before, const PlanDocument& after) {
  PlanDiff diff;
  CompareFields(before, after, &diff);
  const ModelDims& model = after.inputs.search.model;
  diff.movable = CheckSameWeights(before.inputs.search.model, model);
  if (!diff.movable.ok()) return diff;
  const Union devices(before.inputs.search.cluster, after.inputs.search.cluster);
  const int count = static_cast<int>(devices.names.size());
  const std::vector<Holding> old_held = Holdings(before, devices.of_before, count);
  const std::vector<Holding> new_held = Holdings(after, devices.of_after, count);
  MigrationInput input;
  input.ranks = MigrationRanks(before, after, devices);
  SubtractHeld(old_held, new_held, &input.ranks);
  CountOthers(old_held, new_held, input.ranks, &diff);
  diff.devices = devices.names;
  if (!model.IsMoe()) return diff;
  const int slices = std::lcm(Slices(before), Slices(after));
  input.from = ByDevice(before, devices.of_before, slices);
  input.to = ByDevice(after, devices.of_after, slices);
  for (int layer = 0; layer < model.layers; ++layer) {
    input.unit_bytes.push_back(
        model.moe_layers[layer] ? static_cast<int64_t>(UnitBytes(after, slices)) : 0);
  }
  const std::vector<std::string> kept = DeviceNames(after.inputs.search.cluster);
  for (const int device : devices.of_before) {
    const std::string& name = devices.names[device];
    if (std::find(kept.begin(), kept.end(), name) == kept.end()) input.lost.push_back(device);
  }
  absl::StatusOr<MigrationPlan> migration = PlanMigration(input);
  diff.movable = migration.status();
  if (!migration.ok()) return diff;
  diff.migration = *std::move(migration);
  CountMoves(input, &diff);
  return diff;
}

std::string RenderDiff(const PlanDiff& diff, const TextStyle& style) {
  std::string out = Bold(style, "CHANGES") + "\n";
  if (diff.changes.empty()) out += "  none: the same question, grid and figures\n";
  for (const FieldChange& change : diff.changes) {
    absl::StrAppend(&out, "  ", Padded(change.name, 16));
    const std::string pair = absl::StrCat(change.before, " -> ", change.after);
    out += WrapText(pair, style.columns, 18).substr(18);
  }
  absl::StrAppend(&out, "\n", Bold(style, "WEIGHTS THAT MOVE"), "\n");
  if (!diff.movable.ok()) {
    return out + WrapText(absl::StrCat("Experts cannot move as they are: ", diff.movable.message()),
                          style.columns, 2);
  }
  const MigrationPlan& plan = diff.migration;
  const int64_t copies = std::count_if(plan.moves.begin(), plan.moves.end(), [](const auto& move) {
    return move.kind == UnitMove::Kind::kCopy;
  });
  out += WrapText(
      absl::StrFormat("experts: %s copies of slices, %s in %d wave%s, %s while serving; no order "
                      "moves less than %s",
                      CountText(static_cast<double>(copies)),
                      BytesText(static_cast<double>(plan.moved_bytes)), plan.waves,
                      plan.waves == 1 ? "" : "s", TimeText(plan.seconds),
                      BytesText(static_cast<double>(plan.lower_bound_bytes))),
      style.columns, 2);
  out += WrapText(absl::StrFormat("other weights: %s read anew, %s on the slowest device",
                                  BytesText(diff.other_bytes), TimeText(diff.other_seconds)),
                  style.columns, 2);
  for (size_t i = 0; i < diff.by_device.size() && i < kDevicesShown; ++i) {
    const DeviceMoves& moves = diff.by_device[i];
    absl::StrAppendFormat(&out, "  %-24s gains %5d (%8s)   drops %5d\n", moves.device, moves.gains,
                          BytesText(moves.gains_bytes), moves.drops);
  }
  if (diff.by_device.size() > kDevicesShown) {
    absl::StrAppend(&out, "  and ", diff.by_device.size() - kDevicesShown,
                    " more devices; --json lists every move\n");
  }
  return out;
}

json::object DiffToJson(const PlanDiff& diff) {
  json::object out;
  json::array changes;
  for (const FieldChange& change : diff.changes) {
    changes.push_back(json::object{{"name", Text(change.name)},
                                   {"before", Text(change.before)},
                                   {"after", Text(change.after)}});
  }
  out["changes"] = std::move(changes);
  out["movable"] = diff.movable.ok();
  out["why_not"] = Text(diff.movable.message());
  out["moved_bytes"] = diff.migration.moved_bytes;
  out["lower_bound_bytes"] = diff.migration.lower_bound_bytes;
  out["waves"] = diff.migration.waves;
  out["seconds"] = diff.migration.seconds;
  out["other_bytes"] = diff.other_bytes;
  out["other_seconds"] = diff.other_seconds;
  json::array moves;
  for (const UnitMove& move : diff.migration.moves) {
    json::object entry;
    entry["kind"] = move.kind == UnitMove::Kind::kCopy ? "copy" : "drop";
    entry["layer"] = move.layer;
    entry["expert"] = move.unit.expert;
    entry["slice"] = move.unit.slice;
    if (move.kind == UnitMove::Kind::kCopy) {
      entry["from"] = move.from < 0 ? Text("store") : Text(diff.devices[move.from]);
    }
    entry[move.kind == UnitMove::Kind::kCopy ? "to" : "of"] = Text(diff.devices[move.to]);
    entry["wave"] = move.wave;
    moves.push_back(std::move(entry));
  }
  out["moves"] = std::move(moves);
  return out;
}

}  // namespace conclave
