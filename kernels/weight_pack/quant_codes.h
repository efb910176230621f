// What numbers become in each quantised WeightFormat: the scale of a group, the code of a number,
// the value of a code. The device packer and its host reference share these functions, so that both
// give the same bits: comparisons, exact products and IEEE divisions only. Sources: OCP 8-bit
// Floating Point 1.0 (e4m3), OCP Microscaling Formats 1.0 (e2m1, e8m0), QLoRA appendix E (nf4).
// Pure functions of values, for host and device; any thread.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {

// Rounds to nearest even; NaN stays NaN.
CONCLAVE_HOST_DEVICE inline uint32_t Bf16Bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
CONCLAVE_HOST_DEVICE inline float Bf16Value(uint32_t bits) {
  return std::bit_cast<float>(bits << 16);
}

struct QuantScale {
  float divisor = 0;    // numbers are divided by it, then rounded to a code's value
  uint32_t stored = 0;  // ScaleBytes(format) bytes: divisor / FragmentUnit(format), mxfp4: divisor
};

// Of a group whose largest magnitude is `absmax`, rounded to the stored type before any number is
// divided by it: absmax / 127, / 7, / 448, / 1; for mxfp4 the power of two by which absmax comes to
// lie in [4, 8), as the specification has it: what lies above 6 saturates.
CONCLAVE_HOST_DEVICE inline QuantScale ScaleOf(WeightFormat format, float absmax) {
  switch (format) {
    case WeightFormat::kFp8: {
      const float divisor = absmax / 448.0f;
      return {divisor, std::bit_cast<uint32_t>(divisor)};
    }
    case WeightFormat::kInt8: {
      const float divisor = absmax / 127.0f;
      return {divisor, std::bit_cast<uint32_t>(divisor * 64.0f)};
    }
    case WeightFormat::kInt4: {
      const float divisor = Bf16Value(Bf16Bits(absmax / 7.0f));
      return {divisor, Bf16Bits(divisor * 4.0f)};
    }
    case WeightFormat::kNf4: {
      const uint32_t stored = Bf16Bits(absmax);
      return {Bf16Value(stored), stored};
    }
    default: {
      const int biased = static_cast<int>(std::bit_cast<uint32_t>(absmax) >> 23) - 2;
      uint32_t stored = biased > 0 ? static_cast<uint32_t>(biased) : 0;
      if (stored > kMxfp4ScaleMax) stored = kMxfp4ScaleMax;
      return {std::bit_cast<float>(stored == 0 ? 0x00400000u : stored << 23), stored};
    }
  }
}

// The nearest e4m3 number, ties to even, at most 448; for |x| >= 2^-6 by rounding the float's
// mantissa to three bits, below in steps of 2^-9.
CONCLAVE_HOST_DEVICE inline uint32_t E4m3Code(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (!(magnitude < 0x43e00000u)) return sign | 0x7eu;  // 448 and beyond
  if (magnitude < 0x3c800000u) {
    return sign | static_cast<uint32_t>(rintf(std::bit_cast<float>(magnitude) * 512.0f));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return sign | ((rounded >> 20) - ((127 - 7) << 3));
}

// The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, ties to the even code, with its sign.
CONCLAVE_HOST_DEVICE inline uint32_t E2m1Code(float x) {
  const float a = fabsf(x);
  const int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) +
                   (a >= 3.5f) + (a > 5.0f);
  return static_cast<uint32_t>(code) | (x < 0 && code != 0 ? 8u : 0u);
}

// bitsandbytes' table, in fp32; fragments hold it rounded to bf16.
CONCLAVE_HOST_DEVICE constexpr float Nf4Value(int code) {
  constexpr float kValues[16] = {-1.0f,
                                 -0.6961928009986877f,
                                 -0.5250730514526367f,
                                 -0.39491748809814453f,
                                 -0.28444138169288635f,
                                 -0.18477343022823334f,
                                 -0.09105003625154495f,
                                 0.0f,
                                 0.07958029955625534f,
                                 0.16093020141124725f,
                                 0.24611230194568634f,
                                 0.33791524171829224f,
                                 0.44070982933044434f,
                                 0.5626170039176941f,
                                 0.7229568362236023f,
                                 1.0f};
  return kValues[code];
}

CONCLAVE_HOST_DEVICE inline uint32_t Nf4Code(float x) {
  uint32_t code = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int i = 0; i < 15; ++i) code += x > (Nf4Value(i) + Nf4Value(i + 1)) * 0.5f;
  return code;
}

// The code of 0.0.
CONCLAVE_HOST_DEVICE constexpr uint32_t ZeroCode(WeightFormat format) {
  return format == WeightFormat::kNf4 ? 7 : 0;
}

// The code of `value` in a group of this divisor. NaN becomes some code.
CONCLAVE_HOST_DEVICE inline uint32_t CodeOf(WeightFormat format, float value, float divisor) {
  if (divisor == 0) return ZeroCode(format);
  const float x = value / divisor;
  switch (format) {
    case WeightFormat::kFp8:
      return E4m3Code(x);
    case WeightFormat::kInt8: {
      const int q = static_cast<int>(fminf(fmaxf(rintf(x), -127.0f), 127.0f));
      return static_cast<uint32_t>(q < 0 ? 0x80 - q : q);
    }
    case WeightFormat::kInt4:
      return static_cast<uint32_t>(static_cast<int>(fminf(fmaxf(rintf(x), -7.0f), 7.0f))) & 15;
    case WeightFormat::kNf4:
      return Nf4Code(x);
    default:
      return E2m1Code(x);
  }
}

}  // namespace conclave
