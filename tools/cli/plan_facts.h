// What a plan's table and page both show, as rows of plain values: memory of like ranks, parts of a
// step, traffic by link class, what the other plans lose. Pure; deterministic; any thread.
#pragma once

#include <string>
#include <vector>

#include "tools/cli/plan_document.h"

namespace conclave {

// Bytes of one rank at the plan's concurrency.
struct MemoryUse {
  double weights = 0;
  double kv = 0;        // of all its sequences at their full length
  double scratch = 0;   // activations and staging
  double capacity = 0;  // of the device
  bool operator==(const MemoryUse&) const = default;
};

// Ranks on devices of one profile, with as many layers, whose memory looks alike.
struct RankGroup {
  std::vector<int> ranks;   // ascending
  std::vector<int> stages;  // ascending
  int layers = 0;           // of each rank
  std::string profile;
  int experts = 0;  // units of each MoE layer that a rank holds, at most
  MemoryUse memory;
};
std::vector<RankGroup> GroupRanks(const PlanDocument& document);
// "0-60", or "4 each" of a group of several stages.
std::string LayersText(const RankGroup& group, const Candidate& candidate);
// The same for every rank by itself.
std::vector<MemoryUse> MemoryOfRanks(const PlanDocument& document);

// Tokens of a step for which a plan keeps scratch: those that the search checks memory with.
double StepTokens(const PlanInputs& inputs, const PricedPlan& plan);

struct CostRow {
  CostKind kind = CostKind::kOverhead;
  double seconds = 0;
  double share = 0;  // of the step
};
// Largest first; parts that take no time are left out.
std::vector<CostRow> CostRows(const StepCost& step);

struct LinkRow {
  LinkClass link = LinkClass::kFast;
  double bytes = 0;  // of all ranks in a step
  double messages = 0;
  double busiest_bytes = 0;  // of the rank that sends most
  int busiest_rank = 0;
};
// Classes that carry something in a decode step, hand-overs between stages included; empty on one
// device.
std::vector<LinkRow> LinkRows(const PlanInputs& inputs, const PricedPlan& plan);

// Bytes that all ranks read and write of their memories in a decode step, and their share of what
// the memories could in that time.
struct ReadRate {
  double bytes = 0;
  double share = 0;
};
ReadRate DecodeReads(const PlanInputs& inputs, const PricedPlan& plan);

// What `plan` loses, without the description of the plan that its note may open with.
std::string LossText(const PricedPlan& plan);

// "tp=8,dp=2,pp=1,ep=16": without ep and slices where they say nothing.
std::string GridText(const ParallelSpec& spec);
// "4,5,8-11" of ascending numbers.
std::string RankRangesText(const std::vector<int>& numbers);
// "2 nodes, 16 x h200".
std::string ClusterText(const ClusterTopology& cluster);
// "12.3 ms", "141 GB", "1,234 tokens/s": three digits that matter.
std::string TimeText(double seconds);
std::string BytesText(double bytes);
std::string CountText(double count);

// Name and value of what was asked: model, cluster, formats, mix, objective, limits.
struct InputRow {
  std::string name;
  std::string value;
};
std::vector<InputRow> InputRows(const PlanInputs& inputs);

}  // namespace conclave
