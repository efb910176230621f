// `bench calibrate`: measures this machine and writes the hardware profile that `plan --profile`
// and cluster files read. What cannot be measured here is the nearest built-in profile's, and the
// file says so.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "comm/base/status.h"
#include "comm/device/cuda_device.h"
#include "placement/hardware/cluster_topology.h"
#include "tools/cli/calibration.h"
#include "tools/cli/commands.h"

namespace conclave {
namespace {

// Everything the file holds.
struct Calibrated {
  HardwareProfile profile;
  ClusterNode node;
  std::string base;          // the built-in profile of what was not measured
  std::string how;           // of the measurement, one line
  std::string not_measured;  // keys
};

// Shares of a built-in profile hold for its figures as specified; ours are as measured.
double Rescaled(double share, double specified, double measured) {
  return std::clamp(share * specified / measured, 0.01, 1.0);
}

// The measured figures over those of `base`.
HardwareProfile Measured(const HardwareProfile& base, const DeviceCalibration& found) {
  HardwareProfile profile = base;
  profile.memory_bandwidth = found.read_bandwidth;
  profile.stream_efficiency = std::clamp(found.stream_bandwidth / found.read_bandwidth, 0.01, 1.0);
  // Attention does not read faster than the weights' stream.
  profile.attention_efficiency =
      std::min(profile.stream_efficiency,
               Rescaled(base.attention_efficiency, base.memory_bandwidth, found.read_bandwidth));
  profile.kernel_seconds = found.kernel_seconds;
  return profile;
}

absl::StatusOr<Calibrated> CalibrateThisCpu(int threads, const std::atomic<bool>& cancelled) {
  Calibrated out;
  out.base = "cpu";
  out.not_measured = "node.network";
  ASSIGN_OR_RETURN(const HardwareProfile base, BuiltinProfile(out.base));
  ASSIGN_OR_RETURN(const ClusterTopology usual, BuiltinCluster("cpu:1"));
  ASSIGN_OR_RETURN(const DeviceCalibration found, CalibrateCpu(threads));
  if (cancelled.load()) return absl::CancelledError("interrupted");
  HardwareProfile& profile = out.profile = Measured(base, found);
  profile.memory_bytes = static_cast<double>(MachineMemoryBytes());
  // The products are our own, so what they reach is the rate and the share is one.
  profile.flops = {{NumberFormat::kF32, found.f32_flops}, {NumberFormat::kBf16, found.bf16_flops}};
  profile.gemm_efficiency = 1;
  // Its bytes stream as weights do; what its softmax costs is in attention_flops.
  profile.attention_efficiency = profile.stream_efficiency;
  profile.attention_flops = found.attention_flops;
  profile.host_bandwidth = found.read_bandwidth;
  if (cancelled.load()) return absl::CancelledError("interrupted");
  ASSIGN_OR_RETURN(const LinkCalibration link, CalibrateNodeLink());
  profile.peer_seconds = link.peer_seconds;
  out.node = usual.nodes[0];
  out.node.host = {link.alpha, link.bandwidth};
  RETURN_IF_ERROR(FitCpuSteps(threads, found, &profile, &out.node.host));
  out.node.dram_bytes = profile.memory_bytes;
  out.how = absl::StrCat("the CPU, ", threads, " threads");
  return out;
}

// The built-in profile of a chip; "" when none is its.
std::string BuiltinOf(const CudaDeviceInfo& device) {
  struct Chip {
    const char* part;
    const char* profile;
  };
  constexpr Chip kChips[] = {{"GB200", "gb200-nvl72"},
                             {"B200", "b200"},
                             {"H200", "h200"},
                             {"H100", "h100"},
                             {"A6000", "a6000"}};
  for (const Chip& chip : kChips) {
    if (absl::StrContains(device.name, chip.part)) return chip.profile;
  }
  if (!absl::StrContains(device.name, "A100")) return "";
  return device.memory_bytes < int64_t{48} << 30 ? "a100-40g-dgx" : "a100-80g";
}

absl::StatusOr<Calibrated> CalibrateThisGpu(int index, const std::atomic<bool>& cancelled) {
  constexpr absl::string_view kRemedy =
      "; run bench calibrate --device cuda:N on a machine with a GPU (this machine's processors: "
      "--device cpu)";
  const absl::StatusOr<std::vector<CudaDeviceInfo>> devices = ListCudaDevices();
  if (!devices.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device cuda: ", devices.status().message(), kRemedy));
  }
  if (index >= static_cast<int>(devices->size())) {
    return absl::InvalidArgumentError(absl::StrCat("--device cuda:", index, ": this machine has ",
                                                   devices->size(), " GPUs", kRemedy));
  }
  RETURN_IF_ERROR(CheckCudaDevice(index));
  const CudaDeviceInfo& device = (*devices)[index];
  const std::string known = BuiltinOf(device);
  Calibrated out;
  out.base = known.empty() ? "h200" : known;
  out.not_measured =
      "gemm_efficiency, attention_efficiency, peer_seconds, flops but bf16 (in proportion), node";
  ASSIGN_OR_RETURN(const HardwareProfile base, BuiltinProfile(out.base));
  ASSIGN_OR_RETURN(const ClusterTopology usual,
                   BuiltinCluster(absl::StrCat(out.base, ":", devices->size())));
  ASSIGN_OR_RETURN(const DeviceCalibration found, CalibrateCuda(index));
  if (cancelled.load()) return absl::CancelledError("interrupted");
  HardwareProfile& profile = out.profile = Measured(base, found);
  if (known.empty()) profile.name = device.name;
  profile.memory_bytes = static_cast<double>(device.memory_bytes);
  const double specified = base.flops.at(NumberFormat::kBf16);
  for (auto& [format, rate] : profile.flops) rate *= found.bf16_flops / specified;
  profile.gemm_efficiency = Rescaled(base.gemm_efficiency, specified, found.bf16_flops);
  profile.host_bandwidth = found.host_bandwidth;
  ASSIGN_OR_RETURN(profile.step_seconds, CalibrateStep(index, 1));
  out.node = usual.nodes[0];
  out.node.dram_bytes = static_cast<double>(MachineMemoryBytes());
  out.how = absl::StrCat("cuda:", index, ", ", device.name);
  return out;
}

std::string LinkText(absl::string_view key, const LinkCost& link) {
  if (link == LinkCost()) return "";
  return absl::StrFormat("  %s: {alpha: %.4g, bandwidth: %.6g}\n", key, link.alpha, link.bandwidth);
}

// Figures are kept to six digits: more would only be noise. Zeros stay zeros.
double Rounded(double value) {
  double rounded = value;
  return absl::SimpleAtod(absl::StrFormat("%.6g", value), &rounded) ? rounded : value;
}

void RoundFigures(HardwareProfile* profile) {
  for (double HardwareProfile::*member :
       {&HardwareProfile::memory_bandwidth, &HardwareProfile::stream_efficiency,
        &HardwareProfile::gemm_efficiency, &HardwareProfile::attention_efficiency,
        &HardwareProfile::kernel_seconds, &HardwareProfile::peer_seconds,
        &HardwareProfile::step_seconds, &HardwareProfile::host_bandwidth,
        &HardwareProfile::product_depth, &HardwareProfile::overlap,
        &HardwareProfile::attention_flops, &HardwareProfile::crowded_seconds}) {
    profile->*member = Rounded(profile->*member);
  }
  for (auto& [format, rate] : profile->flops) rate = Rounded(rate);
}

std::string ProfileText(const Calibrated& found) {
  const ClusterNode& node = found.node;
  std::string text =
      absl::StrCat("# ", found.profile.source, ".\n# Not measured, those of ", found.base, ": ",
                   found.not_measured, ".\n", WriteHardwareProfile(found.profile));
  absl::StrAppend(&text, "node:\n  devices: ", node.devices, "\n", LinkText("fast", node.fast),
                  LinkText("host", node.host), LinkText("network", node.network));
  absl::StrAppend(&text, absl::StrFormat("  dram: %.0f\n", node.dram_bytes));
  return text;
}

void PrintTable(const Calibrated& found) {
  const HardwareProfile& p = found.profile;
  std::cout << p.name << ": " << p.source << "\n";
  const auto line = [](const char* what, double value, const char* unit) {
    std::cout << absl::StrFormat("  %-24s %10.2f %s\n", what, value, unit);
  };
  line("memory", p.memory_bytes / 1e9, "GB");
  line("memory read", p.memory_bandwidth / 1e9, "GB/s");
  line("weight stream", 100 * p.stream_efficiency, "% of the read");
  for (const auto& [format, rate] : p.flops) {
    line(absl::StrCat("product, ", NumberFormatName(format)).c_str(),
         rate * p.gemm_efficiency / 1e9, "GFLOP/s");
  }
  if (p.attention_flops > 0) line("attention", p.attention_flops / 1e9, "GFLOP/s");
  if (p.product_depth > 0) line("fixed work of an output", p.product_depth, "inputs' worth");
  if (p.overlap < 1) line("reading hidden", 100 * p.overlap, "% by products, or the reverse");
  line("kernel", p.kernel_seconds * 1e6, "us");
  line("step", p.step_seconds * 1e6, "us");
  line("each peer of an exchange", p.peer_seconds * 1e6, "us");
  line("host to device", p.host_bandwidth / 1e9, "GB/s");
  line("node link, message", found.node.host.alpha * 1e6, "us");
  if (p.cores > 0) {
    line(absl::StrCat("more beyond ", p.cores, " workers").c_str(), p.crowded_seconds * 1e6, "us");
  }
  line("node link", found.node.host.bandwidth / 1e9, "GB/s");
  std::cout << "  not measured, those of " << found.base << ": " << found.not_measured << "\n";
}

absl::StatusOr<int> GpuOfFlag(const std::string& device) {
  int index = 0;
  if (device == "cpu") return -1;
  if (device == "cuda") return 0;
  if (absl::StartsWith(device, "cuda:") && absl::SimpleAtoi(device.substr(5), &index) &&
      index >= 0) {
    return index;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device '", device, "': use cpu, cuda or cuda:N"));
}

absl::Status RefuseOutput(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat("--output '", path, "' cannot be written; give a file in a folder that exists"));
}

// Whether `path` can be written, without writing: told before the measuring, not after.
absl::Status CheckOutput(const std::string& path) {
  const std::filesystem::path file(path);
  std::error_code error;
  const bool exists = std::filesystem::exists(file, error);
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  const bool writable =
      exists ? access(path.c_str(), W_OK) == 0 && !std::filesystem::is_directory(file, error)
             : access(folder.c_str(), W_OK | X_OK) == 0;
  return writable ? absl::OkStatus() : RefuseOutput(path);
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  return file ? absl::OkStatus() : RefuseOutput(path);
}

absl::StatusOr<Calibrated> Calibrate(const std::string& device, int threads,
                                     const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const int gpu, GpuOfFlag(device));
  if (threads <= 0) threads = MachineProcessors();
  ASSIGN_OR_RETURN(Calibrated found, gpu < 0 ? CalibrateThisCpu(threads, cancelled)
                                             : CalibrateThisGpu(gpu, cancelled));
  if (cancelled.load()) return absl::CancelledError("interrupted");
  RoundFigures(&found.profile);
  found.profile.source =
      absl::StrCat("measured by conclave bench calibrate on ", found.how, ", ",
                   absl::FormatTime("%Y-%m-%d %H:%M UTC", absl::Now(), absl::UTCTimeZone()));
  return found;
}

}  // namespace

