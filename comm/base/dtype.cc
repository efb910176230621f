#include "comm/base/dtype.h"

#include <bit>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {

size_t DtypeBytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
    case Dtype::kI32:
      return 4;
    case Dtype::kF16:
    case Dtype::kBf16:
      return 2;
    case Dtype::kI64:
      return 8;
    case Dtype::kU8:
      return 1;
  }
  LOG(FATAL) << "no such dtype: " << static_cast<int>(dtype);
}

absl::string_view DtypeName(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "float32";
    case Dtype::kF16:
      return "float16";
    case Dtype::kBf16:
      return "bfloat16";
    case Dtype::kI32:
      return "int32";
    case Dtype::kI64:
      return "int64";
    case Dtype::kU8:
      return "uint8";
  }
  LOG(FATAL) << "no such dtype: " << static_cast<int>(dtype);
}

absl::StatusOr<Dtype> ParseDtype(absl::string_view text) {
  const std::string name = absl::AsciiStrToLower(text);
  if (name == "float32" || name == "f32" || name == "float") return Dtype::kF32;
  if (name == "float16" || name == "f16" || name == "half") return Dtype::kF16;
  if (name == "bfloat16" || name == "bf16") return Dtype::kBf16;
  if (name == "int32" || name == "i32") return Dtype::kI32;
  if (name == "int64" || name == "i64") return Dtype::kI64;
  if (name == "uint8" || name == "u8") return Dtype::kU8;
  return absl::InvalidArgumentError(
      absl::StrCat("dtype '", text, "' is not known; use float32, float16 or bfloat16"));
}

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24, exact in float.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

uint16_t FloatToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds beyond 65504, or infinity
  if (magnitude < 0x38800000u) {                        // below 2^-14: subnormal or zero
    // Adding 0.5 aligns the mantissa so that its last bit weighs 2^-24, and rounds to nearest even.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

}  // namespace conclave
