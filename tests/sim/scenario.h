// Scenario: everything about one simulated run that is drawn from its seed before it begins: the
// cluster, the model, the sizes of queues and pages, how bad the network is. A value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "comm/actor/sim_network.h"
#include "coordinator/coordinator_actor.h"

namespace conclave {

// A deliberate fault that the checkers must catch; kNone in earnest runs.
enum class Canary : uint8_t {
  kNone = 0,
  kToken,  // a worker reports a wrong token now and then
  kPage,   // two pages of the pool are the same one
  kHang,   // a worker stops answering but says that it makes progress
};

struct Scenario {
  uint64_t seed = 0;
  Canary canary = Canary::kNone;
  CoordinatorOptions coordinator;
  int workers = 1;
  int32_t kv_pages = 64;
  absl::Duration step_time = absl::Milliseconds(10);
  absl::Duration prepare_time = absl::Milliseconds(50);
  bool peer_lost_hints = true;
  NetworkOptions faulty;     // while faults last
  absl::Duration fault_gap;  // mean time between deeds of the nemesis
  absl::Duration safety = absl::Seconds(20);
  int requests = 30;       // of the safety phase
  int requests_after = 8;  // of the liveness phase

  std::string ToString() const;
};

Scenario MakeScenario(uint64_t seed, Canary canary);

// "none", "token", "page", "hang".
std::optional<Canary> ParseCanary(const std::string& name);

}  // namespace conclave
