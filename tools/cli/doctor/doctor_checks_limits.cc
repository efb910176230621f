#include "tools/cli/doctor/doctor_checks_limits.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace conclave {
namespace {

constexpr CheckState kOk = CheckState::kOk;
constexpr CheckState kWarning = CheckState::kWarning;
constexpr CheckState kFailed = CheckState::kFailed;

// A rank maps about this much shared memory: its receive queue and UCX's buffers. It needs it to
// start; large messages fill it.
constexpr int64_t kRankSharedBytes = 9 << 20;
// Descriptors of a worker: sockets and segments of eight neighbours, weights, control.
constexpr int64_t kWorkerFiles = 128;
constexpr int64_t kRoomyFiles = 4096;
// Threads of a coordinator and workers on a small machine.
constexpr int64_t kFewProcesses = 256;
constexpr int64_t kRoomyProcesses = 4096;
constexpr int64_t kStagingBytes = 256 << 20;

std::string SizeText(int64_t bytes) {
  if (bytes < 0) return "unlimited";
  if (bytes >= int64_t{1} << 30) {
    return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  }
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string CountText(int64_t count) {
  return count < 0 ? "unlimited" : absl::StrCat(count);
}

bool Below(int64_t limit, int64_t least) { return limit >= 0 && limit < least; }

void Worsen(DoctorCheck& check, CheckState state, std::string remedy) {
  check.state = state;
  check.remedy = std::move(remedy);
}

}  // namespace

DoctorCheck CheckMemory(const MemoryFacts& facts) {
  DoctorCheck check = {"memory", kOk,
                       absl::StrCat(SizeText(facts.available_bytes), " available of ",
                                    SizeText(facts.total_bytes)),
                       "weights and KV pages of CPU workers, and staging of GPUs, live in it"};
  if (facts.available_bytes < int64_t{1} << 30) {
    Worsen(check, kWarning, "end what uses it, or run smaller models here");
  }
  return check;
}

DoctorCheck CheckHugePages(const MemoryFacts& facts) {
  DoctorCheck check = {"huge pages", kOk,
                       absl::StrCat("transparent: ",
                                    facts.transparent.empty() ? "none" : facts.transparent,
                                    "; reserved: ", SizeText(facts.huge_pages)),
                       "weights in pages of 2 MiB save lookups of addresses"};
  if (facts.transparent.empty() || facts.transparent == "never") {
    Worsen(check, kWarning, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root");
  }
  return check;
}

DoctorCheck CheckNuma(const MemoryFacts& facts) {
  return {"NUMA", kOk,
          absl::StrCat(facts.numa_nodes, facts.numa_nodes == 1 ? " node" : " nodes"),
          "a worker that spans nodes reads half of its memory from afar; give each node its own "
          "workers (numactl --cpunodebind)",
          ""};
}

DoctorCheck CheckSharedMemory(const SharedMemoryFacts& facts, int processors) {
  DoctorCheck check = {"shared memory", kOk,
                       absl::StrCat(SizeText(facts.free_bytes), " free of ",
                                    SizeText(facts.total_bytes), " in /dev/shm"),
                       "workers of one host exchange tensors through it"};
  if (!facts.exists || !facts.writable) {
    check.found = facts.exists ? "/dev/shm is not writable" : "there is no /dev/shm";
    Worsen(check, kFailed,
           "mount -t tmpfs -o mode=1777 tmpfs /dev/shm; in a container, see its --shm-size");
  } else if (facts.free_bytes < 2 * kRankSharedBytes) {
    Worsen(check, kFailed,
           "two workers need 18 MiB: empty it, or mount -o remount,size=1G /dev/shm (in a "
           "container --shm-size=1g)");
  } else if (facts.free_bytes < processors * kRankSharedBytes) {
    Worsen(check, kWarning,
           absl::StrCat("a worker for each processor needs ",
                        SizeText(processors * kRankSharedBytes),
                        ": mount -o remount,size=1G /dev/shm (in a container --shm-size=1g)"));
  }
  return check;
}

DoctorCheck CheckOpenFiles(const LimitFacts& facts) {
  DoctorCheck check = {"open files", kOk,
                       absl::StrCat(CountText(facts.open_files), ", may be raised to ",
                                    CountText(facts.open_files_hard)),
                       "each HTTP stream, worker and peer takes one or more"};
  if (Below(facts.open_files, kWorkerFiles)) {
    Worsen(check, kFailed, "ulimit -n 65536 (LimitNOFILE of a systemd unit)");
  } else if (Below(facts.open_files, kRoomyFiles)) {
    Worsen(check, kWarning,
           "enough for a few streams; for more: ulimit -n 65536 (LimitNOFILE of a systemd unit)");
  }
  return check;
}

DoctorCheck CheckProcesses(const LimitFacts& facts) {
  DoctorCheck check = {"processes", kOk, absl::StrCat("at most ", CountText(facts.processes)),
                       "every worker is a process with a thread for each processor"};
  if (Below(facts.processes, kFewProcesses)) {
    Worsen(check, kFailed, "raise ulimit -u, kernel.pid_max or the container's --pids-limit");
  } else if (Below(facts.processes, kRoomyProcesses)) {
    Worsen(check, kWarning,
           "enough for a few workers; for more raise ulimit -u, kernel.pid_max or the container's "
           "--pids-limit");
  }
  return check;
}

DoctorCheck CheckLockedMemory(const MachineFacts& facts) {
  DoctorCheck check = {"locked memory", kOk, SizeText(facts.limits.locked_memory),
                       "RDMA and the staging of GPUs pin pages"};
  if (!Below(facts.limits.locked_memory, kStagingBytes)) return check;
  constexpr char kRemedy[] = "ulimit -l unlimited (LimitMEMLOCK=infinity of a systemd unit)";
  if (!facts.rdma.empty()) {
    Worsen(check, kFailed, kRemedy);
  } else if (!facts.gpus.empty()) {
    Worsen(check, kWarning, kRemedy);
  } else {
    absl::StrAppend(&check.found, "; nothing here needs more: no RDMA, no GPU");
  }
  return check;
}

DoctorCheck CheckClock(const ClockFacts& facts) {
  constexpr double kSlowRead = 200;    // ns: a system call rather than a read of a counter
  constexpr double kErrorMax = 0.1;    // s
  DoctorCheck check = {"clock", kOk,
                       absl::StrFormat("%s, %.0f ns a read, %s", facts.source,
                                       facts.read_nanoseconds,
                                       facts.synchronized
                                           ? absl::StrFormat("synchronised to %.1f ms",
                                                             facts.error_seconds * 1e3)
                                           : "not synchronised"),
                       "deadlines read it often; logs and events of several hosts are compared"};
  std::vector<std::string> remedies;
  if (facts.read_nanoseconds > kSlowRead) {
    remedies.push_back("use the clock source tsc (kvm-clock in a virtual machine): see "
                       "/sys/devices/system/clocksource");
  }
  if (!facts.synchronized || facts.error_seconds > kErrorMax) {
    remedies.push_back("synchronise it (chrony or systemd-timesyncd) if there are several hosts");
  }
  if (!remedies.empty()) Worsen(check, kWarning, absl::StrJoin(remedies, "; "));
  return check;
}

DoctorCheck CheckNics(const std::vector<NicFacts>& nics) {
  constexpr int64_t kJumbo = 4000;
  constexpr int64_t kUsualMtu = 1500;
  constexpr int64_t kFastMegabits = 10000;
  DoctorCheck check = {"network", kOk, "", "tensors of workers on several hosts cross it"};
  bool connected = false, loopback = false, fast = false, narrow = false;
  for (const NicFacts& nic : nics) {
    if (!nic.up) continue;
    absl::StrAppend(&check.found, check.found.empty() ? "" : "; ", nic.name, ", MTU ", nic.mtu);
    if (nic.megabits > 0) absl::StrAppend(&check.found, ", ", nic.megabits, " Mbit/s");
    loopback |= nic.loopback;
    if (nic.loopback) continue;
    connected = true;
    fast |= nic.megabits >= kFastMegabits && nic.mtu < kJumbo;
    narrow |= nic.mtu < kUsualMtu;
  }
  if (!loopback) {
    if (check.found.empty()) check.found = "no interface is up";
    Worsen(check, kFailed, "ip link set lo up: processes of this host talk over it");
  } else if (!connected) {
    Worsen(check, kWarning, "only this host can be used: bring an interface up for others");
  } else if (narrow) {
    Worsen(check, kWarning, "an MTU below 1500 costs a packet more for the same bytes; usual in "
                            "tunnels and overlays, avoidable on plain networks");
  } else if (fast) {
    Worsen(check, kWarning, "raise the MTU of the fast interface to 9000, also on its switch");
  }
  return check;
}

DoctorCheck CheckRdma(const std::vector<RdmaFacts>& rdma) {
  DoctorCheck check = {"RDMA", kOk, rdma.empty() ? "none; hosts talk over TCP" : "",
                       "it halves the time of messages between hosts, and more"};
  std::vector<std::string> down;
  for (const RdmaFacts& device : rdma) {
    absl::StrAppend(&check.found, check.found.empty() ? "" : "; ", device.name, " ", device.state);
    if (device.state != "ACTIVE") down.push_back(device.name);
  }
  if (!down.empty()) {
    Worsen(check, kWarning, absl::StrCat("see the cable, the switch and the subnet manager of ",
                                         absl::StrJoin(down, ", "), " (ibstat)"));
  }
  return check;
}

}  // namespace conclave