absl::StatusOr<MeasuredHardware> MeasureHardware(const std::string& device, int threads,
                                                 const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const Calibrated found, Calibrate(device, threads, cancelled));
  return MeasuredHardware{found.profile, found.node.host};
}

absl::Status RunBenchCalibrate(const BenchCalibrateOptions& options,
                               const std::atomic<bool>& cancelled) {
  RETURN_IF_ERROR(GpuOfFlag(options.device).status());
  if (!options.output_path.empty()) RETURN_IF_ERROR(CheckOutput(options.output_path));
  ASSIGN_OR_RETURN(Calibrated found, Calibrate(options.device, options.threads, cancelled));
  if (options.output_path.empty()) {
    PrintTable(found);
    return absl::OkStatus();
  }
  const std::string text = ProfileText(found);
  ASSIGN_OR_RETURN(const HardwareProfile again, ParseHardwareProfile(text, options.output_path));
  if (again != found.profile) {
    return absl::InternalError(
        absl::StrCat("the profile reads back differently; please report this text:\n", text));
  }
  RETURN_IF_ERROR(WriteText(options.output_path, text));
  std::cout << "wrote " << options.output_path << "; use it with: conclave plan --profile "
            << options.output_path << "\n";
  return absl::OkStatus();
}

}  // namespace conclave
