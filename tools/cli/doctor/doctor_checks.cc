#include "tools/cli/doctor/doctor_checks.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tools/cli/doctor/doctor_checks_limits.h"

namespace conclave {
namespace {

constexpr CheckState kOk = CheckState::kOk;
constexpr CheckState kWarning = CheckState::kWarning;
constexpr CheckState kFailed = CheckState::kFailed;

// Of "1.13.1" the numbers; what is missing counts as 0.
struct Version {
  int major = 0;
  int minor = 0;
};

Version ParseVersion(const std::string& text) {
  Version version;
  const std::vector<std::string> parts = absl::StrSplit(text, '.');
  if (!absl::SimpleAtoi(parts[0], &version.major)) return {};
  if (parts.size() > 1 && !absl::SimpleAtoi(parts[1], &version.minor)) return {version.major, 0};
  return version;
}

bool Older(const std::string& text, const Version& than) {
  const Version version = ParseVersion(text);
  return version.major < than.major ||
         (version.major == than.major && version.minor < than.minor);
}

std::string CudaText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

DoctorCheck CheckKernel(const VersionFacts& facts) {
  DoctorCheck check = {"kernel", kOk, facts.kernel,
                       "pidfd_open (Linux 5.3) tells a rank at once when a neighbour's process "
                       "ends; without it a loss shows at the deadline only"};
  if (Older(facts.kernel, {5, 3})) {
    check.state = kWarning;
    check.remedy = "run Linux 5.3 or newer";
  }
  return check;
}

DoctorCheck CheckUcx(const VersionFacts& facts) {
  DoctorCheck check = {"UCX", kOk, facts.ucx, "it carries all tensors between processes"};
  if (Older(facts.ucx, {1, 12})) {
    check.state = kWarning;
    check.remedy = "install UCX 1.13 or newer (libucx0); older ones were never tried";
  }
  return check;
}

DoctorCheck CheckZmq(const VersionFacts& facts) {
  DoctorCheck check = {"ZeroMQ", kOk, facts.zmq, "it carries the control plane, encrypted"};
  if (facts.zmq.empty() || !facts.zmq_curve) {
    check.found = facts.zmq.empty() ? "not found" : facts.zmq + " without CURVE";
    check.state = kFailed;
    check.remedy = "install libzmq5 4.3 with libsodium";
  }
  return check;
}

DoctorCheck CheckGpus(const MachineFacts& facts) {
  DoctorCheck check = {"GPUs", kOk, "", "workers with --device cuda run on them"};
  if (facts.gpus.empty()) {
    check.found = absl::StrCat("none (", facts.gpu_error, ")");
    check.state = facts.nvidia_device ? kFailed : kOk;
    if (facts.nvidia_device) {
      check.remedy = "the machine has an NVIDIA device that cannot be used: see nvidia-smi, the "
                     "driver's version and CUDA_VISIBLE_DEVICES";
    }
    return check;
  }
  for (const CudaDeviceInfo& gpu : facts.gpus) {
    absl::StrAppend(&check.found, check.found.empty() ? "" : "; ",
                    absl::StrFormat("cuda:%d %s, %.0f GB, sm_%d", gpu.index, gpu.name,
                                    static_cast<double>(gpu.memory_bytes) / 1e9, gpu.sm_version));
  }
  return check;
}

DoctorCheck CheckCudaVersions(const VersionFacts& facts, bool has_gpu) {
  DoctorCheck check = {"CUDA", kOk,
                       absl::StrCat(facts.cuda_runtime == 0
                                        ? "this binary is built without CUDA"
                                        : "runtime " + CudaText(facts.cuda_runtime),
                                    facts.cuda_driver == 0
                                        ? ", no driver"
                                        : ", driver for " + CudaText(facts.cuda_driver)),
                       "the driver must be as new as the runtime"};
  const bool old = facts.cuda_driver > 0 && facts.cuda_driver / 1000 < facts.cuda_runtime / 1000;
  if (old || (has_gpu && facts.cuda_runtime == 0)) {
    check.state = old ? kFailed : kWarning;
    check.remedy = old ? absl::StrCat("install an NVIDIA driver for CUDA ",
                                      CudaText(facts.cuda_runtime), " or later")
                       : "build with a CUDA toolkit to use the GPUs";
  }
  return check;
}

DoctorCheck CheckNccl(const VersionFacts& facts, size_t gpus) {
  DoctorCheck check = {"NCCL", kOk, facts.nccl,
                       "GPUs of several workers exchange tensors over it directly"};
  if (facts.nccl.empty()) {
    check.found = gpus < 2 ? absl::StrCat("not needed (", facts.nccl_absent, ")")
                           : facts.nccl_absent;
    check.state = gpus < 2 ? kOk : kWarning;
    if (gpus >= 2) {
      check.remedy = "install libnccl2 2.27 or newer, or name it in CONCLAVE_NCCL_LIBRARY; until "
                     "then tensors go through host memory";
    }
  }
  return check;
}

DoctorCheck CheckCpu(const CpuFacts& facts) {
  DoctorCheck check = {"CPU", kOk,
                       absl::StrFormat("%s, %d processors: %s", facts.model, facts.processors,
                                       absl::StrJoin(facts.features, " ")),
                       "CPU workers compute with these instructions"};
  if (!facts.unsupported.empty()) {
    check.state = kFailed;
    check.remedy = facts.unsupported;
  }
  return check;
}

DoctorCheck CheckFabric(const FabricProbe& probe) {
  DoctorCheck check = {absl::StrCat("fabric, ", probe.transport), kOk,
                       absl::StrFormat("%.2f us a message, %.2f GB/s",
                                       probe.one_way_seconds * 1e6, probe.bytes_per_second / 1e9),
                       "two processes of this machine exchanged messages over it"};
  if (!probe.error.empty()) {
    check.state = kFailed;
    check.found = probe.error;
    check.remedy = "unset UCX_TLS and UCX_NET_DEVICES if they are set, see the checks of shared "
                   "memory and limits, and try UCX_LOG_LEVEL=info conclave doctor";
  }
  return check;
}

}  // namespace

const char* CheckStateName(CheckState state) {
  return state == kOk ? "ok" : state == kWarning ? "warning" : "failed";
}

std::vector<DoctorCheck> CheckMachine(const MachineFacts& facts) {
  const VersionFacts& versions = facts.versions;
  std::vector<DoctorCheck> checks = {
      CheckKernel(versions),
      CheckUcx(versions),
      CheckZmq(versions),
      CheckCpu(facts.cpu),
      CheckGpus(facts),
      CheckCudaVersions(versions, facts.nvidia_device || !facts.gpus.empty()),
      CheckNccl(versions, facts.gpus.size()),
      CheckMemory(facts.memory),
      CheckHugePages(facts.memory),
      CheckNuma(facts.memory),
      CheckSharedMemory(facts.shared_memory, facts.cpu.processors),
      CheckOpenFiles(facts.limits),
      CheckProcesses(facts.limits),
      CheckLockedMemory(facts),
      CheckClock(facts.clock),
      CheckNics(facts.nics),
      CheckRdma(facts.rdma),
  };
  for (const FabricProbe& probe : facts.fabrics) checks.push_back(CheckFabric(probe));
  return checks;
}

std::vector<DoctorCheck> CheckHosts(const std::vector<HostAnswer>& hosts,
                                    const std::string& ucx_here) {
  constexpr double kClockTolerance = 0.1;
  std::vector<DoctorCheck> checks;
  for (const HostAnswer& host : hosts) {
    DoctorCheck check = {absl::StrCat("host ", host.host)};
    check.why = "workers there need all of this; clocks order logs and events of several hosts";
    if (!host.error.empty()) {
      check.state = kFailed;
      check.found = host.error;
      check.remedy = "make the remote shell work without a password and conclave be at the same "
                     "path there, or see --remote-shell and --remote-program";
      checks.push_back(std::move(check));
      continue;
    }
    const double half_trip = host.round_trip_seconds / 2;
    check.found = absl::StrFormat(
        "clock %+.0f ms (give or take %.0f), UCX %s, %d failed, %d warnings",
        host.clock_ahead_seconds * 1e3, half_trip * 1e3, host.ucx, host.failed.size(),
        host.warnings.size());
    std::vector<std::string> remedies;
    if (!host.failed.empty()) {
      check.state = kFailed;
      remedies.push_back(absl::StrCat("run conclave doctor there: ",
                                      absl::StrJoin(host.failed, ", "), " failed"));
    } else if (!host.warnings.empty()) {
      check.state = kWarning;
      remedies.push_back(absl::StrCat("run conclave doctor there: warnings of ",
                                      absl::StrJoin(host.warnings, ", ")));
    }
    if (std::abs(host.clock_ahead_seconds) > kClockTolerance + half_trip) {
      check.state = std::max(check.state, kWarning);
      remedies.push_back("synchronise its clock (chrony or systemd-timesyncd)");
    }
    if (host.ucx != ucx_here) {
      check.state = std::max(check.state, kWarning);
      remedies.push_back(absl::StrCat("install UCX ", ucx_here, " there as here: versions talk to "
                                      "each other, but it is not tested"));
    }
    check.remedy = absl::StrJoin(remedies, "; ");
    checks.push_back(std::move(check));
  }
  return checks;
}

DoctorCheck CheckCoordinator(const CoordinatorAnswer& answer) {
  DoctorCheck check = {"coordinator", kOk, "", "clients and this command reach the cluster by it"};
  if (!answer.error.empty()) {
    check.state = kFailed;
    check.found = answer.error;
    check.remedy = absl::StrCat("see that a coordinator runs at ", answer.url,
                                " and that --admin-token or --state-dir is its own");
    return check;
  }
  check.found = absl::StrFormat("%s: %s, %d workers, answers in %.1f ms", answer.url, answer.state,
                                answer.workers, answer.round_trip_seconds * 1e3);
  std::vector<std::string> remedies;
  if (!answer.lost.empty()) {
    remedies.push_back(absl::StrCat("look after the workers that are lost: ",
                                    absl::StrJoin(answer.lost, ", ")));
  }
  if (answer.versions.size() > 1) {
    remedies.push_back(absl::StrCat("run one version on all workers, not ",
                                    absl::StrJoin(answer.versions, " and ")));
  }
  if (!remedies.empty()) check.state = kWarning;
  check.remedy = absl::StrJoin(remedies, "; ");
  return check;
}

}  // namespace conclave
