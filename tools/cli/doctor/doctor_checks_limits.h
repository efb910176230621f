// The checks of `doctor` on what the system grants: memory, limits, clocks, network. Pure functions
// of values, used by doctor_checks.cc; any thread.
#pragma once

#include <string>
#include <vector>

#include "tools/cli/doctor/doctor_checks.h"

namespace conclave {

DoctorCheck CheckMemory(const MemoryFacts& facts);
DoctorCheck CheckHugePages(const MemoryFacts& facts);
DoctorCheck CheckNuma(const MemoryFacts& facts);
DoctorCheck CheckSharedMemory(const SharedMemoryFacts& facts, int processors);
DoctorCheck CheckOpenFiles(const LimitFacts& facts);
DoctorCheck CheckProcesses(const LimitFacts& facts);
DoctorCheck CheckLockedMemory(const MachineFacts& facts);
DoctorCheck CheckClock(const ClockFacts& facts);
DoctorCheck CheckNics(const std::vector<NicFacts>& nics);
DoctorCheck CheckRdma(const std::vector<RdmaFacts>& rdma);

}  // namespace conclave
