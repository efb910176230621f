#include "tools/cli/model_options.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "comm/base/status.h"
#include "comm/device/cuda_device.h"
#include "comm/types/parallel_plan.h"
#include "comm/types/worker_facts.h"
#include "coordinator/model_config/model_config.h"

namespace conclave {
namespace {

absl::Status CheckFlag(bool good, absl::string_view flag, absl::string_view value,
                       absl::string_view remedy) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " '", value, "': ", remedy));
}

// The GPUs that this binary's code runs on; empty on a machine without.
const std::vector<CudaDeviceInfo>& UsableGpus() {
  static const auto& gpus = *new std::vector<CudaDeviceInfo>([] {
    absl::StatusOr<std::vector<CudaDeviceInfo>> found = ListCudaDevices();
    if (!found.ok() || !CheckCudaDevice(0).ok()) return std::vector<CudaDeviceInfo>();
    return *std::move(found);
  }());
  return gpus;
}

absl::Status CheckDevice(const std::string& device) {
  if (device == "auto" || device == "cpu") return absl::OkStatus();
  int index = 0;
  const bool named =
      absl::StartsWith(device, "cuda:") && absl::SimpleAtoi(device.substr(5), &index) && index >= 0;
  RETURN_IF_ERROR(
      CheckFlag(device == "cuda" || named, "--device", device, "use auto, cpu, cuda or cuda:N"));
  const absl::Status usable = CheckCudaDevice(index);
  if (usable.ok()) return absl::OkStatus();
  return absl::Status(usable.code(), absl::StrCat("--device '", device, "': ", usable.message()));
}

absl::Status CheckQuantization(const ModelOptions& options) {
  const absl::StatusOr<Quantization> format = ParseQuantization(options.quantization);
  RETURN_IF_ERROR(CheckFlag(format.ok(), "--quantization", options.quantization,
                            "use none, fp8, int8, int4, nf4 or mxfp4"));
  const int group = options.quant_group;
  RETURN_IF_ERROR(
      CheckFlag(group == 0 || group == 32 || group == 64 || group == 128 || group == 256,
                "--quant-group-size", absl::StrCat(group), "use 32, 64, 128 or 256"));
  return CheckFlag(*format == Quantization::kNone, "--quantization", options.quantization,
                   "this version computes with weights as the checkpoint has them; leave it out");
}

absl::Status CheckFlags(const ModelOptions& options) {
  const std::string& format = options.load_format;
  RETURN_IF_ERROR(CheckFlag(format == "auto" || format == "safetensors" || format == "dummy",
                            "--load-format", format, "use auto, safetensors or dummy"));
  RETURN_IF_ERROR(ParseExchangeKind(options.exchange).status());
  ASSIGN_OR_RETURN(const PayloadFormat payload, ParsePayloadFormat(options.exchange_dtype));
  RETURN_IF_ERROR(CheckFlag(payload == PayloadFormat::kF32 || !options.deterministic,
                            "--exchange-dtype", options.exchange_dtype,
                            "it rounds activations, which --deterministic forbids; leave one out"));
  const std::string& device = options.device;
  RETURN_IF_ERROR(CheckDevice(device));
  RETURN_IF_ERROR(CheckQuantization(options));
  const int page = options.page_tokens;
  RETURN_IF_ERROR(CheckFlag(page >= 1 && page <= 64 && (page & (page - 1)) == 0, "--block-size",
                            absl::StrCat(page), "use a power of two up to 64"));
  if (options.kv_cache_dtype == "auto") return absl::OkStatus();
  const absl::StatusOr<Dtype> dtype = ParseDtype(options.kv_cache_dtype);
  return CheckFlag(
      dtype.ok() && (*dtype == Dtype::kF32 || *dtype == Dtype::kF16 || *dtype == Dtype::kBf16),
      "--kv-cache-dtype", options.kv_cache_dtype, "use auto, float32, float16 or bfloat16");
}

