// The bytes of a 16 x 64 weight tile in every WeightFormat, and from them the sizes of matrices.
// Plain formats lie as kernels/cuda/weight_tiles.h says. A quantised tile is a payload, then the
// tile's scales, so that one contiguous copy brings both:
//   payload  [part][lane 0..31][16 bytes], part < 1 (4-bit codes) or 2 (8-bit codes): what a lane
//            needs for its A fragments of mma.m16n8k16, read without bank conflicts by 16-byte
//            loads. Lane 4 g + t holds rows g and g + 8, of each run of 16 inputs those at 2t,
//            2t + 1, 2t + 8 and 2t + 9. Every 32-bit word holds codes of one row only: rows are
//            packed one by one, in any order, and no byte has two writers.
//   scales   [g 0..7][scale group of the tile][row g, row g + 8]: fp32 for 8-bit codes, bf16 for
//            int4 and nf4, the e8m0 byte for mxfp4.
// weight = value of the code * FragmentUnit(format) * stored scale: the unit, a power of two, lets
// dequant.cuh spend fewer instructions on a weight. A tile of zero bytes is a tile of zeros in
// every format. Values and pure functions for host and device; any thread.
#pragma once

#include <cstdint>

#include "kernels/cuda/weight_tiles.h"

namespace conclave {

inline constexpr int kMxfp4Group = 32;
inline constexpr int kMatrixAlignment = 1024;

CONCLAVE_HOST_DEVICE constexpr bool IsQuantised(WeightFormat format) {
  return static_cast<int>(format) >= static_cast<int>(WeightFormat::kFp8);
}

// Bits of a code or element.
CONCLAVE_HOST_DEVICE constexpr int CodeBits(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return 32;
    case WeightFormat::kBf16:
    case WeightFormat::kF16:
      return 16;
    case WeightFormat::kFp8:
    case WeightFormat::kInt8:
      return 8;
    default:
      return 4;
  }
}

// Bytes of a stored scale; 0 for plain formats.
CONCLAVE_HOST_DEVICE constexpr int ScaleBytes(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFp8:
    case WeightFormat::kInt8:
      return 4;
    case WeightFormat::kInt4:
    case WeightFormat::kNf4:
      return 2;
    case WeightFormat::kMxfp4:
      return 1;
    default:
      return 0;
  }
}

// The group that a matrix of this format gets when `requested` is asked for: 0 for plain formats,
// 32 for mxfp4 whatever is asked for, and the format's usual group for 0. Groups of 64 take no
// more memory than larger ones, since each tile has its scales; fp8 has DeepSeek-V3's 128.
CONCLAVE_HOST_DEVICE constexpr int32_t QuantGroup(WeightFormat format, int32_t requested) {
  if (!IsQuantised(format)) return 0;
  if (format == WeightFormat::kMxfp4) return kMxfp4Group;
  if (requested != 0) return requested;
  return format == WeightFormat::kFp8 ? 128 : 64;
}

// Whether `group` is one that tiles of this format can have.
CONCLAVE_HOST_DEVICE constexpr bool IsQuantGroup(WeightFormat format, int32_t group) {
  if (!IsQuantised(format)) return group == 0;
  if (format == WeightFormat::kMxfp4) return group == kMxfp4Group;
  return group == 32 || group == 64 || group == 128 || group == 256;
}

// Scales of one row of a tile: 2 for groups of 32, 1 for larger ones, which repeat theirs in each
// tile; 0 for plain formats.
CONCLAVE_HOST_DEVICE constexpr int ScaleGroups(WeightFormat format, int32_t group) {
  if (!IsQuantised(format)) return 0;
  return group < kTileInputs ? kTileInputs / group : 1;
}

CONCLAVE_HOST_DEVICE constexpr int PayloadBytes(WeightFormat format) {
  return kTileElements * CodeBits(format) / 8;
}

