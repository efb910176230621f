#include "comm/exchange/payload.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// What maps a row or group to its steps and back.
struct Scale {
  float step = 0;     // value of one step; NaN: the values are not all numbers
  float inverse = 0;  // 1 / step; 0 when the values travel as zeros
};

Scale ScaleOf(const float* values, int count, float largest_step) {
  uint32_t largest = 0;  // of the magnitudes' bits, which order like the magnitudes, NaN above all
  for (int i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  }
  const float magnitude = std::bit_cast<float>(largest);
  if (largest >= 0x7f800000u) return {kNan, 0};
  if (magnitude < kPayloadTiny) return {0, 0};
  float step = magnitude / largest_step;
  // Rounded up it may take the largest floats beyond their range.
  if (!std::isfinite(step * largest_step)) step = std::nextafter(step, 0.0f);
  return {step, largest_step / magnitude};
}

// FloatToBf16 of comm/base/dtype.h, without a branch or a call so that loops become vectors.
uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(nan ? (bits >> 16) | 0x40u : rounded);
}

// Nearest integer, ties to even, of |value| < 2^22: the sum's last bit weighs 1.
int32_t Nearest(float value) {
  constexpr float kShift = 0x1.8p23f;
  return std::bit_cast<int32_t>(value + kShift) - std::bit_cast<int32_t>(kShift);
}

// e4m3 of a magnitude up to 448 and rounding error, ties to even.
uint8_t ToE4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal: 3 of the 23 bits of the mantissa stay, the bias of the exponent goes from 127 to 7.
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  const uint32_t normal = (rounded >> 20) - (120u << 3);
  // Below 2^-6: the last bit of the sum weighs 2^-9.
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) -
                         std::bit_cast<uint32_t>(0x1p14f);
  const uint32_t code = magnitude < 0x3c800000u ? small : normal;
  return static_cast<uint8_t>((bits >> 24 & 0x80u) | std::min(code, 0x7eu));
}

float FromE4m3(uint8_t code) {
  // The fields one place further up make a float that is 2^120 too small, subnormal or not.
  const uint32_t bits = static_cast<uint32_t>(code & 0x7fu) << 20;
  const float value = std::bit_cast<float>(bits) * 0x1p120f;
  const float signed_value = (code & 0x80u) != 0 ? -value : value;
  return (code & 0x7fu) == 0x7fu ? kNan : signed_value;
}

void EncodeInt8(const float* values, int count, uint8_t* scale, uint8_t* codes) {
  const Scale s = ScaleOf(values, count, kInt8Max);
  std::memcpy(scale, &s.step, sizeof(float));
  if (s.inverse == 0) {
    std::memset(codes, 0, count);
    return;
  }
  for (int i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(Nearest(values[i] * s.inverse));
}

void DecodeInt8(const uint8_t* scale, const uint8_t* codes, int count, float* values) {
  float step;
  std::memcpy(&step, scale, sizeof(step));
  for (int i = 0; i < count; ++i) {
    values[i] = static_cast<float>(static_cast<int8_t>(codes[i])) * step;
  }
}

void EncodeFp8(const float* values, int count, uint8_t* scale, uint8_t* codes) {
  const Scale s = ScaleOf(values, count, kFp8Max);
  std::memcpy(scale, &s.step, sizeof(float));
  if (s.inverse == 0) {
    std::memset(codes, 0, count);
    return;
  }
  for (int i = 0; i < count; ++i) codes[i] = ToE4m3(values[i] * s.inverse);
}

void DecodeFp8(const uint8_t* scale, const uint8_t* codes, int count, float* values) {
  float step;
  std::memcpy(&step, scale, sizeof(step));
  for (int i = 0; i < count; ++i) values[i] = FromE4m3(codes[i]) * step;
}

int Groups(int hidden) { return (hidden + kFp8Group - 1) / kFp8Group; }

// Calls f(values, count, scale, codes) for each group of an fp8 row.
template <typename Values, typename Bytes, typename Function>
void ForGroups(int hidden, Values* values, Bytes* bytes, const Function& f) {
  const int groups = Groups(hidden);
  for (int g = 0; g < groups; ++g) {
    const int begin = g * kFp8Group;
    f(values + begin, std::min(kFp8Group, hidden - begin), bytes + g * sizeof(float),
      bytes + groups * sizeof(float) + begin);
  }
}

}  // namespace

int64_t RowFormat::bytes() const {
  const int64_t n = hidden;
  switch (payload) {
    case PayloadFormat::kF32:
      return n * static_cast<int64_t>(sizeof(float));
    case PayloadFormat::kBf16:
      return n * static_cast<int64_t>(sizeof(uint16_t));
    case PayloadFormat::kInt8:
      return static_cast<int64_t>(sizeof(float)) + n;
    case PayloadFormat::kFp8:
      return Groups(hidden) * static_cast<int64_t>(sizeof(float)) + n;
  }
  LOG(FATAL) << "no such payload format: " << static_cast<int>(payload);
}

void EncodeRow(const RowFormat& format, const float* row, uint8_t* bytes) {
  switch (format.payload) {
    case PayloadFormat::kF32:
      std::memcpy(bytes, row, format.bytes());
      return;
    case PayloadFormat::kBf16:
      for (int i = 0; i < format.hidden; ++i) {
        const uint16_t rounded = ToBf16(row[i]);
        std::memcpy(bytes + 2 * i, &rounded, sizeof(rounded));
      }
      return;
    case PayloadFormat::kInt8:
      EncodeInt8(row, format.hidden, bytes, bytes + sizeof(float));
      return;
    case PayloadFormat::kFp8:
      ForGroups(format.hidden, row, bytes, EncodeFp8);
      return;
  }
  LOG(FATAL) << "no such payload format: " << static_cast<int>(format.payload);
}

void DecodeRow(const RowFormat& format, const uint8_t* bytes, float* row) {
  switch (format.payload) {
    case PayloadFormat::kF32:
      std::memcpy(row, bytes, format.bytes());
      return;
    case PayloadFormat::kBf16:
      for (int i = 0; i < format.hidden; ++i) {
        uint16_t rounded;
        std::memcpy(&rounded, bytes + 2 * i, sizeof(rounded));
        row[i] = std::bit_cast<float>(static_cast<uint32_t>(rounded) << 16);
      }
      return;
    case PayloadFormat::kInt8:
      DecodeInt8(bytes, bytes + sizeof(float), format.hidden, row);
      return;
    case PayloadFormat::kFp8:
      ForGroups(format.hidden, row, bytes,
                [](float* values, int count, const uint8_t* scale, const uint8_t* codes) {
                  DecodeFp8(scale, codes, count, values);
                });
      return;
  }
  LOG(FATAL) << "no such payload format: " << static_cast<int>(format.payload);
}

}  // namespace conclave
