#include "tools/cli/doctor/doctor_checks.h"

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

// A machine with which all is well.
MachineFacts GoodMachine() {
  MachineFacts facts;
  facts.host = "node1";
  facts.versions = {.kernel = "6.1.0-18-amd64",
                    .ucx = "1.13.1",
                    .zmq = "4.3.4",
                    .zmq_curve = true,
                    .cuda_driver = 13000,
                    .cuda_runtime = 13000,
                    .nccl = "NCCL 2.28.9 (libnccl.so.2)"};
  facts.limits = {.locked_memory = kUnlimited,
                  .open_files = 65536,
                  .open_files_hard = 1 << 20,
                  .processes = kUnlimited};
  facts.shared_memory = {true, true, int64_t{8} << 30, int64_t{8} << 30};
  facts.memory = {int64_t{64} << 30, int64_t{60} << 30, 0, "madvise", 2};
  facts.cpu = {"a CPU", 16, "", {"avx2", "fma", "f16c"}};
  facts.nics = {{"lo", true, true, 65536}, {"eth0", false, true, 9000, 100000}};
  facts.rdma = {{"mlx5_0", "ACTIVE"}};
  facts.clock = {"tsc", 20, true, 0.001};
  facts.gpus = {{0, "NVIDIA H200", int64_t{141} << 30, 90, 132},
                {1, "NVIDIA H200", int64_t{141} << 30, 90, 132}};
  facts.nvidia_device = true;
  facts.fabrics = {{"shared memory", "", 5e-7, 1e10}, {"TCP", "", 1e-5, 2e9}};
  return facts;
}

// The check that is not ok after `spoil`; all others are.
DoctorCheck Only(const std::function<void(MachineFacts&)>& spoil) {
  MachineFacts facts = GoodMachine();
  spoil(facts);
  std::vector<DoctorCheck> found;
  for (const DoctorCheck& check : CheckMachine(facts)) {
    if (check.state != CheckState::kOk) found.push_back(check);
  }
  EXPECT_EQ(found.size(), 1u);
  if (found.empty()) return {};
  EXPECT_FALSE(found[0].remedy.empty()) << found[0].name;
  return found[0];
}

void ExpectOnly(CheckState state, const std::string& name,
                const std::function<void(MachineFacts&)>& spoil) {
  const DoctorCheck check = Only(spoil);
  EXPECT_EQ(check.name, name);
  EXPECT_STREQ(CheckStateName(check.state), CheckStateName(state)) << name << ": " << check.found;
}

constexpr CheckState kWarning = CheckState::kWarning;
constexpr CheckState kFailed = CheckState::kFailed;

TEST(DoctorChecksTest, AGoodMachineHasNothingToDo) {
  std::set<std::string> names;
  for (const DoctorCheck& check : CheckMachine(GoodMachine())) {
    EXPECT_EQ(check.state, CheckState::kOk) << check.name << ": " << check.found;
    EXPECT_EQ(check.remedy, "") << check.name;
    EXPECT_FALSE(check.found.empty()) << check.name;
    EXPECT_FALSE(check.why.empty()) << check.name;
    EXPECT_TRUE(names.insert(check.name).second) << check.name;
  }
  EXPECT_EQ(names.size(), 19u);
}

TEST(DoctorChecksTest, Versions) {
  ExpectOnly(kWarning, "kernel", [](auto& f) { f.versions.kernel = "5.2.21"; });
  ExpectOnly(kWarning, "kernel", [](auto& f) { f.versions.kernel = ""; });
  ExpectOnly(kWarning, "UCX", [](auto& f) { f.versions.ucx = "1.9.0"; });
  ExpectOnly(kFailed, "ZeroMQ", [](auto& f) { f.versions.zmq = ""; });
  ExpectOnly(kFailed, "ZeroMQ", [](auto& f) { f.versions.zmq_curve = false; });
  ExpectOnly(kFailed, "CUDA", [](auto& f) { f.versions.cuda_driver = 12040; });
  ExpectOnly(kWarning, "CUDA", [](auto& f) { f.versions.cuda_runtime = 0; });
  ExpectOnly(kWarning, "NCCL", [](auto& f) { f.versions.nccl = ""; });
}

TEST(DoctorChecksTest, AMachineWithoutGpusIsWell) {
  MachineFacts facts = GoodMachine();
  facts.gpus.clear();
  facts.gpu_error = "no driver";
  facts.nvidia_device = false;
  facts.versions.nccl = "";
  facts.versions.nccl_absent = "libnccl.so.2 was not found";
  facts.versions.cuda_driver = facts.versions.cuda_runtime = 0;
  facts.rdma.clear();
  facts.limits.locked_memory = 8 << 20;
  for (const DoctorCheck& check : CheckMachine(facts)) {
    EXPECT_EQ(check.state, CheckState::kOk) << check.name << ": " << check.found;
  }
}

TEST(DoctorChecksTest, AGpuThatCannotBeUsedFails) {
  ExpectOnly(kFailed, "GPUs", [](auto& f) {
    f.gpus.clear();
    f.gpu_error = "driver too old";
  });
}

