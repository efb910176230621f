// How rows of the MoE exchange travel: as floats, or rounded to fewer bytes with scales of their
// own. One row: kF32 floats; kBf16 bfloat16; kInt8 one float scale, then a byte an element; kFp8
// one float scale for each kFp8Group elements, then a byte an element (e4m3 of the OCP 8-bit
// floating point specification, 1.0: bias 7, largest 448, no infinity). Native byte order, nothing
// aligned. Pure functions; any thread.
#pragma once

#include <cstdint>

#include "comm/types/parallel_plan.h"

namespace conclave {

inline constexpr int kFp8Group = 128;
// Scaled values are multiples of these fractions of the largest of their row or group.
inline constexpr float kInt8Max = 127;
inline constexpr float kFp8Max = 448;
// Rows or groups without a larger magnitude travel as zeros: their scales would lose bits.
inline constexpr float kPayloadTiny = 0x1p-110f;

// The format of a row of `hidden` elements.
struct RowFormat {
  // Implicit: a bare width means floats.
  constexpr RowFormat(int hidden, PayloadFormat payload = PayloadFormat::kF32)
      : hidden(hidden), payload(payload) {}
  int hidden;
  PayloadFormat payload;

  bool exact() const { return payload == PayloadFormat::kF32; }
  int64_t bytes() const;
};

// row: [hidden] floats; bytes: format.bytes() of them. Errors of an element x: bf16 |x| 2^-8; int8
// half of max / 127, max the largest magnitude of the row; fp8 |x| / 16, or max / 448 / 1024 where
// that is more. NaN and infinity stay what they are in bf16; in int8 and fp8 they make the whole
// row or group NaN, so that they never pass for numbers.
void EncodeRow(const RowFormat& format, const float* row, uint8_t* bytes);
void DecodeRow(const RowFormat& format, const uint8_t* bytes, float* row);

// The same, obviously right and slow: every element's nearest value is searched.
void EncodeRowRef(const RowFormat& format, const float* row, uint8_t* bytes);
void DecodeRowRef(const RowFormat& format, const uint8_t* bytes, float* row);

}  // namespace conclave
