// What tests of the planner's verbs share: a small model on a small cluster, a document whose
// figures are made up, so that texts can be compared without the cost model, and inputs for a real
// search. Test only; values.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/cli/plan_document.h"

namespace conclave {

// 4 layers, the first dense, 8 experts.
inline ModelDims TinyModel() {
  ModelDims model;
  model.name = "tiny";
  model.layers = 4;
  model.hidden = 1024;
  model.vocab = 32000;
  model.context_tokens = 8192;
  model.heads = 16;
  model.kv_heads = 8;
  model.head_dim = 64;
  model.ffn = 4096;
  model.experts = 8;
  model.top_k = 2;
  model.expert_ffn = 2048;
  model.moe_layers = {false, true, true, true};
  return model;
}

inline HardwareProfile TinyDevice() {
  HardwareProfile profile;
  profile.name = "toy";
  profile.source = "made up";
  profile.memory_bytes = 8e9;
  profile.memory_bandwidth = 1e12;
  for (const auto format : {NumberFormat::kF32, NumberFormat::kBf16, NumberFormat::kFp8,
                            NumberFormat::kInt8, NumberFormat::kInt4, NumberFormat::kMxfp4}) {
    profile.flops[format] = 1e14;
  }
  profile.stream_efficiency = 0.8;
  profile.gemm_efficiency = 0.7;
  profile.attention_efficiency = 0.7;
  profile.kernel_seconds = 3e-6;
  profile.peer_seconds = 1e-6;
  profile.step_seconds = 5e-5;
  profile.host_bandwidth = 2e10;
  return profile;
}

inline ClusterTopology TinyCluster(int nodes = 2, int devices = 2) {
  ClusterTopology cluster;
  cluster.name = "toy cluster";
  cluster.profiles = {TinyDevice()};
  for (int i = 0; i < nodes; ++i) {
    ClusterNode node;
    node.name = absl::StrCat("node-", i);
    node.devices = devices;
    node.fast_domain = i;
    node.fast = {3e-6, 2e11};
    node.host = {1e-5, 2e10};
    node.network = {8e-6, 2.5e10};
    node.dram_bytes = 1e11;
    node.nvme_bytes = 1e12;
    node.nvme_bandwidth = 1e10;
    node.cost_per_hour = 2.5;
    cluster.nodes.push_back(node);
  }
  return cluster;
}

inline PlanInputs TinyInputs() {
  PlanInputs inputs;
  inputs.search.model = TinyModel();
  inputs.search.cluster = TinyCluster();
  inputs.search.mix.prompt_tokens = 512;
  inputs.search.mix.output_tokens = 128;
  inputs.search.mix.concurrency = 8;
  inputs.search.runners_up = 2;
  return inputs;
}

inline StepCost MadeUpStep(int ranks) {
  StepCost step;
  step.seconds = 0.0125;
  step.interval_seconds = 0.0125;
  step.seconds_by_kind[static_cast<int>(CostKind::kExperts)] = 0.00625;
  step.seconds_by_kind[static_cast<int>(CostKind::kAttentionWeights)] = 0.0025;
  step.seconds_by_kind[static_cast<int>(CostKind::kExchange)] = 0.00375;
  step.ranks.resize(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    step.ranks[rank].bytes = 5e9;
    step.ranks[rank].link_bytes[0] = 1e6;
    step.ranks[rank].link_bytes[2] = 1000.0 * (rank + 1);
    step.ranks[rank].link_messages[2] = 600;
  }
  step.effective_bandwidth = 2.5e12;
  step.bandwidth_share = 0.625;
  return step;
}

inline PricedPlan MadeUpPlan(const ParallelSpec& spec, double tpot, std::string note) {
  std::vector<int> devices;
  for (int rank = 0; rank < spec.WorkerCount(); ++rank) devices.push_back(rank);
  PricedPlan plan;
  plan.candidate = EvenCandidate(spec, ScheduleKind::kPcc, 4, devices);
  plan.devices = spec.WorkerCount();
  plan.concurrency = 8;
  plan.decode = MadeUpStep(spec.WorkerCount());
  plan.prefill = plan.decode;
  plan.tpot_seconds = tpot;
  plan.ttft_seconds = 0.25;
  plan.tokens_per_second = 8 / tpot;
  plan.cost_per_million_tokens = 1.5;
  plan.sequences_max = 1234;
  plan.note = std::move(note);
  return plan;
}

// tp=2,dp=2 as the choice, one runner-up.
inline PlanDocument MadeUpDocument() {
  PlanDocument document;
  document.inputs = TinyInputs();
  document.result.best = MadeUpPlan({2, 2, 1, 1, 4}, 0.0125, "");
  document.result.runners_up = {MadeUpPlan({1, 4, 1, 1, 4}, 0.02, "loses 60 % to <more> peers")};
  document.result.candidates = 24;
  document.result.too_large = 3;
  document.result.reason = "Experts bind: they take half of a step.";
  document.experts = *PlaceExperts(document.inputs.search.model, document.inputs.search.cluster,
                                   document.result.best.candidate, {});
  return document;
}

}  // namespace conclave