// What a checked --exchange-dtype means for the bits of the outputs.
std::string PayloadNote(const ModelOptions& options, const ResolvedModel& model) {
  if (options.exchange_dtype == PayloadFormatName(PayloadFormat::kF32)) return "";
  const std::string flag = absl::StrCat("--exchange-dtype ", options.exchange_dtype);
  if (!model.shape.IsMoe()) return absl::StrCat(flag, " does not apply: a dense model");
  return absl::StrCat(flag, " rounds the rows that experts exchange: outputs are no longer the ",
                      "same bits in every grid");
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(const std::string& flag, const std::string& text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  double value = 0;
  const std::string unit = absl::AsciiStrToLower(text.substr(digits));
  const double scale = unit.empty() || unit == "b"    ? 1
                       : unit == "k" || unit == "kib" ? 0x1p10
                       : unit == "m" || unit == "mib" ? 0x1p20
                       : unit == "g" || unit == "gib" ? 0x1p30
                       : unit == "t" || unit == "tib" ? 0x1p40
                       : unit == "kb"                 ? 1e3
                       : unit == "mb"                 ? 1e6
                       : unit == "gb"                 ? 1e9
                       : unit == "tb"                 ? 1e12
                                                      : 0;
  if (digits == 0 || scale == 0 || !absl::SimpleAtod(text.substr(0, digits), &value) ||
      value * scale < 1 || value * scale > 0x1p60) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " '", text, "' is not a size; write for example 512MiB or 8GB"));
  }
  return static_cast<int64_t>(value * scale);
}

int64_t MachineMemoryBytes() {
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
}

int MachineProcessors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
}

std::string DeviceOfWorker(const ModelOptions& options, int index) {
  if (options.device != "auto" && options.device != "cuda") return options.device;
  const size_t gpus = UsableGpus().size();
  return gpus == 0 ? "cpu" : absl::StrCat("cuda:", index % gpus);
}

int64_t MemoryOfWorker(const ModelOptions& options, int index, int workers) {
  const std::string device = DeviceOfWorker(options, index);
  if (device == "cpu") return MachineMemoryBytes() / 10 * 9 / workers;
  int sharing = 0;
  for (int i = 0; i < workers; ++i) sharing += DeviceOfWorker(options, i) == device ? 1 : 0;
  // What a process takes on a GPU before it holds anything: its context and code.
  constexpr int64_t kContextBytes = int64_t{700} << 20;
  int number = 0;
  (void)absl::SimpleAtoi(device.substr(5), &number);
  const int64_t total = UsableGpus()[number].memory_bytes;
  return std::max<int64_t>(total / 100 * 94 / sharing - kContextBytes, 1 << 20);
}

bool ComputesInBf16(const ModelOptions& options) {
  return !options.deterministic && DeviceOfWorker(options, 0) != "cpu";
}

Dtype CacheDtype(const ModelOptions& options) {
  const absl::StatusOr<Dtype> dtype = ParseDtype(options.kv_cache_dtype);
  if (dtype.ok()) return *dtype;
  return ComputesInBf16(options) ? Dtype::kBf16 : Dtype::kF32;
}

absl::StatusOr<ResolvedModel> ResolveModel(const ModelOptions& options) {
  RETURN_IF_ERROR(CheckFlags(options));
  ResolvedModel model;
  std::error_code error;
  if (std::filesystem::is_directory(options.model, error)) {
    ASSIGN_OR_RETURN(model.shape, ReadModelShape(options.model));
    model.has_tokenizer = std::filesystem::exists(options.model + "/tokenizer.json", error);
    model.dummy = options.load_format == "dummy";
  } else {
    absl::StatusOr<ModelShape> preset = PresetShape(options.model);
    if (!preset.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--model '", options.model, "': no such folder, and ", preset.status().message()));
    }
    model.shape = *std::move(preset);
    if (options.load_format == "safetensors") {
      return absl::InvalidArgumentError(absl::StrCat(
          "--load-format safetensors: '", options.model,
          "' is a preset shape without weights; name a checkpoint folder, or use dummy"));
    }
    model.dummy = true;
  }
  if (options.context_tokens_max > model.shape.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-model-len ", options.context_tokens_max, " exceeds the model's ",
                     model.shape.context_tokens, " positions; use that or less"));
  }
  if (options.context_tokens_max > 0) model.shape.context_tokens = options.context_tokens_max;
  model.automatic = options.parallel.empty() && options.workers > 1;
  ASSIGN_OR_RETURN(const ParallelSpec spec, ParseParallelSpec(options.parallel));
  ASSIGN_OR_RETURN(model.spec, ResolveParallelSpec(spec, model.shape));
  model.note = EpNote(spec, model.shape);
  if (model.note.empty()) model.note = PayloadNote(options, model);
  model.workers = model.automatic ? options.workers : model.spec.WorkerCount();
  if (!model.automatic && options.workers != 0 && options.workers != model.workers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--workers ", options.workers, " contradicts --parallel ", model.spec.ToString(),
        ", which needs ", model.workers, "; leave one of them out"));
  }
  return model;
}

}  // namespace conclave
