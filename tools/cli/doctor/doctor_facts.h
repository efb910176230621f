// MachineFacts: what `doctor` knows of a machine, as plain values. Probing fills them
// (doctor_probe.h), checks judge them (doctor_checks.h); tests make them up. Sizes in bytes,
// -1 where a figure is unknown or, of a limit, where there is none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/device/cuda_device.h"

namespace conclave {

inline constexpr int64_t kUnlimited = -1;
inline constexpr int64_t kUnknown = -1;

struct VersionFacts {
  std::string kernel;       // "6.1.0"
  std::string ucx;          // "1.13.1"
  std::string zmq;          // "4.3.4"; empty: the library was not found
  bool zmq_curve = false;   // its encryption is compiled in
  int cuda_driver = 0;      // the CUDA version that the driver supports, 13000 for 13.0; 0: none
  int cuda_runtime = 0;     // that of this binary; 0: built without
  std::string nccl;         // "NCCL 2.28.9 (libnccl.so.2): ..."; empty: not usable
  std::string nccl_absent;  // why
};

struct LimitFacts {
  int64_t locked_memory = kUnlimited;
  int64_t open_files = kUnlimited;       // soft
  int64_t open_files_hard = kUnlimited;  // what the soft one may be raised to
  int64_t processes = kUnlimited;        // the least of ulimit -u, the cgroup's and the kernel's
};

struct SharedMemoryFacts {
  bool exists = false;
  bool writable = false;
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};

struct MemoryFacts {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;
  int64_t huge_pages = 0;       // reserved, of any size, bytes
  std::string transparent;      // "always", "madvise", "never"; empty: the kernel has none
  int numa_nodes = 1;
};

struct CpuFacts {
  std::string model;
  int processors = 1;                 // that this process may run on
  std::string unsupported;            // why the kernels cannot run here; empty: they can
  std::vector<std::string> features;  // those that kernels use, "avx2"
};

struct NicFacts {
  std::string name;
  bool loopback = false;
  bool up = false;
  int64_t mtu = 0;
  int64_t megabits = kUnknown;  // per second
};

struct RdmaFacts {
  std::string name;  // "mlx5_0"
  std::string state;  // of its first port: "ACTIVE", "DOWN"
};

struct ClockFacts {
  std::string source;          // "tsc"
  double read_nanoseconds = 0;  // of the monotonic clock
  bool synchronized = false;   // the kernel is told the right time (NTP)
  double error_seconds = 0;    // the most it thinks to be wrong, when synchronized
};

// Two processes exchanged messages over the fabric.
struct FabricProbe {
  std::string transport;  // "shared memory", "TCP"
  std::string error;      // empty: it works
  double one_way_seconds = 0;
  double bytes_per_second = 0;
};

struct MachineFacts {
  std::string host;
  VersionFacts versions;
  LimitFacts limits;
  SharedMemoryFacts shared_memory;
  MemoryFacts memory;
  CpuFacts cpu;
  std::vector<NicFacts> nics;
  std::vector<RdmaFacts> rdma;
  ClockFacts clock;
  std::vector<CudaDeviceInfo> gpus;
  std::string gpu_error;        // why there are none
  bool nvidia_device = false;   // /dev has an NVIDIA GPU, whether or not it works
  std::vector<FabricProbe> fabrics;
};

}  // namespace conclave
