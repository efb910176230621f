#include "tools/cli/doctor/doctor_probe.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

// First in the file: it forks, and the probe of GPUs may start threads.
TEST(DoctorProbeTest, BothFabricsExchangeMessages) {
  const std::vector<FabricProbe> probes = ProbeFabrics();
  ASSERT_EQ(probes.size(), 2u);
  for (const FabricProbe& probe : probes) {
    EXPECT_EQ(probe.error, "") << probe.transport;
    EXPECT_GT(probe.one_way_seconds, 1e-8);
    EXPECT_LT(probe.one_way_seconds, 1);
    EXPECT_GT(probe.bytes_per_second, 1e5);
  }
  EXPECT_EQ(probes[0].transport, "shared memory");
  EXPECT_EQ(probes[1].transport, "TCP");
}

TEST(DoctorProbeTest, ATransportThatIsNotThereIsTold) {
  ASSERT_EQ(setenv("UCX_TLS", "no_such_transport", 1), 0);
  for (const FabricProbe& probe : ProbeFabrics()) {
    EXPECT_TRUE(absl::StrContains(probe.error, "UCX")) << probe.error;
  }
  ASSERT_EQ(unsetenv("UCX_TLS"), 0);
}

TEST(DoctorProbeTest, VersionsAreThoseOfTheLibraries) {
  const VersionFacts facts = ProbeVersions();
  EXPECT_TRUE(absl::StartsWith(facts.ucx, "1.")) << facts.ucx;
  EXPECT_TRUE(absl::StartsWith(facts.zmq, "4.")) << facts.zmq;
  EXPECT_TRUE(facts.zmq_curve);
  EXPECT_FALSE(facts.kernel.empty());
  EXPECT_NE(facts.nccl.empty(), facts.nccl_absent.empty());
}

TEST(DoctorProbeTest, TheSystemTellsOfItself) {
  const MemoryFacts memory = ProbeMemory();
  EXPECT_GT(memory.total_bytes, int64_t{64} << 20);
  EXPECT_GT(memory.available_bytes, 0);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
  EXPECT_GE(memory.numa_nodes, 1);
  const CpuFacts cpu = ProbeCpu();
  EXPECT_GE(cpu.processors, 1);
  EXPECT_EQ(cpu.unsupported, "");
  EXPECT_EQ(std::count(cpu.features.begin(), cpu.features.end(), "avx2"), 1);
  const LimitFacts limits = ProbeLimits();
  EXPECT_NE(limits.open_files, 0);
  EXPECT_NE(limits.processes, 0);
  const SharedMemoryFacts shared = ProbeSharedMemory();
  EXPECT_EQ(shared.exists, access("/dev/shm", F_OK) == 0);
  EXPECT_LE(shared.free_bytes, shared.total_bytes);
  const ClockFacts clock = ProbeClock();
  EXPECT_GT(clock.read_nanoseconds, 1);
  EXPECT_LT(clock.read_nanoseconds, 1e6);
}

TEST(DoctorProbeTest, LoopbackIsAnInterface) {
  const std::vector<NicFacts> nics = ProbeNics();
  const auto loopback =
      std::find_if(nics.begin(), nics.end(), [](const NicFacts& nic) { return nic.loopback; });
  ASSERT_NE(loopback, nics.end());
  EXPECT_EQ(loopback->name, "lo");
  EXPECT_GT(loopback->mtu, 1000);
}

}  // namespace
}  // namespace conclave
