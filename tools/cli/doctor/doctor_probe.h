// Reads the facts that `doctor` judges from this machine: /proc, /sys, limits, libraries opened by
// name, and an exchange of messages between two processes that it starts. Nothing fails: what
// cannot be read stays unknown. Called by the main thread before anything uses UCX or CUDA, because
// it forks; takes about a second.
#pragma once

#include <vector>

#include "tools/cli/doctor/doctor_facts.h"

namespace conclave {

// All of it. The parts:
MachineFacts ProbeMachine();

VersionFacts ProbeVersions();
LimitFacts ProbeLimits();
SharedMemoryFacts ProbeSharedMemory();
MemoryFacts ProbeMemory();
CpuFacts ProbeCpu();
std::vector<NicFacts> ProbeNics();
std::vector<RdmaFacts> ProbeRdma();
ClockFacts ProbeClock();
// Over shared memory and over TCP.
std::vector<FabricProbe> ProbeFabrics();

}  // namespace conclave
