#include "placement/hardware/hardware_profile.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "placement/hardware/builtin_profiles.h"
#include "placement/hardware/profile_file.h"

namespace conclave {
namespace {

constexpr NumberFormat kFormats[] = {NumberFormat::kF32,  NumberFormat::kBf16,
                                     NumberFormat::kFp8,  NumberFormat::kInt8,
                                     NumberFormat::kInt4, NumberFormat::kMxfp4};

// A YAML string in double quotes.
std::string Quoted(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c == '\n' ? ' ' : c;
  }
  return quoted + "\"";
}

}  // namespace

absl::string_view NumberFormatName(NumberFormat format) {
  switch (format) {
    case NumberFormat::kF32:
      return "f32";
    case NumberFormat::kBf16:
      return "bf16";
    case NumberFormat::kFp8:
      return "fp8";
    case NumberFormat::kInt8:
      return "int8";
    case NumberFormat::kInt4:
      return "int4";
    case NumberFormat::kMxfp4:
      return "mxfp4";
  }
  return "?";
}

absl::StatusOr<NumberFormat> ParseNumberFormat(absl::string_view name) {
  for (const NumberFormat format : kFormats) {
    if (NumberFormatName(format) == name) return format;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "weight format '", name, "' is unknown; the formats are f32, bf16, fp8, int8, int4, mxfp4"));
}

double NumberFormatBytes(NumberFormat format) {
  switch (format) {
    case NumberFormat::kF32:
      return 4;
    case NumberFormat::kBf16:
      return 2;
    case NumberFormat::kFp8:
      return 1 + 4.0 / (128 * 128);
    case NumberFormat::kInt8:
      return 1 + 2.0 / 128;
    case NumberFormat::kInt4:
      return 0.5 + 2.0 / 128;
    case NumberFormat::kMxfp4:
      return 0.5 + 1.0 / 32;
  }
  return 0;
}

absl::StatusOr<HardwareProfile> ParseHardwareProfile(absl::string_view text,
                                                     absl::string_view file) {
  ASSIGN_OR_RETURN(const YamlFields fields, YamlFields::Parse(text, file));
  ASSIGN_OR_RETURN(ProfileFile parsed, ParseProfileFile(fields, ""));
  return std::move(parsed.profile);
}

std::string WriteHardwareProfile(const HardwareProfile& profile) {
  const auto line = [](absl::string_view key, double value) {
    return absl::StrFormat("%s: %.17g\n", key, value);
  };
  std::string text = absl::StrCat("name: ", Quoted(profile.name), "\n");
  if (!profile.source.empty()) absl::StrAppend(&text, "source: ", Quoted(profile.source), "\n");
  absl::StrAppend(&text, line("memory", profile.memory_bytes),
                  line("memory_bandwidth", profile.memory_bandwidth), "flops:\n");
  for (const auto& [format, rate] : profile.flops) {
    absl::StrAppend(&text, "  ", line(NumberFormatName(format), rate));
  }
  absl::StrAppend(&text, line("stream_efficiency", profile.stream_efficiency),
                  line("gemm_efficiency", profile.gemm_efficiency),
                  line("attention_efficiency", profile.attention_efficiency),
                  line("kernel_seconds", profile.kernel_seconds));
  if (profile.overlap < 1) absl::StrAppend(&text, line("overlap", profile.overlap));
  if (profile.product_depth > 0) {
    absl::StrAppend(&text, line("product_depth", profile.product_depth));
  }
  if (profile.attention_flops > 0) {
    absl::StrAppend(&text, line("attention_flops", profile.attention_flops));
  }
  absl::StrAppend(&text, line("peer_seconds", profile.peer_seconds),
                  line("step_seconds", profile.step_seconds),
                  line("shared_by_node", profile.shared_by_node));
  if (profile.cores > 0) {
    absl::StrAppend(&text, line("cores", profile.cores),
                    line("crowded_seconds", profile.crowded_seconds));
  }
  if (profile.host_bandwidth > 0) {
    absl::StrAppend(&text, line("host_bandwidth", profile.host_bandwidth));
  }
  return text;
}

absl::StatusOr<HardwareProfile> BuiltinProfile(absl::string_view name) {
  ASSIGN_OR_RETURN(ProfileFile file, BuiltinProfileFile(name));
  return std::move(file.profile);
}

std::vector<std::string> BuiltinProfileNames() {
  std::vector<std::string> names;
  for (const BuiltinProfileText& builtin : BuiltinProfileTexts()) {
    names.emplace_back(builtin.name);
  }
  return names;
}

}  // namespace conclave
