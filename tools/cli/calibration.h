// Measures what the present machine can do with Conclave's own kernels, engine and fabric: the
// figures of a hardware profile. Blocking; up to ten seconds each; the machine should be idle. One
// thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace conclave {

// Rates in bytes/s and FLOP/s, times in seconds.
struct DeviceCalibration {
  double read_bandwidth = 0;    // of plain loads: the roofline
  double stream_bandwidth = 0;  // of weights through a decode product or expert FFN
  double bf16_flops = 0;        // of a large product of bf16 weights
  double f32_flops = 0;         // CPUs: of fp32 weights; 0: not measured
  double kernel_seconds = 0;    // launch and tail of a kernel in a chain
  double host_bandwidth = 0;    // GPUs: pinned host memory to the device
};

// Of `threads` threads. ResourceExhausted when the machine lacks the memory for it.
absl::StatusOr<DeviceCalibration> CalibrateCpu(int threads);
// Of GPU `index`, which CheckCudaDevice has accepted.
absl::StatusOr<DeviceCalibration> CalibrateCuda(int index);

// A decode step of a model of one tiny layer: what a step costs before any weights. `gpu` -1: the
// CPU with `threads` threads.
absl::StatusOr<double> CalibrateStep(int gpu, int threads);

struct LinkCalibration {
  double alpha = 0;         // of a small message, one way
  double bandwidth = 0;     // of a large one
  double peer_seconds = 0;  // the sender's work for each further message of an exchange
};

// Between two threads over UCX, as between two workers of one node.
absl::StatusOr<LinkCalibration> CalibrateNodeLink();

}  // namespace conclave
