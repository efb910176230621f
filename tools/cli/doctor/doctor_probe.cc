#include "tools/cli/doctor/doctor_probe.h"

#include <dlfcn.h>
#include <glob.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "comm/fabric/nccl/nccl_api.h"
#include "comm/fabric/ucx_fabric.h"
#include "kernels/tensor/cpu_support.h"

namespace conclave {
namespace {

// The first line; empty when there is no such file.
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return std::string(absl::StripAsciiWhitespace(line));
}

int64_t NumberIn(const std::string& path) {
  int64_t number = kUnknown;
  return absl::SimpleAtoi(FirstLine(path), &number) ? number : kUnknown;
}

std::vector<std::string> Glob(const std::string& pattern) {
  std::vector<std::string> paths;
  glob_t found = {};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  }
  globfree(&found);
  return paths;
}

// The value of "name: value" in /proc/cpuinfo, /proc/meminfo and their like.
std::string Field(const std::string& path, absl::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::pair<absl::string_view, absl::string_view> halves =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (absl::StripAsciiWhitespace(halves.first) == name) {
      return std::string(absl::StripAsciiWhitespace(halves.second));
    }
  }
  return "";
}

int64_t Kilobytes(const std::string& path, absl::string_view name) {
  int64_t kilobytes = 0;
  std::istringstream(Field(path, name)) >> kilobytes;
  return kilobytes << 10;
}

int64_t FiniteLimit(rlim_t limit) {
  return limit == RLIM_INFINITY ? kUnlimited : static_cast<int64_t>(limit);
}

// The lesser of two limits, where kUnlimited is no limit.
int64_t Lesser(int64_t a, int64_t b) {
  if (a < 0) return b;
  return b < 0 ? a : std::min(a, b);
}

// ZeroMQ belongs to comm/channel: the library itself tells what it is.
void ProbeZmq(VersionFacts& facts) {
  void* library = dlopen("libzmq.so.5", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return;
  const auto version =
      reinterpret_cast<void (*)(int*, int*, int*)>(dlsym(library, "zmq_version"));
  const auto has = reinterpret_cast<int (*)(const char*)>(dlsym(library, "zmq_has"));
  if (version == nullptr || has == nullptr) return;
  int major = 0, minor = 0, patch = 0;
  version(&major, &minor, &patch);
  facts.zmq = absl::StrCat(major, ".", minor, ".", patch);
  facts.zmq_curve = has("curve") == 1;
}

}  // namespace

VersionFacts ProbeVersions() {
  VersionFacts facts;
  utsname name = {};
  if (uname(&name) == 0) facts.kernel = name.release;
  facts.ucx = UcxVersion();
  ProbeZmq(facts);
  const CudaVersions cuda = FindCudaVersions();
  facts.cuda_runtime = cuda.runtime;
  facts.cuda_driver = cuda.driver;
  const auto nccl = LoadNccl(NcclLoadOptionsFromEnvironment());
  if (nccl.ok()) {
    facts.nccl = DescribeNccl(**nccl);
  } else {
    facts.nccl_absent = std::string(nccl.status().message());
  }
  return facts;
}

LimitFacts ProbeLimits() {
  LimitFacts facts;
  rlimit limit = {};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) facts.locked_memory = FiniteLimit(limit.rlim_cur);
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    facts.open_files = FiniteLimit(limit.rlim_cur);
    facts.open_files_hard = FiniteLimit(limit.rlim_max);
  }
  if (getrlimit(RLIMIT_NPROC, &limit) == 0) facts.processes = FiniteLimit(limit.rlim_cur);
  facts.processes = Lesser(facts.processes, NumberIn("/proc/sys/kernel/pid_max"));
  // "0::/path" of version 2; containers see their own as the root.
  const std::string group = Field("/proc/self/cgroup", "0");
  const std::string path(absl::StripPrefix(group, ":"));
  facts.processes = Lesser(facts.processes, NumberIn("/sys/fs/cgroup" + path + "/pids.max"));
  return facts;
}

SharedMemoryFacts ProbeSharedMemory() {
  SharedMemoryFacts facts;
  struct statvfs space = {};
  if (statvfs("/dev/shm", &space) != 0) return facts;
  facts.exists = true;
  facts.writable = access("/dev/shm", W_OK | X_OK) == 0;
  facts.total_bytes = static_cast<int64_t>(space.f_blocks) * static_cast<int64_t>(space.f_frsize);
  facts.free_bytes = static_cast<int64_t>(space.f_bavail) * static_cast<int64_t>(space.f_frsize);
  return facts;
}

