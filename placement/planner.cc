#include "placement/planner.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "placement/memory.h"

namespace conclave {
namespace {

using Workers = std::vector<PlacementWorker>;

// The workers in rank order, for groups of `tp`: whole groups of one node first (nodes and names
// ascending), then groups made of what the nodes have left over.
struct RankOrder {
  Workers workers;
  int groups_in_node = 0;
};

RankOrder OrderWorkers(Workers workers, int tp) {
  std::sort(workers.begin(), workers.end(), [](const auto& a, const auto& b) {
    return std::tie(a.node, a.name, a.id) < std::tie(b.node, b.name, b.id);
  });
  RankOrder order;
  Workers left;
  for (size_t begin = 0; begin < workers.size();) {
    size_t end = begin;
    while (end < workers.size() && workers[end].node == workers[begin].node) ++end;
    const size_t whole = begin + (end - begin) / tp * tp;
    order.workers.insert(order.workers.end(), workers.begin() + begin, workers.begin() + whole);
    order.groups_in_node += (whole - begin) / tp;
    left.insert(left.end(), workers.begin() + whole, workers.begin() + end);
    begin = end;
  }
  order.workers.insert(order.workers.end(), left.begin(), left.end());
  return order;
}

// OK when every rank of the grid fits the worker it would go to.
absl::Status CheckMemory(const PlacementInput& input, const ParallelSpec& spec,
                         const Workers& order) {
  const std::vector<LayerRange> stages = SplitLayers(input.shape.layers, spec.pp);
  const int64_t kv_tokens = std::min(input.shape.context_tokens, kKvTokensLeast);
  for (int rank = 0; rank < spec.WorkerCount(); ++rank) {
    const int64_t have = order[rank].memory_bytes;
    if (have <= 0) continue;
    const GridPosition at = spec.PositionOf(rank);
    const RankMemory memory = MemoryOfRank(input.shape, spec, stages[at.pp], at, input.cache.dtype);
    const int64_t need = memory.weight_bytes + kv_tokens * memory.kv_bytes_per_token;
    if (need <= have) continue;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: rank %d needs %d MiB (weights %d MiB, KV of %d tokens %d MiB) but worker %s on %s has "
        "%d MiB; use more workers or give them more memory",
        spec.ToString(), rank, need >> 20, memory.weight_bytes >> 20, kv_tokens,
        (need - memory.weight_bytes) >> 20, order[rank].name, order[rank].node, have >> 20));
  }
  return absl::OkStatus();
}

ParallelPlan Build(const PlacementInput& input, const ParallelSpec& spec, const Workers& order) {
  ParallelPlan plan;
  plan.spec = spec;
  plan.exchange = input.exchange;
  plan.payload = input.payload;
  for (int rank = 0; rank < spec.WorkerCount(); ++rank) plan.workers.push_back(order[rank].id);
  plan.stages = SplitLayers(input.shape.layers, spec.pp);
  plan.experts = SpreadExperts(input.shape, spec);
  return plan;
}

// A grid of `count` workers: nullopt when it is not legal for the model.
std::optional<ParallelSpec> Grid(const ModelShape& shape, int count, int pp, int tp) {
  if (count % (pp * tp) != 0) return std::nullopt;
  ParallelSpec spec;
  spec.pp = pp;
  spec.tp = tp;
  spec.dp = count / (pp * tp);
  for (spec.slices = 1; spec.slices <= 8; spec.slices *= 2) {
    const absl::StatusOr<ParallelSpec> resolved = ResolveParallelSpec(spec, shape);
    if (resolved.ok()) return *resolved;
    if (!shape.IsMoe()) return std::nullopt;
  }
  return std::nullopt;
}

