#include "tools/cli/model_options.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "comm/base/status.h"
#include "coordinator/model_config/model_config.h"

namespace conclave {
namespace {

absl::Status CheckFlag(bool good, absl::string_view flag, absl::string_view value,
                       absl::string_view remedy) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " '", value, "': ", remedy));
}

absl::Status CheckFlags(const ModelOptions& options) {
  const std::string& format = options.load_format;
  RETURN_IF_ERROR(CheckFlag(format == "auto" || format == "safetensors" || format == "dummy",
                            "--load-format", format, "use auto, safetensors or dummy"));
  RETURN_IF_ERROR(CheckFlag(options.exchange == "pcc" || options.exchange == "naive", "--exchange",
                            options.exchange, "use pcc or naive"));
  const std::string& device = options.device;
  RETURN_IF_ERROR(CheckFlag(device == "auto" || device == "cpu", "--device", device,
                            "this build computes on cpu; use auto or cpu"));
  const int page = options.page_tokens;
  RETURN_IF_ERROR(CheckFlag(page >= 1 && page <= 64 && (page & (page - 1)) == 0, "--block-size",
                            absl::StrCat(page), "use a power of two up to 64"));
  const absl::StatusOr<Dtype> dtype = ParseDtype(options.kv_cache_dtype);
  return CheckFlag(
      dtype.ok() && (*dtype == Dtype::kF32 || *dtype == Dtype::kF16 || *dtype == Dtype::kBf16),
      "--kv-cache-dtype", options.kv_cache_dtype, "use float32, float16 or bfloat16");
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
  model.workers = model.automatic ? options.workers : model.spec.WorkerCount();
  if (!model.automatic && options.workers != 0 && options.workers != model.workers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--workers ", options.workers, " contradicts --parallel ", model.spec.ToString(),
        ", which needs ", model.workers, "; leave one of them out"));
  }
  return model;
}

}  // namespace conclave
