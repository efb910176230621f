#include "tests/sim/run.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/world.h"

namespace conclave {
namespace {

constexpr uint64_t kWorkloadStream = 13;
constexpr absl::Duration kServeLimit = absl::Seconds(120);
constexpr absl::Duration kFinishLimit = absl::Seconds(120);

// Requests of the safety phase at random times, some cancelled a little later.
void ScheduleRequests(World& world, Rng& rng) {
  const int64_t span = absl::ToInt64Milliseconds(world.scenario().safety);
  for (int i = 0; i < world.scenario().requests; ++i) {
    const absl::Duration at = absl::Milliseconds(rng.Below(span));
    GenerationRequest request = world.MakeRequest(rng);
    const bool cancel = rng.Chance(1, 6);
    const absl::Duration patience = absl::Milliseconds(rng.Below(300));
    world.system().After(at, [&world, request, cancel, patience] {
      const RequestId id = world.Submit(request, /*must_succeed=*/false);
      if (cancel) world.system().After(patience, [&world, id] { world.Cancel(id); });
    });
  }
}

bool Serving(World& world) { return world.Status().state == ClusterState::kServing; }

void RunSafety(World& world, Nemesis& nemesis, Rng& rng) {
  // A fair start in half of the runs, so that faults hit a cluster at work.
  if (rng.Chance(1, 2)) {
    world.system().RunUntilTrue([&] { return Serving(world); }, absl::Seconds(10));
  }
  ScheduleRequests(world, rng);
  nemesis.Start();
  world.system().RunFor(world.scenario().safety);
  nemesis.Stop();
}

void RestartHung(World& world, Nemesis& nemesis) {
  // Hung devices look like others from outside: every worker's process is replaced in a run that
  // had any.
  if (nemesis.deeds() == 0) return;
  for (const std::string& worker : world.workers()) world.system().Restart(worker);
}

void RunLiveness(World& world, Rng& rng) {
  SimActorSystem& system = world.system();
  // Losing the last of the faults may take a moment after the heal; from then on nothing may fail.
  system.RunFor(absl::Seconds(3));
  if (!system.RunUntilTrue([&] { return Serving(world); }, kServeLimit)) {
    world.ledger().AddViolation(
        absl::StrCat("liveness: not serving after the heal: ", world.Status().waiting_for));
    return;
  }
  if (!system.RunUntilTrue([&] { return world.ledger().open() == 0; }, kFinishLimit)) {
    world.ledger().AddViolation(
        absl::StrCat("liveness: ", world.ledger().open(), " requests have not ended"));
    return;
  }
  for (int i = 0; i < world.scenario().requests_after; ++i) {
    GenerationRequest request = world.MakeRequest(rng);
    system.RunUntilTrue(
        [&] { return world.ledger().open() < world.scenario().coordinator.waiting_max; },
        kFinishLimit);
    world.Submit(std::move(request), /*must_succeed=*/true);
  }
  system.RunUntilTrue([&] { return world.ledger().open() == 0; }, kFinishLimit);
  if (world.ledger().unsuccessful() > 0) {
    world.ledger().AddViolation(absl::StrCat("liveness: ", world.ledger().unsuccessful(),
                                             " requests after the heal did not succeed"));
  }
}

// When nothing is left to do, nothing is held.
void CheckRest(World& world) {
  const ClusterStatus status = world.Status();
  if (status.requests_running != 0 || status.requests_waiting != 0) {
    world.ledger().AddViolation("at rest, but requests are running or waiting");
  }
  for (const WorkerStatus& worker : status.workers) {
    if (worker.kv_pages_used == 0) continue;
    world.ledger().AddViolation(
        absl::StrCat("at rest, but ", worker.kv_pages_used, " pages are owned"));
    return;
  }
}

void CheckBounds(World& world) {
  const SimActorSystem::Stats stats = world.system().stats();
  const SimNetwork::Stats network = world.system().network().stats();
  if (stats.refused > 0) {
    world.ledger().AddViolation(absl::StrCat(stats.refused, " messages were refused"));
  }
  // Far above what a handful of workers can cause, far below what a leak would.
  constexpr size_t kPendingMax = 4000;
  if (stats.pending_peak > kPendingMax || network.in_flight_peak > kPendingMax) {
    world.ledger().AddViolation(absl::StrCat("queues grew to ", stats.pending_peak, " events, ",
                                             network.in_flight_peak, " messages in flight"));
  }
}

}  // namespace

SimReport RunScenario(const Scenario& scenario, bool verbose) {
  World world(scenario);
  world.SetVerbose(verbose);
  Rng rng(scenario.seed, kWorkloadStream);
  Nemesis nemesis(world);
  RunSafety(world, nemesis, rng);
  world.Heal();
  RestartHung(world, nemesis);
  RunLiveness(world, rng);
  if (world.ledger().violations().empty()) {
    world.system().RunFor(absl::Seconds(1));  // steps planned ahead of the last stop come back
    CheckRest(world);
    CheckBounds(world);
  }
  SimReport report;
  report.scenario = scenario.ToString();
  report.violations = world.ledger().violations();
  if (!report.violations.empty()) report.recent = world.RecentEvents();
  report.log_hash = world.system().log_hash();
  report.events = world.system().stats().events;
  report.epochs = world.invariants().epochs();
  report.deeds = nemesis.deeds();
  for (const auto& [id, entry] : world.ledger().entries()) {
    ++report.requests;
    const bool ok = entry.ends > 0 && entry.status.ok();
    if (ok && entry.reason == FinishReason::kCancelled)
      ++report.cancelled;
    else if (ok)
      ++report.succeeded;
    else
      ++report.failed;
  }
  return report;
}

}  // namespace conclave
