// The measurements of `bench fabric`: which there are for given options, how a rank of the world
// carries one out, and the figures it reports as a line of text. Pure but for RunFabricCase, which
// blocks on the fabric; one thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/fabric/fabric_bench.h"
#include "comm/fabric/fabric_bench_moe.h"
#include "comm/fabric/process_world.h"
#include "tools/cli/bench_fabric.h"

namespace conclave {

enum class FabricCaseKind { kPingPong, kStream, kCollective, kMoe };

struct FabricCase {
  FabricCaseKind kind = FabricCaseKind::kPingPong;
  std::string name;  // "ping_pong", "all_reduce", "moe"
  int a = 0;         // of a pair, a < b
  int b = 1;
  FabricCollective collective = FabricCollective::kAllReduce;
  size_t bytes = 0;  // of a message or payload, see CollectiveLoad; 0 for moe
  MoeLoad moe;
  double seconds = 0.1;  // about as long is measured

  // The rank that tells the figures.
  int reporter() const { return kind == FabricCaseKind::kStream ? b : a; }
};

// Messages under way at once when streaming, as ucx_perftest has.
inline constexpr int kStreamWindow = 32;

// In the order of the report. InvalidArgument names the flag, its value and the remedy.
absl::StatusOr<std::vector<FabricCase>> FabricCases(const BenchFabricOptions& options);

// "ping_pong", "stream", then the collectives, "moe": the values of --collective.
std::vector<std::string> FabricCaseNames();

// Seconds of one message (ping_pong), window (stream) or call.
struct FabricFigures {
  int calls = 0;
  double min = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
  double mean = 0;
  double bytes = 0;     // that the reporter received (stream) or sent in one of them
  double messages = 0;  // likewise
  bool operator==(const FabricFigures&) const = default;

  double BytesPerSecond() const { return mean > 0 ? bytes / mean : 0; }
  double BytesPerSecondP50() const { return p50 > 0 ? bytes / p50 : 0; }
};

std::string EncodeFigures(const FabricFigures& figures);
// Internal when `line` is not what EncodeFigures made: it then is a rank's error, and the message.
absl::StatusOr<FabricFigures> DecodeFigures(absl::string_view line);

// On every rank of the world; returns the figures of this one.
absl::StatusOr<FabricFigures> RunFabricCase(ProcessRank& rank, const FabricCase& c);

}  // namespace conclave