MemoryFacts ProbeMemory() {
  MemoryFacts facts;
  facts.total_bytes = Kilobytes("/proc/meminfo", "MemTotal");
  facts.available_bytes = Kilobytes("/proc/meminfo", "MemAvailable");
  facts.huge_pages = Kilobytes("/proc/meminfo", "Hugetlb");
  // "always [madvise] never"
  const std::string modes = FirstLine("/sys/kernel/mm/transparent_hugepage/enabled");
  const size_t begin = modes.find('['), end = modes.find(']');
  if (begin != std::string::npos && end > begin) {
    facts.transparent = modes.substr(begin + 1, end - begin - 1);
  }
  facts.numa_nodes = std::max<int>(
      1, static_cast<int>(Glob("/sys/devices/system/node/node[0-9]*").size()));
  return facts;
}

CpuFacts ProbeCpu() {
  CpuFacts facts;
  facts.model = Field("/proc/cpuinfo", "model name");
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) facts.processors = CPU_COUNT(&set);
  const absl::Status supported = CheckCpuSupported();
  if (!supported.ok()) facts.unsupported = std::string(supported.message());
  const std::vector<std::string> flags = absl::StrSplit(Field("/proc/cpuinfo", "flags"), ' ');
  for (const char* feature : {"avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni",
                              "amx_bf16", "amx_int8"}) {
    if (std::find(flags.begin(), flags.end(), feature) != flags.end()) {
      facts.features.push_back(feature);
    }
  }
  return facts;
}

std::vector<NicFacts> ProbeNics() {
  constexpr int64_t kLoopbackType = 772;  // ARPHRD_LOOPBACK
  std::vector<NicFacts> nics;
  for (const std::string& path : Glob("/sys/class/net/*")) {
    NicFacts nic;
    nic.name = std::filesystem::path(path).filename();
    nic.loopback = NumberIn(path + "/type") == kLoopbackType;
    const std::string state = FirstLine(path + "/operstate");
    // Loopback and tunnels do not tell: they are up when their flag is.
    uint64_t flags = 0;
    const bool flag_up =
        absl::SimpleHexAtoi(FirstLine(path + "/flags"), &flags) && (flags & 1) != 0;
    nic.up = state == "up" || (state == "unknown" && flag_up);
    nic.mtu = NumberIn(path + "/mtu");
    nic.megabits = NumberIn(path + "/speed");
    nics.push_back(std::move(nic));
  }
  return nics;
}

std::vector<RdmaFacts> ProbeRdma() {
  std::vector<RdmaFacts> devices;
  for (const std::string& path : Glob("/sys/class/infiniband/*")) {
    // "4: ACTIVE"
    const std::string state = FirstLine(path + "/ports/1/state");
    const size_t colon = state.find(": ");
    devices.push_back({std::filesystem::path(path).filename(),
                       colon == std::string::npos ? state : state.substr(colon + 2)});
  }
  return devices;
}

ClockFacts ProbeClock() {
  using Clock = std::chrono::steady_clock;
  constexpr int kReads = 100000;
  ClockFacts facts;
  facts.source = FirstLine("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  const Clock::time_point start = Clock::now();
  Clock::time_point last = start;
  for (int i = 0; i < kReads; ++i) last = Clock::now();
  facts.read_nanoseconds = std::chrono::duration<double, std::nano>(last - start).count() / kReads;
  timex kernel = {};
  const int state = adjtimex(&kernel);
  facts.synchronized = state >= 0 && state != TIME_ERROR && (kernel.status & STA_UNSYNC) == 0;
  facts.error_seconds = static_cast<double>(kernel.maxerror) * 1e-6;
  return facts;
}

MachineFacts ProbeMachine() {
  MachineFacts facts;
  // First: it forks, and drivers start threads.
  facts.fabrics = ProbeFabrics();
  char host[256] = {};
  if (gethostname(host, sizeof(host) - 1) == 0) facts.host = host;
  facts.versions = ProbeVersions();
  facts.limits = ProbeLimits();
  facts.shared_memory = ProbeSharedMemory();
  facts.memory = ProbeMemory();
  facts.cpu = ProbeCpu();
  facts.nics = ProbeNics();
  facts.rdma = ProbeRdma();
  facts.clock = ProbeClock();
  std::error_code error;
  facts.nvidia_device = std::filesystem::exists("/dev/nvidia0", error);
  const auto gpus = ListCudaDevices();
  if (gpus.ok()) {
    facts.gpus = *gpus;
  } else {
    facts.gpu_error = std::string(gpus.status().message());
  }
  return facts;
}

}  // namespace conclave