TEST(DoctorChecksTest, Memory) {
  ExpectOnly(kWarning, "memory", [](auto& f) { f.memory.available_bytes = 1 << 20; });
  ExpectOnly(kWarning, "huge pages", [](auto& f) { f.memory.transparent = "never"; });
  ExpectOnly(kFailed, "shared memory", [](auto& f) { f.shared_memory = {}; });
  ExpectOnly(kFailed, "shared memory", [](auto& f) { f.shared_memory.writable = false; });
  ExpectOnly(kFailed, "shared memory", [](auto& f) { f.shared_memory.free_bytes = 17 << 20; });
  // Docker's default does for few workers.
  ExpectOnly(kWarning, "shared memory", [](auto& f) { f.shared_memory.free_bytes = 64 << 20; });
}

TEST(DoctorChecksTest, Limits) {
  ExpectOnly(kFailed, "open files", [](auto& f) { f.limits.open_files = 64; });
  ExpectOnly(kWarning, "open files", [](auto& f) { f.limits.open_files = 1024; });
  ExpectOnly(kFailed, "processes", [](auto& f) { f.limits.processes = 100; });
  ExpectOnly(kWarning, "processes", [](auto& f) { f.limits.processes = 1000; });
  ExpectOnly(kFailed, "locked memory", [](auto& f) { f.limits.locked_memory = 8 << 20; });
  ExpectOnly(kWarning, "locked memory", [](auto& f) {
    f.limits.locked_memory = 8 << 20;
    f.rdma.clear();
  });
}

TEST(DoctorChecksTest, Cpu) {
  const DoctorCheck check = Only([](auto& f) { f.cpu.unsupported = "no AVX2: use another CPU"; });
  EXPECT_EQ(check.name, "CPU");
  EXPECT_EQ(check.state, kFailed);
  EXPECT_EQ(check.remedy, "no AVX2: use another CPU");
}

TEST(DoctorChecksTest, Clocks) {
  ExpectOnly(kWarning, "clock", [](auto& f) { f.clock.synchronized = false; });
  ExpectOnly(kWarning, "clock", [](auto& f) { f.clock.error_seconds = 1; });
  ExpectOnly(kWarning, "clock", [](auto& f) { f.clock.read_nanoseconds = 900; });
}

TEST(DoctorChecksTest, Network) {
  ExpectOnly(kFailed, "network", [](auto& f) { f.nics.clear(); });
  ExpectOnly(kFailed, "network", [](auto& f) { f.nics[0].up = false; });
  ExpectOnly(kWarning, "network", [](auto& f) { f.nics[1].up = false; });
  ExpectOnly(kWarning, "network", [](auto& f) { f.nics[1].mtu = 1400; });
  ExpectOnly(kWarning, "network", [](auto& f) { f.nics[1].mtu = 1500; });
  ExpectOnly(kWarning, "RDMA", [](auto& f) { f.rdma[0].state = "DOWN"; });
}

TEST(DoctorChecksTest, AFabricThatDoesNotWorkFails) {
  const DoctorCheck check = Only([](auto& f) { f.fabrics[1].error = "no transport"; });
  EXPECT_EQ(check.name, "fabric, TCP");
  EXPECT_EQ(check.state, kFailed);
  EXPECT_EQ(check.found, "no transport");
}

TEST(DoctorChecksTest, Hosts) {
  HostAnswer good = {.host = "a", .round_trip_seconds = 0.3, .clock_ahead_seconds = 0.2,
                     .ucx = "1.13.1"};
  HostAnswer silent = {.host = "b", .error = "no route"};
  HostAnswer early = good, sick = good, tired = good, other = good;
  early.clock_ahead_seconds = -0.26;
  sick.failed = {"shared memory"};
  sick.clock_ahead_seconds = 9;
  tired.warnings = {"clock"};
  other.ucx = "1.15.0";
  const auto checks = CheckHosts({good, silent, early, sick, tired, other}, "1.13.1");
  ASSERT_EQ(checks.size(), 6u);
  const CheckState expected[] = {CheckState::kOk, kFailed, kWarning, kFailed, kWarning, kWarning};
  const char* remedies[] = {"", "password", "synchronise", "shared memory failed", "clock",
                            "install UCX 1.13.1"};
  for (size_t i = 0; i < checks.size(); ++i) {
    EXPECT_EQ(checks[i].state, expected[i]) << i << checks[i].found;
    EXPECT_TRUE(absl::StrContains(checks[i].remedy, remedies[i])) << checks[i].remedy;
  }
  EXPECT_TRUE(absl::StrContains(checks[3].remedy, "synchronise"));
  EXPECT_TRUE(absl::StrContains(checks[1].found, "no route"));
}

TEST(DoctorChecksTest, Coordinator) {
  CoordinatorAnswer answer = {.url = "http://h:8000", .state = "serving", .workers = 2,
                              .versions = {"0.1"}};
  EXPECT_EQ(CheckCoordinator(answer).state, CheckState::kOk);
  answer.versions.push_back("0.2");
  EXPECT_TRUE(absl::StrContains(CheckCoordinator(answer).remedy, "0.1 and 0.2"));
  answer.lost = {"w7"};
  EXPECT_EQ(CheckCoordinator(answer).state, kWarning);
  EXPECT_TRUE(absl::StrContains(CheckCoordinator(answer).remedy, "w7"));
  answer.error = "connection refused";
  EXPECT_EQ(CheckCoordinator(answer).state, kFailed);
  EXPECT_TRUE(absl::StrContains(CheckCoordinator(answer).remedy, "http://h:8000"));
}

}  // namespace
}  // namespace conclave
