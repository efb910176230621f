#include "comm/fabric/fabric_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>

#include "comm/base/status.h"
#include "comm/fabric/grow_buffer.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

absl::StatusOr<std::vector<double>> TimeCalls(const BenchCalls& calls,
                                              const std::function<absl::Status(int call)>& call) {
  std::vector<double> seconds;
  seconds.reserve(calls.calls);
  Clock::time_point start = Clock::now();
  for (int i = -calls.warmups; i < calls.calls; ++i) {
    RETURN_IF_ERROR(call(i));
    // The end of a call is the start of the next: reading the clock twice would count.
    const Clock::time_point end = Clock::now();
    if (i >= 0) seconds.push_back(std::chrono::duration<double>(end - start).count());
    start = end;
  }
  return seconds;
}

absl::Span<uint8_t> Filled(GrowBuffer& buffer, size_t bytes) {
  const absl::Span<uint8_t> filled = buffer.Bytes(bytes);
  std::fill(filled.begin(), filled.end(), uint8_t{1});
  return filled;
}

}  // namespace

BenchCalls CallsFor(size_t bytes, double seconds) {
  // About 2 GB/s and 2 us a call: slow enough that real fabrics take less than `seconds`.
  const double each = 2e-6 + static_cast<double>(bytes) / 2e9;
  BenchCalls calls;
  calls.calls = static_cast<int>(std::clamp(seconds / each, 10.0, 50000.0));
  calls.warmups = std::max(2, calls.calls / 10);
  return calls;
}

absl::StatusOr<std::vector<double>> TimePingPong(Fabric& fabric, const PairLoad& load) {
  GrowBuffer out, in;  // aligned as those of the exchange are
  const SendBuffer send = {load.peer, Filled(out, load.bytes)};
  RecvBuffer recv = {load.peer, Filled(in, load.bytes)};
  const FabricOp op = {"bench_ping_pong"};
  // The higher rank answers: it receives first, and its last answer asks for nothing more. Each
  // rank makes one call a round trip, as an exchange of a step does.
  const bool answers = fabric.rank() > load.peer;
  if (answers) RETURN_IF_ERROR(fabric.Exchange({}, {&recv, 1}, op));
  const int last = load.calls.calls - 1;
  const auto call = [&](int i) {
    return fabric.Exchange({&send, 1}, absl::MakeSpan(&recv, answers && i == last ? 0 : 1), op);
  };
  ASSIGN_OR_RETURN(std::vector<double> seconds, TimeCalls(load.calls, call));
  for (double& one_way : seconds) one_way /= 2;
  return seconds;
}

absl::StatusOr<std::vector<double>> TimeStream(Fabric& fabric, const PairLoad& load) {
  // One buffer for all messages: what is measured is the fabric, not the memory of a window.
  GrowBuffer buffer;
  const absl::Span<uint8_t> bytes = Filled(buffer, load.bytes);
  const bool sends = fabric.rank() < load.peer;
  const std::vector<SendBuffer> outgoing(sends ? load.window : 0, {load.peer, bytes});
  std::vector<RecvBuffer> incoming(sends ? 0 : load.window, {load.peer, bytes});
  const FabricOp op = {"bench_stream"};
  return TimeCalls(load.calls, [&](int) {
    return fabric.Exchange(outgoing, absl::MakeSpan(incoming), op);
  });
}

absl::Span<const FabricCollectiveName> FabricCollectives() {
  static constexpr FabricCollectiveName kNames[] = {
      {FabricCollective::kAllReduce, "all_reduce"},
      {FabricCollective::kReduceScatter, "reduce_scatter"},
      {FabricCollective::kAllGather, "all_gather"},
      {FabricCollective::kBroadcast, "broadcast"},
      {FabricCollective::kAllToAll, "all_to_all"},
  };
  return kNames;
}

absl::StatusOr<std::vector<double>> TimeCollective(Fabric& fabric, const FabricGroup& group,
                                                   const CollectiveLoad& load) {
  const int n = group.size();
  const size_t floats = load.bytes / sizeof(float);
  const FabricOp op = {"bench_collective"};
  std::vector<std::vector<uint8_t>> in;
  switch (load.collective) {
    case FabricCollective::kAllReduce: {
      std::vector<float> data(floats);
      return TimeCalls(load.calls, [&](int) {
        return fabric.AllReduceSum(group, absl::MakeSpan(data), op);
      });
    }
    case FabricCollective::kReduceScatter: {
      const std::vector<float> data(floats * n);
      std::vector<float> out(floats);
      return TimeCalls(load.calls, [&](int) {
        return fabric.ReduceScatterSum(group, data, absl::MakeSpan(out), op);
      });
    }
    case FabricCollective::kAllGather: {
      const std::vector<uint8_t> part(load.bytes, 1);
      in.assign(n, part);
      std::vector<absl::Span<uint8_t>> out;
      for (std::vector<uint8_t>& bytes : in) out.push_back(absl::MakeSpan(bytes));
      return TimeCalls(load.calls, [&](int) { return fabric.AllGatherV(group, part, out, op); });
    }
    case FabricCollective::kBroadcast: {
      std::vector<uint8_t> data(load.bytes, 1);
      // The root changes from call to call, or it would run ahead of the others.
      return TimeCalls(load.calls, [&](int call) {
        const int root = (call % n + n) % n;
        return fabric.Broadcast(group, root, absl::MakeSpan(data), op);
      });
    }
    case FabricCollective::kAllToAll: {
      const std::vector<uint8_t> out(load.bytes, 1);
      in.assign(n, out);
      const std::vector<absl::Span<const uint8_t>> sends(n, out);
      std::vector<RecvBuffer> recvs(n);
      for (int i = 0; i < n; ++i) recvs[i].bytes = absl::MakeSpan(in[i]);
      return TimeCalls(load.calls, [&](int) {
        return AllToAllV(fabric, group, sends, absl::MakeSpan(recvs), op);
      });
    }
  }
  return absl::InvalidArgumentError("collective: no such value; take one of FabricCollectives()");
}

absl::StatusOr<std::vector<double>> SlowestOf(Fabric& fabric, const FabricGroup& group,
                                              std::vector<double> seconds) {
  const auto bytes = [](std::vector<double>& values) {
    return absl::MakeSpan(reinterpret_cast<uint8_t*>(values.data()),
                          values.size() * sizeof(double));
  };
  std::vector<std::vector<double>> all(group.size(), std::vector<double>(seconds.size()));
  std::vector<absl::Span<uint8_t>> out;
  for (std::vector<double>& of_rank : all) out.push_back(bytes(of_rank));
  RETURN_IF_ERROR(fabric.AllGatherV(group, bytes(seconds), out, {"bench_gather"}));
  for (const std::vector<double>& of_rank : all) {
    for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = std::max(seconds[i], of_rank[i]);
  }
  return seconds;
}

double PercentileOf(std::vector<double> seconds, double share) {
  if (seconds.empty()) return 0;
  const double index = share * static_cast<double>(seconds.size() - 1);
  const auto at = seconds.begin() + static_cast<int64_t>(index + 0.5);
  std::nth_element(seconds.begin(), at, seconds.end());
  return *at;
}

}  // namespace conclave
