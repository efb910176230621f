// Times of fabric operations: two ranks at ping-pong and streaming, and each collective. Every rank
// that takes part calls the same function with the same load; the times are those of the caller.
// The functions block, report what the fabric reports, and keep nothing. `conclave bench fabric`
// runs them in processes and prints them.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "comm/fabric/fabric.h"

namespace conclave {

// Calls that are timed, after some that are not.
struct BenchCalls {
  int warmups = 0;
  int calls = 1;
};

// As many calls as give steady figures within about `seconds` at `bytes` a call.
BenchCalls CallsFor(size_t bytes, double seconds);

// Between the caller and `peer`, which gives the caller's rank in turn.
struct PairLoad {
  int peer = 0;
  size_t bytes = 0;  // of a message
  int window = 1;    // streaming: messages under way at once
  BenchCalls calls;
};

// Seconds one way, half of each round trip; the same count on both ranks.
absl::StatusOr<std::vector<double>> TimePingPong(Fabric& fabric, const PairLoad& load);

// The lower rank sends windows of messages to the higher one without a pause. Seconds of each
// window, as the receiver sees them; the sender's own times on the sender.
absl::StatusOr<std::vector<double>> TimeStream(Fabric& fabric, const PairLoad& load);

enum class FabricCollective { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kAllToAll };

struct FabricCollectiveName {
  FabricCollective collective;
  const char* name;
};
// All of them, in the order of reports.
absl::Span<const FabricCollectiveName> FabricCollectives();

// What `bytes` counts: the payload of all_reduce and broadcast, one rank's part of all_gather and
// reduce_scatter, the message of each pair of all_to_all. Sums take whole floats of it.
struct CollectiveLoad {
  FabricCollective collective = FabricCollective::kAllReduce;
  size_t bytes = 0;
  BenchCalls calls;
};

// Seconds of each call on this rank. The root of broadcasts goes round.
absl::StatusOr<std::vector<double>> TimeCollective(Fabric& fabric, const FabricGroup& group,
                                                   const CollectiveLoad& load);

// `seconds` of the slowest rank, call by call, on every rank: an operation lasts until all have it.
// All ranks of the group call it with as many values.
absl::StatusOr<std::vector<double>> SlowestOf(Fabric& fabric, const FabricGroup& group,
                                              std::vector<double> seconds);

// The value below which `share` of `seconds` lie; 0 without values.
double PercentileOf(std::vector<double> seconds, double share);

}  // namespace conclave