// Bytes of a tile, a multiple of 16: bf16 and f16 2048, f32 4096, fp8 and int8 1088 (groups of 32:
// 1152), int4 and nf4 544 (groups of 32: 576), mxfp4 544.
CONCLAVE_HOST_DEVICE constexpr int TileBytes(WeightFormat format, int32_t group) {
  return PayloadBytes(format) + kTileOutputs * ScaleGroups(format, group) * ScaleBytes(format);
}

// Bytes from one run of 16 outputs to the next: their tiles stand side by side along the inputs.
CONCLAVE_HOST_DEVICE inline int64_t RowGroupBytes(const WeightView& view) {
  return int64_t{view.input_tiles()} * TileBytes(view.format, view.group);
}

// Bytes of one matrix; what matrix_bytes of a view of contiguous matrices is set to. Rounded up
// so that each matrix keeps the alignment of the first.
CONCLAVE_HOST_DEVICE inline int64_t MatrixBytes(const WeightView& view) {
  const int64_t bytes = view.output_tiles() * RowGroupBytes(view);
  return (bytes + kMatrixAlignment - 1) / kMatrixAlignment * kMatrixAlignment;
}

// ---- a quantised tile

// Where the code of (row, column) of a tile lies: the byte offset of its word, which of the word's
// pairs of neighbouring columns it is in, and whether it is the pair's second. 8-bit words hold the
// pairs 2t and 2t + 8 of one run of 16 columns; 4-bit words those of two runs.
struct CodePlace {
  int word = 0;  // bytes from the start of the tile
  int pair = 0;  // 0..1 of 8-bit codes, 0..3 of 4-bit codes
  int second = 0;
};

CONCLAVE_HOST_DEVICE constexpr CodePlace PlaceOf(WeightFormat format, int row, int column) {
  const int lane = row % 8 * 4 + column % 8 / 2;
  const int half = row / 8;
  const int run = column / 16;
  const int upper = column / 8 % 2;
  if (CodeBits(format) == 8) {
    return {run / 2 * 512 + lane * 16 + (run % 2 * 2 + half) * 4, upper, column % 2};
  }
  return {lane * 16 + (run / 2 * 2 + half) * 4, run % 2 * 2 + upper, column % 2};
}

// Byte offset in a tile of the scale of `row` for its columns [scale_group * 32, + 32), or for all
// 64 when groups are larger.
CONCLAVE_HOST_DEVICE constexpr int ScaleOffset(WeightFormat format, int32_t group, int row,
                                               int scale_group) {
  const int index = row % 8 * 2 * ScaleGroups(format, group) + scale_group * 2 + row / 8;
  return PayloadBytes(format) + index * ScaleBytes(format);
}

// fragment / value of the code; of mxfp4, whose fragments hold the scale, fragment / weight (its
// stored scale is the plain e8m0 scale). int8 and
// int4 are read as bf16 numbers with a small exponent, and one multiplication cannot bring them all
// the way up; for mxfp4 it is the middle of what scales may be, 2^-100 to 2^33.
CONCLAVE_HOST_DEVICE constexpr float FragmentUnit(WeightFormat format) {
  if (format == WeightFormat::kInt8) return 0x1p-6f;
  if (format == WeightFormat::kMxfp4) return 0x1p-32f;
  return format == WeightFormat::kInt4 ? 0x1p-2f : 1.0f;
}
// The largest e8m0 byte stored; below 27 fragments lose bits, then are zeros.
inline constexpr uint32_t kMxfp4ScaleMax = 160;

// ---- codes in a word. A code is: fp8 the e4m3 byte; int8 sign and magnitude (-127..127), the sign
// in bit 7; int4 two's complement (-8..7); nf4 bitsandbytes' index; mxfp4 the e2m1 nibble. Bits are
// spread so that one mask of the word, or of the word rotated by a byte, leaves both numbers of a
// pair as bf16: sign in bits 15 and 31, mantissa or exponent where bf16 has them.

// nf4 codes are stored renamed: 0.0 is 0, and codes i and i + 8 have values whose bf16 bytes agree
// in their top bits, as the table look-up of dequant.cuh needs. Nibble i of these is the name of
// code i, and the code of name i.
inline constexpr uint64_t kNf4NameOfCode = 0xdf75ce640b83a912u;
inline constexpr uint64_t kNf4CodeOfName = 0xeafb6325d9c84017u;

