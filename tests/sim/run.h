// RunScenario: one simulated run: a safety phase with faults and requests, then heal, then a
// liveness phase in which new requests must all succeed. Reports what was violated. One thread;
// runs of different seeds share nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/sim/scenario.h"

namespace conclave {

struct SimReport {
  std::string scenario;
  std::vector<std::string> violations;  // empty: the run passed
  std::vector<std::string> recent;      // the last messages before the end, for failed runs
  uint64_t log_hash = 0;
  uint64_t events = 0;
  int requests = 0;
  int succeeded = 0;
  int cancelled = 0;
  int failed = 0;
  int epochs = 0;
  int deeds = 0;
};

SimReport RunScenario(const Scenario& scenario, bool verbose);

}  // namespace conclave
