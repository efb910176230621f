// Measures what the present machine can do with Conclave's own kernels, engine and fabric: the
// figures of a hardware profile. Blocking; up to ten seconds each; the machine should be idle. One
// thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "placement/hardware/cluster_topology.h"

namespace conclave {

// Rates in bytes/s and FLOP/s, times in seconds.
struct DeviceCalibration {
  double read_bandwidth = 0;       // of plain loads: the roofline
  double stream_bandwidth = 0;     // of weights through a decode product or expert FFN
  double bf16_flops = 0;           // of a large product of bf16 weights
  double f32_flops = 0;            // CPUs: of fp32 weights; 0: not measured
  double kernel_seconds = 0;       // launch and tail of a kernel in a chain
  double attention_flops = 0;      // CPUs only, see HardwareProfile
  double prefill_ffn_seconds = 0;  // of a PrefillFfn
  double host_bandwidth = 0;       // GPUs: pinned host memory to the device
};

// The experts of a layer of OLMoE-1B-7B's size, with the rows that a short prompt sends to each:
// neither reading nor computing decides alone.
struct PrefillFfn {
  static constexpr int kExperts = 64, kHidden = 2048, kFfn = 1024, kRowsEach = 16;
};

// Of `threads` threads. ResourceExhausted when the machine lacks the memory for it.
absl::StatusOr<DeviceCalibration> CalibrateCpu(int threads);
// What wavers on a shared machine, measured in a second.
struct CpuProbe {
  double read_bandwidth = 0;
  double bf16_flops = 0;
};
CpuProbe ProbeCpu(int threads);

// Of GPU `index`, which CheckCudaDevice has accepted.
absl::StatusOr<DeviceCalibration> CalibrateCuda(int index);

// A decode step of a model of one tiny layer: what a step costs before any weights. `gpu` -1: the
// CPU with `threads` threads.
absl::StatusOr<double> CalibrateStep(int gpu, int threads);

// Fits, on a CPU of `threads` cores, what kernels by themselves do not show to decode steps of tiny
// models on one worker, two, and more than there are cores: step_seconds, kernel_seconds, the
// link's alpha, cores and crowded_seconds; product_depth to a prompt through a small model; and
// overlap to `found`. The rest of both is given.
absl::Status FitCpuSteps(int threads, const DeviceCalibration& found, HardwareProfile* profile,
                         LinkCost* host);

struct LinkCalibration {
  double alpha = 0;         // of a small message, one way
  double bandwidth = 0;     // of a large all-reduce
  double peer_seconds = 0;  // the sender's work for each further message of an exchange
};

// All of it: a profile of the name of the built-in one that it is nearest to ("cpu", "h200"), and
// the link within the node. `device`: cpu, cuda or cuda:N. `threads` 0: the machine's processors.
absl::StatusOr<MeasuredHardware> MeasureHardware(const std::string& device, int threads,
                                                 const std::atomic<bool>& cancelled);

// Between two threads over UCX, as between two workers of one node.
absl::StatusOr<LinkCalibration> CalibrateNodeLink();

}  // namespace conclave
