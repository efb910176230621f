#include "comm/types/parallel_plan.h"

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {

const char* ExchangeKindName(ExchangeKind kind) {
  switch (kind) {
    case ExchangeKind::kNaive:
      return "naive";
    case ExchangeKind::kPcc:
      return "pcc";
    case ExchangeKind::kTwoLevel:
      return "two-level";
  }
  LOG(FATAL) << "no such exchange: " << static_cast<int>(kind);
}

absl::StatusOr<ExchangeKind> ParseExchangeKind(absl::string_view text) {
  for (const ExchangeKind kind :
       {ExchangeKind::kNaive, ExchangeKind::kPcc, ExchangeKind::kTwoLevel}) {
    if (text == ExchangeKindName(kind)) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--exchange '", text, "': use naive, pcc or two-level"));
}

const char* PayloadFormatName(PayloadFormat format) {
  switch (format) {
    case PayloadFormat::kF32:
      return "float32";
    case PayloadFormat::kBf16:
      return "bfloat16";
    case PayloadFormat::kInt8:
      return "int8";
    case PayloadFormat::kFp8:
      return "fp8";
  }
  LOG(FATAL) << "no such payload format: " << static_cast<int>(format);
}

absl::StatusOr<PayloadFormat> ParsePayloadFormat(absl::string_view text) {
  for (const PayloadFormat format :
       {PayloadFormat::kF32, PayloadFormat::kBf16, PayloadFormat::kInt8, PayloadFormat::kFp8}) {
    if (text == PayloadFormatName(format)) return format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--exchange-dtype '", text, "': use float32, bfloat16, int8 or fp8"));
}

}  // namespace conclave
