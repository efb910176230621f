// The part of the probe that exchanges messages between two processes, over shared memory and over
// TCP.
#include <string>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "tools/cli/bench_fabric_cases.h"
#include "tools/cli/doctor/doctor_probe.h"

namespace conclave {
namespace {

constexpr double kSeconds = 0.02;  // of each of the two measurements
constexpr absl::Duration kProbeTimeMax = absl::Seconds(20);

FabricCase ProbeCase(FabricCaseKind kind, size_t bytes) {
  FabricCase c;
  c.kind = kind;
  c.bytes = bytes;
  c.seconds = kSeconds;
  return c;
}

absl::Status Probe(bool one_node, FabricProbe& probe) {
  const FabricCase latency = ProbeCase(FabricCaseKind::kPingPong, 64);
  const FabricCase bandwidth = ProbeCase(FabricCaseKind::kStream, 64 << 10);
  ProcessWorldOptions options;
  options.one_node = one_node;
  const auto body = [&](ProcessRank& rank) {
    for (const FabricCase& c : {latency, bandwidth}) {
      const absl::StatusOr<FabricFigures> figures = RunFabricCase(rank, c);
      if (!figures.ok()) return rank.Say(std::string(figures.status().message()));
      if (rank.rank() == c.reporter()) rank.Say(EncodeFigures(*figures));
    }
    rank.AwaitGoOn();
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<ProcessWorld> world,
                   ProcessWorld::Start(2, options, body));
  ASSIGN_OR_RETURN(const std::string one, world->Receive(latency.reporter(), kProbeTimeMax));
  ASSIGN_OR_RETURN(const FabricFigures one_way, DecodeFigures(one));
  ASSIGN_OR_RETURN(const std::string many, world->Receive(bandwidth.reporter(), kProbeTimeMax));
  ASSIGN_OR_RETURN(const FabricFigures stream, DecodeFigures(many));
  probe.one_way_seconds = one_way.p50;
  probe.bytes_per_second = stream.BytesPerSecondP50();
  return absl::OkStatus();
}

}  // namespace

std::vector<FabricProbe> ProbeFabrics() {
  std::vector<FabricProbe> probes;
  for (const bool one_node : {true, false}) {
    FabricProbe probe;
    probe.transport = one_node ? "shared memory" : "TCP";
    const absl::Status status = Probe(one_node, probe);
    if (!status.ok()) probe.error = std::string(status.message());
    probes.push_back(std::move(probe));
  }
  return probes;
}

}  // namespace conclave
