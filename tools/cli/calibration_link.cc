#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/ucx_fabric.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/calibration.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSmallBytes = 64;
constexpr size_t kLargeFloats = size_t{1} << 20;  // of an all-reduce
constexpr int kSmallCalls = 1000;
constexpr int kLargeCalls = 20;
constexpr int kMessages = 16;

// Rank 0 sends `messages` messages of `bytes`, rank 1 answers with as many, `calls` times.
struct Load {
  size_t bytes = 0;
  int messages = 1;
  int calls = 0;
};

// Median seconds one way: half a round trip, so that nothing has come before it is asked for.
absl::StatusOr<double> TimeOneWay(Fabric& fabric, const Load& load) {
  const int peer = 1 - fabric.rank();
  const std::vector<uint8_t> out(load.bytes, 1);
  std::vector<std::vector<uint8_t>> in(load.messages, std::vector<uint8_t>(load.bytes));
  const std::vector<SendBuffer> sends(load.messages, SendBuffer{peer, out});
  std::vector<RecvBuffer> recvs;
  for (std::vector<uint8_t>& buffer : in) recvs.push_back({peer, absl::MakeSpan(buffer)});
  std::vector<double> seconds;
  for (int call = 0; call < load.calls; ++call) {
    const FabricOp op = {"calibrate", call};
    const auto start = Clock::now();
    if (fabric.rank() == 0) RETURN_IF_ERROR(fabric.Exchange(sends, {}, op));
    RETURN_IF_ERROR(fabric.Exchange({}, absl::MakeSpan(recvs), op));
    if (fabric.rank() == 1) RETURN_IF_ERROR(fabric.Exchange(sends, {}, op));
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count() / 2);
  }
  return Percentile(std::move(seconds), 0.5);
}

constexpr Load kLoads[] = {{kSmallBytes, 1, kSmallCalls}, {kSmallBytes, kMessages, kSmallCalls}};

// Median seconds of a large all-reduce of the two.
absl::StatusOr<double> TimeAllReduce(Fabric& fabric) {
  const FabricGroup group = {{0, 1}, fabric.rank()};
  std::vector<float> data(kLargeFloats, 1.0f);
  std::vector<double> seconds;
  for (int call = 0; call < kLargeCalls; ++call) {
    const auto start = Clock::now();
    RETURN_IF_ERROR(fabric.AllReduceSum(group, absl::MakeSpan(data), {"calibrate", call}));
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  return Percentile(std::move(seconds), 0.5);
}

// The same loads on both ranks; rank 0's figures are kept.
absl::StatusOr<std::vector<double>> RunRank(FabricEndpoint& endpoint, FabricEndpoint::Peers peers,
                                            int rank) {
  peers.rank = rank;
  ASSIGN_OR_RETURN(const std::unique_ptr<Fabric> fabric, endpoint.Connect(peers));
  std::vector<double> seconds;
  for (const Load& load : kLoads) {
    ASSIGN_OR_RETURN(const double one, TimeOneWay(*fabric, load));
    seconds.push_back(one);
  }
  ASSIGN_OR_RETURN(const double all_reduce, TimeAllReduce(*fabric));
  seconds.push_back(all_reduce);
  return seconds;
}

}  // namespace

absl::StatusOr<LinkCalibration> CalibrateNodeLink() {
  std::vector<std::unique_ptr<FabricEndpoint>> endpoints;
  FabricEndpoint::Peers peers;
  for (int rank = 0; rank < 2; ++rank) {
    ASSIGN_OR_RETURN(std::unique_ptr<FabricEndpoint> endpoint, CreateUcxEndpoint({}));
    peers.addresses.push_back(endpoint->Address());
    peers.nodes.push_back("here");
    endpoints.push_back(std::move(endpoint));
  }
  absl::StatusOr<std::vector<double>> other;
  std::thread peer([&] { other = RunRank(*endpoints[1], peers, 1); });
  const absl::StatusOr<std::vector<double>> mine = RunRank(*endpoints[0], peers, 0);
  peer.join();
  RETURN_IF_ERROR(mine.status());
  RETURN_IF_ERROR(other.status());
  const double one = (*mine)[0];
  LinkCalibration link;
  link.alpha = one;
  link.peer_seconds = std::max(0.0, ((*mine)[1] - one) / (kMessages - 1));
  // Each of two ranks sends half of the data in each of two rounds (AllReduceSeconds).
  link.bandwidth = kLargeFloats * sizeof(float) / std::max((*mine)[2] - 2 * one, 1e-9);
  return link;
}

absl::StatusOr<double> CalibrateStep(int gpu, int threads) {
  EngineClusterOptions options;
  ModelShape& shape = options.shape;
  shape.name = "calibrate";
  shape.layers = 1;
  shape.hidden = 256;
  shape.heads = shape.kv_heads = 4;
  shape.head_dim = 64;
  shape.ffn = 256;
  shape.vocab = 256;
  shape.context_tokens = 256;
  options.source.dummy = true;
  options.gpu = gpu;
  options.threads = threads;
  options.cache.dtype = gpu < 0 ? Dtype::kF32 : Dtype::kBf16;
  options.cache.pages_max = shape.context_tokens / options.cache.page_tokens;
  ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster, EngineCluster::Create(options));
  const BenchSize size = {.batch = 1, .input_tokens = 16, .output_tokens = 128};
  const std::vector<EngineRequest> requests = RandomRequests(size, shape.vocab);
  RETURN_IF_ERROR(cluster->Run(requests, 0).status());
  ASSIGN_OR_RETURN(const EngineRun run, cluster->Run(requests, 0));
  std::vector<double> seconds;
  for (size_t step = 1; step < run.steps.size(); ++step) {
    seconds.push_back(static_cast<double>(run.steps[step][0].timings.total_us) * 1e-6);
  }
  return Percentile(std::move(seconds), 0.5);
}

}  // namespace conclave
