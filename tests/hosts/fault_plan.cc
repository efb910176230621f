#include "tests/hosts/fault_plan.h"

#include <iterator>

#include "comm/base/rng.h"
#include "glog/logging.h"

namespace conclave {

const char* Name(FaultKind kind) {
  switch (kind) {
    case FaultKind::kKill: return "kill -9";
    case FaultKind::kStop: return "SIGSTOP";
    case FaultKind::kLinkDown: return "link down";
    case FaultKind::kBlackHole: return "black hole";
    case FaultKind::kHalfOpen: return "half-open";
  }
  LOG(FATAL) << "no such fault";
}

const char* Name(FaultPhase phase) {
  switch (phase) {
    case FaultPhase::kBeforeDispatch: return "before dispatch";
    case FaultPhase::kInDispatch: return "in dispatch";
    case FaultPhase::kBetween: return "between";
    case FaultPhase::kInCombine: return "in combine";
    case FaultPhase::kInGather: return "in gather";
  }
  LOG(FATAL) << "no such phase";
}

std::vector<int> FaultPlan::Victims(int ranks_per_host) const {
  if (kind != FaultKind::kLinkDown && kind != FaultKind::kBlackHole) return {victim};
  std::vector<int> victims;
  const int first = victim / ranks_per_host * ranks_per_host;
  for (int rank = first; rank < first + ranks_per_host; ++rank) victims.push_back(rank);
  return victims;
}

FaultPlan DrawFault(const FaultWorld& world, uint64_t seed, int round) {
  constexpr int kKinds = std::size(kFaultKinds), kPhases = std::size(kFaultPhases);
  Rng rng(seed, 1000 + round);
  FaultPlan plan;
  plan.kind = kFaultKinds[round % kKinds];
  plan.phase = kFaultPhases[round / kKinds % kPhases];
  plan.victim = static_cast<int>(rng.Below(world.ranks));
  plan.good_before = static_cast<int>(rng.Below(3));
  plan.delay_us = static_cast<int>(rng.Below(12'000));
  plan.left_out = rng.Chance(1, 3);
  ExchangeCase& exchange = plan.exchange;
  exchange.ranks = world.ranks;
  exchange.ranks_per_host = world.ranks_per_host;
  const bool gathers = plan.phase == FaultPhase::kInGather;
  exchange.tp = gathers || rng.Chance(2, 3) ? (rng.Chance(1, 2) ? 2 : 4) : 1;
  const bool naive = !gathers && rng.Chance(1, 4);
  exchange.kind = naive                ? ExchangeKind::kNaive
                  : rng.Chance(1, 3) ? ExchangeKind::kTwoLevel
                                       : ExchangeKind::kPcc;
  // From messages that fit a packet to some that take tens of milliseconds at 200 Mbit/s and the
  // rendezvous of large ones.
  exchange.hidden = 64 << rng.Below(7);
  exchange.tokens = 8 << rng.Below(4);
  exchange.top_k = 4;
  exchange.experts = 32;
  exchange.seed = rng.Next() >> 1;
  exchange.timeout = world.timeout;
  return plan;
}

}  // namespace conclave