CONCLAVE_HOST_DEVICE constexpr uint32_t SwapHalves(uint32_t word) {
  return word << 16 | word >> 16;
}

namespace quant_tiles_internal {

// Of the pair's first number; the second lies 16 bits further round the word (nf4: 4 bits on).
CONCLAVE_HOST_DEVICE constexpr uint32_t SpreadFirst(WeightFormat format, int pair, uint32_t code) {
  switch (format) {
    case WeightFormat::kFp8:
      if (pair == 0) return (code & 0x7f) << 4 | (code & 0x80) << 8;
      return (code & 0x07) << 12 | (code & 0x08) << 8 | (code & 0xf0) << 12;
    case WeightFormat::kInt8:
      if (pair == 0) return (code & 0x7f) | (code & 0x80) << 8;
      return (code & 0x7f) << 8 | (code & 0x80) << 16;
    case WeightFormat::kInt4: {
      const uint32_t low = (code & 8) != 0 ? ~code & 7 : code & 7;
      if (pair == 1) return low << 4 | (code & 8) << 12;
      if (pair == 3) return low << 12 | (code & 8) << 20;
      return pair == 0 ? code : code << 8;
    }
    case WeightFormat::kMxfp4: {
      const uint32_t low = code & 7, sign = code & 8;
      if (pair == 0) return low << 6 | sign << 12;
      if (pair == 1) return low | sign << 6;
      return pair == 2 ? low << 3 | sign << 10 : low << 10 | sign << 11;
    }
    default:
      return static_cast<uint32_t>(kNf4NameOfCode >> (4 * code) & 15) << (8 * pair);
  }
}

CONCLAVE_HOST_DEVICE constexpr uint32_t GatherFirst(WeightFormat format, int pair, uint32_t w) {
  switch (format) {
    case WeightFormat::kFp8:
      if (pair == 0) return (w >> 4 & 0x7f) | (w >> 8 & 0x80);
      return (w >> 12 & 0x07) | (w >> 8 & 0x08) | (w >> 12 & 0xf0);
    case WeightFormat::kInt8:
      return pair == 0 ? (w & 0x7f) | (w >> 8 & 0x80) : (w >> 8 & 0x7f) | (w >> 16 & 0x80);
    case WeightFormat::kInt4: {
      if (pair == 0 || pair == 2) return w >> (4 * pair) & 15;
      const uint32_t sign = (pair == 1 ? w >> 12 : w >> 20) & 8;
      const uint32_t low = (pair == 1 ? w >> 4 : w >> 12) & 7;
      return sign != 0 ? sign | (~low & 7) : low;
    }
    case WeightFormat::kMxfp4:
      if (pair == 0) return (w >> 6 & 7) | (w >> 12 & 8);
      if (pair == 1) return (w & 7) | (w >> 6 & 8);
      return pair == 2 ? (w >> 3 & 7) | (w >> 10 & 8) : (w >> 10 & 7) | (w >> 11 & 8);
    default:
      return static_cast<uint32_t>(kNf4CodeOfName >> (4 * (w >> (8 * pair) & 15)) & 15);
  }
}

}  // namespace quant_tiles_internal

// The bits that a code sets in its word; a word is the OR of its codes' bits.
CONCLAVE_HOST_DEVICE constexpr uint32_t SpreadCode(WeightFormat format, int pair, int second,
                                                   uint32_t code) {
  const uint32_t first = quant_tiles_internal::SpreadFirst(format, pair, code);
  if (second == 0) return first;
  return format == WeightFormat::kNf4 ? first << 4 : SwapHalves(first);
}

CONCLAVE_HOST_DEVICE constexpr uint32_t GatherCode(WeightFormat format, int pair, int second,
                                                   uint32_t word) {
  if (second != 0) word = format == WeightFormat::kNf4 ? word >> 4 : SwapHalves(word);
  return quant_tiles_internal::GatherFirst(format, pair, word);
}

}  // namespace conclave
