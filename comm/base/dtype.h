// The number formats of weights, activations and KV caches. Values; any thread may use them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

enum class Dtype : uint8_t { kF32 = 0, kF16 = 1, kBf16 = 2, kI32 = 3, kI64 = 4, kU8 = 5 };

// Bytes of one element.
size_t DtypeBytes(Dtype dtype);

// "float32", "float16", "bfloat16", "int32", "int64", "uint8": the spelling of configs and
// messages.
absl::string_view DtypeName(Dtype dtype);

// Accepts those spellings, "f32"/"f16"/"bf16", and the upper-case ones of safetensors ("BF16").
absl::StatusOr<Dtype> ParseDtype(absl::string_view text);

// bfloat16 is the upper half of a float; the conversion to it rounds to nearest even and keeps NaN.
float Bf16ToFloat(uint16_t bits);
uint16_t FloatToBf16(float value);

// IEEE 754 binary16, subnormals included; the conversion to it rounds to nearest even.
float F16ToFloat(uint16_t bits);
uint16_t FloatToF16(float value);

}  // namespace conclave
