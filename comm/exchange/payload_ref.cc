// The reference of payload.h: values of a format are listed, and the nearest is taken.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "comm/base/dtype.h"
#include "comm/exchange/payload.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// The value of a code, in steps; NaN when the code stands for none.
double StepsOf(PayloadFormat payload, int code) {
  if (payload == PayloadFormat::kInt8) {
    return code == -128 ? kNan : code;  // -128 would make the range lopsided
  }
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return kNan;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 128) != 0 ? -magnitude : magnitude;
}

// The code whose value is nearest; of two equally near ones the even. The sign of zero is kept
// where the format has one.
int NearestCode(PayloadFormat payload, double steps) {
  const int first = payload == PayloadFormat::kInt8 ? -127 : 0;
  const int last = payload == PayloadFormat::kInt8 ? 127 : 255;
  int best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int code = first; code <= last; ++code) {
    const double value = StepsOf(payload, code);
    const bool other_sign =
        payload == PayloadFormat::kFp8 && std::signbit(value) != std::signbit(steps);
    if (std::isnan(value) || other_sign) continue;
    const double distance = std::fabs(value - steps);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = code;
      best_distance = distance;
    }
  }
  return best;
}

// One scale and its codes.
void EncodeGroup(PayloadFormat payload, const float* values, int count, uint8_t* scale,
                 uint8_t* codes) {
  const float steps = payload == PayloadFormat::kInt8 ? kInt8Max : kFp8Max;
  float largest = 0;
  bool numbers = true;
  for (int i = 0; i < count; ++i) {
    numbers = numbers && std::isfinite(values[i]);
    largest = std::max(largest, std::fabs(values[i]));
  }
  const bool zeros = !numbers || largest < kPayloadTiny;
  float step = !numbers ? static_cast<float>(kNan) : zeros ? 0 : largest / steps;
  if (numbers && std::isinf(step * steps)) step = std::nextafter(step, 0.0f);
  std::memcpy(scale, &step, sizeof(step));
  for (int i = 0; i < count; ++i) {
    // Rounded to float like the fast path: steps / largest and the product.
    const float scaled = zeros ? 0 : values[i] * (steps / largest);
    codes[i] = static_cast<uint8_t>(zeros ? 0 : NearestCode(payload, scaled));
  }
}

void DecodeGroup(PayloadFormat payload, const uint8_t* scale, const uint8_t* codes, int count,
                 float* values) {
  float step;
  std::memcpy(&step, scale, sizeof(step));
  for (int i = 0; i < count; ++i) {
    const bool integer = payload == PayloadFormat::kInt8;
    const int code = integer ? static_cast<int8_t>(codes[i]) : codes[i];
    const double steps = integer ? code : StepsOf(payload, code);
    values[i] = static_cast<float>(steps) * step;
  }
}

int GroupSize(const RowFormat& format) {
  return format.payload == PayloadFormat::kInt8 ? format.hidden : kFp8Group;
}

}  // namespace

void EncodeRowRef(const RowFormat& format, const float* row, uint8_t* bytes) {
  if (format.payload == PayloadFormat::kF32) {
    std::memcpy(bytes, row, format.hidden * sizeof(float));
    return;
  }
  if (format.payload == PayloadFormat::kBf16) {
    for (int i = 0; i < format.hidden; ++i) {
      const uint16_t value = FloatToBf16(row[i]);
      std::memcpy(bytes + i * sizeof(value), &value, sizeof(value));
    }
    return;
  }
  const int size = GroupSize(format);
  const int groups = (format.hidden + size - 1) / size;
  for (int g = 0; g < groups; ++g) {
    EncodeGroup(format.payload, row + g * size, std::min(size, format.hidden - g * size),
                bytes + g * sizeof(float), bytes + groups * sizeof(float) + g * size);
  }
}

void DecodeRowRef(const RowFormat& format, const uint8_t* bytes, float* row) {
  if (format.payload == PayloadFormat::kF32) {
    std::memcpy(row, bytes, format.hidden * sizeof(float));
    return;
  }
  if (format.payload == PayloadFormat::kBf16) {
    for (int i = 0; i < format.hidden; ++i) {
      uint16_t value;
      std::memcpy(&value, bytes + i * sizeof(value), sizeof(value));
      row[i] = Bf16ToFloat(value);
    }
    return;
  }
  const int size = GroupSize(format);
  const int groups = (format.hidden + size - 1) / size;
  for (int g = 0; g < groups; ++g) {
    const uint8_t* codes = bytes + groups * sizeof(float) + g * size;
    DecodeGroup(format.payload, bytes + g * sizeof(float), codes,
                std::min(size, format.hidden - g * size), row + g * size);
  }
}

}  // namespace conclave