// The first grid of `count` workers that fits, in the order that MakePlan documents.
absl::StatusOr<ParallelPlan> ChooseGrid(const PlacementInput& input,
                                        const std::map<int, RankOrder>& orders, int count) {
  absl::Status best = absl::NotFoundError("no legal grid");
  for (int pp = 1; pp <= std::min(count, input.shape.layers); ++pp) {
    if (count % pp != 0) continue;
    for (bool in_node : {true, false}) {
      for (int tp = 8; tp >= 1; tp /= 2) {
        const std::optional<ParallelSpec> spec = Grid(input.shape, count, pp, tp);
        if (!spec.has_value()) continue;
        const RankOrder& order = orders.at(tp);
        if (in_node != (order.groups_in_node >= count / tp)) continue;
        const absl::Status fits = CheckMemory(input, *spec, order.workers);
        if (fits.ok()) return Build(input, *spec, order.workers);
        if (best.code() == absl::StatusCode::kNotFound) best = fits;
      }
    }
  }
  return best;
}

absl::StatusOr<ParallelPlan> PlanAutomatically(const PlacementInput& input) {
  std::map<int, RankOrder> orders;  // by tp
  for (int tp : {1, 2, 4, 8}) orders[tp] = OrderWorkers(input.workers, tp);
  absl::Status best = absl::NotFoundError("no legal grid");
  for (int count = static_cast<int>(input.workers.size()); count >= 1; --count) {
    absl::StatusOr<ParallelPlan> plan = ChooseGrid(input, orders, count);
    if (plan.ok()) return plan;
    if (best.code() == absl::StatusCode::kNotFound) best = plan.status();
  }
  if (best.code() != absl::StatusCode::kNotFound) return best;
  return absl::InvalidArgumentError(absl::StrFormat(
      "no grid of at most %d workers is legal for %s; give --parallel for the reason",
      input.workers.size(), std::string(ArchitectureName(input.shape.architecture))));
}

absl::Status CheckWorkers(const Workers& workers) {
  if (workers.empty()) {
    return absl::FailedPreconditionError("no workers to place the model on; start some");
  }
  std::map<WorkerId, const PlacementWorker*> seen;
  for (const PlacementWorker& worker : workers) {
    const auto [it, is_new] = seen.emplace(worker.id, &worker);
    if (is_new) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "workers %s and %s have one id, %s", it->second->name, worker.name, worker.id.ToString()));
  }
  return absl::OkStatus();
}

}  // namespace

ExpertMap SpreadExperts(const ModelShape& shape, const ParallelSpec& spec) {
  ExpertMap map;
  map.layers.resize(shape.layers);
  if (!shape.IsMoe()) return map;
  const int experts = shape.moe.experts;
  CHECK_GT(spec.ep, 0) << "the spec is not resolved";
  std::vector<std::vector<int32_t>> owners(static_cast<size_t>(experts) * spec.slices);
  for (int expert = 0; expert < experts; ++expert) {
    const int group = static_cast<int>(static_cast<int64_t>(expert) * spec.ep / experts);
    for (int slice = 0; slice < spec.slices; ++slice) {
      owners[expert * spec.slices + slice] = {group * spec.slices + slice};
    }
  }
  const LayerExperts spread(spec.slices, owners);
  for (int layer = 0; layer < shape.layers; ++layer) {
    if (shape.IsMoeLayer(layer)) map.layers[layer] = spread;
  }
  return map;
}

absl::StatusOr<ParallelPlan> MakePlan(const PlacementInput& input) {
  RETURN_IF_ERROR(CheckWorkers(input.workers));
  if (!input.spec.has_value()) return PlanAutomatically(input);
  ASSIGN_OR_RETURN(const ParallelSpec spec, ResolveParallelSpec(*input.spec, input.shape));
  if (static_cast<int>(input.workers.size()) < spec.WorkerCount()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s needs %d workers, %d are here; start %d more", spec.ToString(), spec.WorkerCount(),
        input.workers.size(), spec.WorkerCount() - static_cast<int>(input.workers.size())));
  }
  const RankOrder order = OrderWorkers(input.workers, spec.tp);
  RETURN_IF_ERROR(CheckMemory(input, spec, order.workers));
  return Build(input, spec, order.workers);
}

}  // namespace conclave
