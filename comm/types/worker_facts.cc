#include "comm/types/worker_facts.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace conclave {

const char* MessageName(const Message& message) {
  static constexpr std::array<const char*, std::variant_size_v<Message>> kNames = {
      "Hello",   "Heartbeat", "Prepared", "Ready", "StepDone", "Logits",  "Fault",
      "Goodbye", "Assign",    "Commit",   "Step",  "Abort",    "Shutdown"};
  return kNames[message.index()];
}

namespace {
constexpr std::array<const char*, 6> kQuantizationNames = {"none", "fp8", "int8",
                                                           "int4", "nf4", "mxfp4"};
}  // namespace

const char* QuantizationName(Quantization quantization) {
  return kQuantizationNames[static_cast<size_t>(quantization)];
}

absl::StatusOr<Quantization> ParseQuantization(absl::string_view text) {
  for (size_t i = 0; i < kQuantizationNames.size(); ++i) {
    if (text == kQuantizationNames[i]) return static_cast<Quantization>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "quantization '", text, "' is not known; use none, fp8, int8, int4, nf4 or mxfp4"));
}

}  // namespace conclave
