// HardwareProfile: what one device can do, as the cost model sees it: bytes, bandwidths,
// throughputs and overheads. Profiles are data files (profiles/*.yaml) whose every figure names its
// source; `conclave bench calibrate` writes one for the present machine. A value; any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// How weights are stored and multiplied.
enum class NumberFormat : uint8_t { kF32, kBf16, kFp8, kInt8, kInt4, kMxfp4 };

absl::string_view NumberFormatName(NumberFormat format);  // "f32", "bf16", "fp8", ...
absl::StatusOr<NumberFormat> ParseNumberFormat(absl::string_view name);
// Bytes of one weight, scales included (fp8: a float per 128x128 block; int8, int4: a half per 128;
// mxfp4: a byte per 32).
double NumberFormatBytes(NumberFormat format);

struct HardwareProfile {
  std::string name;    // "h200"
  std::string source;  // of the figures, in words

  double memory_bytes = 0;      // of the device
  double memory_bandwidth = 0;  // bytes/s of a pure read, as specified
  // Dense multiply-accumulate throughput in FLOP/s by the operands' format (weights dequantised in
  // the product count as the activations' format).
  std::map<NumberFormat, double> flops;

  // Share of memory_bandwidth that a long weight stream reaches; of `flops` that a large product
  // reaches; and of memory_bandwidth that attention over the KV cache reaches.
  double stream_efficiency = 1;
  double gemm_efficiency = 1;
  double attention_efficiency = 1;
  // Launch and tail of one kernel in a chain: its time is this plus its bytes or flops at the
  // efficiencies above, whichever takes longer.
  double kernel_seconds = 0;
  // Share of the shorter of moving and computing that hides behind the longer: 1 on GPUs, whose
  // copies run ahead; less on CPUs.
  double overlap = 1;
  // Inner dimension whose products take as long as the fixed work of one output (start, sum of
  // slices, store): a product of depth k counts as k + product_depth. Matters to tiny models.
  double product_depth = 0;
  // FLOP/s of attention over the KV cache, where softmax and not its products decides; 0: as large
  // products.
  double attention_flops = 0;
  // The sender's work for each message of an all-to-all: C1 of the paper's analysis of PCC (arXiv
  // 2207.00032, V-B), whose C2 is the link's latency and the kernel.
  double peer_seconds = 0;
  // One step's fixed cost: graph launch, host, sampling.
  double step_seconds = 0;
  // CPUs only: all workers of a node share one memory system and its cores. 0: does not apply.
  int shared_by_node = 0;
  // CPUs only: cores of a node, and what each message costs more when its workers are more than
  // these, so that one that waits must be woken. 0: does not apply.
  int cores = 0;
  double crowded_seconds = 0;

  double host_bandwidth = 0;  // bytes/s between host memory and the device, one direction

  bool operator==(const HardwareProfile&) const = default;
};

// `text` is a YAML file; `file` opens every error. InvalidArgument names file, line, key, the value
// and the remedy.
absl::StatusOr<HardwareProfile> ParseHardwareProfile(absl::string_view text,
                                                     absl::string_view file);
// The YAML that ParseHardwareProfile reads back as an equal value.
std::string WriteHardwareProfile(const HardwareProfile& profile);

// Profiles that ship with Conclave: a100-40g-dgx, a100-80g, h100, h200, b200, gb200-nvl72, a6000,
// cpu. InvalidArgument lists the names.
absl::StatusOr<HardwareProfile> BuiltinProfile(absl::string_view name);
std::vector<std::string> BuiltinProfileNames();

}  // namespace conclave
