#include "placement/forecast/forecast_test_inputs.h"

#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"

namespace conclave {

ModelDims SmallMoe() {
  ModelDims model;
  model.name = "small-moe";
  model.layers = 6;
  model.hidden = 2048;
  model.vocab = 32000;
  model.context_tokens = 4096;
  model.heads = 16;
  model.kv_heads = 16;
  model.head_dim = 128;
  model.ffn = 8192;
  model.experts = 32;
  model.top_k = 4;
  model.expert_ffn = 1024;
  model.moe_layers = {false, true, true, true, true, true};
  return model;
}

ClusterTopology SmallCluster(int nodes, int devices) {
  HardwareProfile profile;
  profile.name = "round";
  profile.memory_bytes = 80e9;
  profile.memory_bandwidth = 1e12;
  profile.flops = {{NumberFormat::kBf16, 100e12}};
  profile.kernel_seconds = 2e-6;
  profile.peer_seconds = 0.5e-6;
  profile.step_seconds = 50e-6;
  ClusterTopology cluster;
  cluster.name = "small";
  cluster.profiles = {profile};
  for (int n = 0; n < nodes; ++n) {
    ClusterNode node;
    node.name = absl::StrCat("node-", n);
    node.devices = devices;
    node.fast_domain = n;
    node.fast = {.alpha = 2e-6, .bandwidth = 100e9};
    node.host = {.alpha = 5e-6, .bandwidth = 20e9};
    node.network = {.alpha = 5e-6, .bandwidth = 10e9};
    cluster.nodes.push_back(node);
  }
  cluster.IndexDevices();
  return cluster;
}

ParallelSpec Grid(int tp, int dp, int pp, int slices) {
  ParallelSpec spec;
  spec.tp = tp;
  spec.dp = dp;
  spec.pp = pp;
  spec.slices = slices;
  spec.ep = tp * dp / slices;
  return spec;
}

SimulateInput SmallInput(const ParallelSpec& spec, ScheduleKind schedule, double sequences) {
  SimulateInput input;
  input.model = SmallMoe();
  input.cluster = SmallCluster((spec.WorkerCount() + 3) / 4, 4);
  std::vector<int> devices(spec.WorkerCount());
  std::iota(devices.begin(), devices.end(), 0);
  input.candidate = EvenCandidate(spec, schedule, input.model.layers, devices);
  input.load = DecodeLoad(sequences, 512);
  input.load.imbalance = ExpectedImbalance(spec.StageSize(), input.load.tokens * input.model.top_k);
  input.steps = 20;
  return input;
}

}  // namespace conclave
