#include "placement/balance/layer_state.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <queue>
#include <tuple>
#include <utility>

#include "glog/logging.h"

namespace conclave {
namespace {

// The largest of two lower bounds: the ideal time; and, at the speed of the fastest rank, the
// largest share when every slot is used for nothing but making it small.
double LowerBound(const LayerProblem& problem) {
  const double fastest =
      *std::min_element(problem.inverse_speed.begin(), problem.inverse_speed.end());
  // Smaller shares than the fastest rank does in the ideal time say nothing.
  const std::vector<int> copies = SpreadCopies(problem, problem.slots_total, 1 / fastest);
  double share = 0;
  for (int e = 0; e < problem.experts(); ++e) {
    share = std::max(share, problem.weight[e] / copies[e]);
  }
  return std::max(1.0, share * fastest);
}

}  // namespace

LayerProblem MakeProblem(const std::vector<BalanceRank>& ranks, int experts, int copies_max) {
  LayerProblem problem;
  problem.weight.assign(experts, 0);
  std::map<int, int> nodes;
  int useful = 0;
  for (const BalanceRank& rank : ranks) {
    const int slots = std::min(rank.slots, experts);
    problem.slots.push_back(slots);
    problem.slots_total += slots;
    useful += slots > 0;
    problem.inverse_speed.push_back(1 / rank.speed);
    const int node = nodes.emplace(rank.node, nodes.size()).first->second;
    problem.node.push_back(node);
    problem.node_ranks.resize(nodes.size());
    ++problem.node_ranks[node];
  }
  problem.copies_max = std::clamp(copies_max, 1, std::max(useful, 1));
  return problem;
}

void SetTokens(const std::vector<double>& tokens, LayerProblem& problem) {
  // Divided by the largest first, so that counts of any size add up without overflow.
  const double largest = *std::max_element(tokens.begin(), tokens.end());
  double total = 0, speed = 0;
  for (int e = 0; e < problem.experts(); ++e) {
    problem.weight[e] = largest > 0 ? tokens[e] / largest : 1;
    total += problem.weight[e];
  }
  for (const double inverse : problem.inverse_speed) speed += 1 / inverse;
  for (double& weight : problem.weight) weight *= speed / total;
  problem.time_least = LowerBound(problem);
}

std::vector<int> SpreadCopies(const LayerProblem& problem, int64_t total, double share_least) {
  const int experts = problem.experts();
  std::vector<int> copies(experts, 1);
  std::priority_queue<std::pair<double, int>> largest;  // share, -expert
  for (int e = 0; e < experts; ++e) largest.emplace(problem.weight[e], -e);
  for (int64_t used = experts; used < total && !largest.empty(); ++used) {
    const auto [share, minus] = largest.top();
    if (share <= share_least) break;
    // The largest share is final once its expert may have no more copies.
    if (copies[-minus] == problem.copies_max) {
      largest.pop();
      --used;
      continue;
    }
    largest.pop();
    ++copies[-minus];
    largest.emplace(problem.weight[-minus] / copies[-minus], minus);
  }
  return copies;
}

LayerState::LayerState(const LayerProblem& problem)
    : problem_(&problem),
      owners_(problem.experts()),
      experts_(problem.ranks()),
      share_(problem.experts()),
      load_(problem.ranks()),
      held_((static_cast<size_t>(problem.experts()) * problem.ranks() + 63) / 64) {}

void LayerState::SetShare(int expert, double share) {
  const double change = share - share_[expert];
  for (const int rank : owners_[expert]) load_[rank] += change;
  share_[expert] = share;
}

void LayerState::Add(int expert, int rank) { AddAll(expert, {rank}); }

void LayerState::AddAll(int expert, const std::vector<int>& ranks) {
  const double share = problem_->weight[expert] / (owners_[expert].size() + ranks.size());
  SetShare(expert, share);
  for (const int rank : ranks) {
    DCHECK(!Holds(expert, rank));
    Flip(expert, rank);
    owners_[expert].push_back(rank);
    experts_[rank].push_back(expert);
    load_[rank] += share;
  }
}

void LayerState::Remove(int expert, int rank) {
  DCHECK(Holds(expert, rank));
  Flip(expert, rank);
  std::vector<int>& owners = owners_[expert];
  *std::find(owners.begin(), owners.end(), rank) = owners.back();
  owners.pop_back();
  std::vector<int>& experts = experts_[rank];
  *std::find(experts.begin(), experts.end(), expert) = experts.back();
  experts.pop_back();
  load_[rank] -= share_[expert];
  SetShare(expert, owners.empty() ? 0 : problem_->weight[expert] / owners.size());
}

int LayerState::Slowest() const {
  int slowest = 0;
  double most = -1;
  for (int rank = 0; rank < problem_->ranks(); ++rank) {
    const double time = Time(rank);
    if (time > most) std::tie(most, slowest) = std::pair(time, rank);
  }
  return slowest;
}

LayerExperts LayerState::ToMap() const {
  std::vector<std::vector<int32_t>> owners(problem_->experts());
  for (int e = 0; e < problem_->experts(); ++e) {
    owners[e].assign(owners_[e].begin(), owners_[e].end());
    std::sort(owners[e].begin(), owners[e].end());
  }
  return LayerExperts(1, owners);
}

}  // namespace conclave
