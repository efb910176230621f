// FaultPlan: what goes wrong in one round of fault_rounds: which fault, at which moment of an MoE
// exchange, to which rank, and how the world goes on. Drawn from a seed. Values and plain
// functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/hosts/exchange_case.h"

namespace conclave {

enum class FaultKind : uint8_t {
  kKill,       // SIGKILL
  kStop,       // SIGSTOP
  kLinkDown,   // of the victim's host: all its ranks are cut off
  kBlackHole,  // of the victim's host, both directions
  kHalfOpen,   // the process and its sockets vanish without a word, as when a host loses power
};
inline constexpr FaultKind kFaultKinds[] = {FaultKind::kKill, FaultKind::kStop,
                                            FaultKind::kLinkDown, FaultKind::kBlackHole,
                                            FaultKind::kHalfOpen};

enum class FaultPhase : uint8_t {
  kBeforeDispatch,
  kInDispatch,
  kBetween,  // dispatch and combine
  kInCombine,
  kInGather,  // of the tp group
};
inline constexpr FaultPhase kFaultPhases[] = {FaultPhase::kBeforeDispatch, FaultPhase::kInDispatch,
                                              FaultPhase::kBetween, FaultPhase::kInCombine,
                                              FaultPhase::kInGather};

const char* Name(FaultKind kind);
const char* Name(FaultPhase phase);

struct FaultPlan {
  FaultKind kind = FaultKind::kKill;
  FaultPhase phase = FaultPhase::kBeforeDispatch;
  int victim = 0;       // rank
  int good_before = 0;  // exchanges that go well first: without one, no connection exists yet
  int delay_us = 0;     // from the victim's word that it is in the phase, to the fault
  // The next epoch does without the victim; else another process replaces it.
  bool left_out = false;
  ExchangeCase exchange;

  // The ranks that survivors may blame.
  std::vector<int> Victims(int ranks_per_host) const;
};

struct FaultWorld {
  int ranks = 8;
  int ranks_per_host = 2;
  absl::Duration timeout = absl::Seconds(1);
};

// Round r of a seed. Kinds and phases take turns, so that 25 rounds have each pair once.
FaultPlan DrawFault(const FaultWorld& world, uint64_t seed, int round);

}  // namespace conclave
