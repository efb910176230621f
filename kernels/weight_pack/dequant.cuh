// From the codes of a quantised tile (quant_tiles.h) to the bf16 A fragments of mma.m16n8k16, in
// registers. Conversions are exact: weight = fragment * RowScale, so the sums of a scale group are
// multiplied once, in fp32; mxfp4 fragments hold their group's power of two already, and their
// RowScale is one constant for all sums. Instructions for a word (4 weights of 8 bits, 8 of 4
// bits), besides loads: int8 5, fp8 7, int4 9, mxfp4 15 and 2 for each row and group, nf4 19, or 12
// and 4 loads with its table. fp8 NaN codes (0x7f, 0xff) read as +-480; a packer never stores
// them. Device code only; tiles lie in shared memory, 16-byte aligned.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {
namespace dequant_internal {

// PRMT with all of its modes: a selector of 8 + i repeats the sign of byte i.
__device__ __forceinline__ uint32_t Permute(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
  return r;
}
// (word & mask) ^ flip in one instruction.
template <uint32_t kMask, uint32_t kFlip>
__device__ __forceinline__ uint32_t MaskFlip(uint32_t word) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0x78;" : "=r"(r) : "r"(kFlip), "r"(word), "r"(kMask));
  return r;
}
// (word & mask) | rest in one instruction.
template <uint32_t kMask>
__device__ __forceinline__ uint32_t MaskOr(uint32_t word, uint32_t rest) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xf8;" : "=r"(r) : "r"(rest), "r"(word), "r"(kMask));
  return r;
}
__device__ __forceinline__ uint32_t RotateByte(uint32_t word) {
  return Permute(word, word, 0x0321);
}
__device__ __forceinline__ uint32_t Multiply2(uint32_t pair, uint32_t factors) {
  uint32_t r;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(pair), "r"(factors));
  return r;
}
// Both halves times a power of two, given as the bits of a bf16 number.
template <uint32_t kFactor>
__device__ __forceinline__ uint32_t Scale2(uint32_t pair) {
  return Multiply2(pair, kFactor << 16 | kFactor);
}
template <uint32_t kFactor, uint32_t kAddend>
__device__ __forceinline__ uint32_t ScaleAdd2(uint32_t pair) {
  uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(r)
      : "r"(pair), "r"(kFactor << 16 | kFactor), "r"(kAddend << 16 | kAddend));
  return r;
}

// The numbers k, k + 1 and k + 8, k + 9 of a row, as bf16 pairs.
struct RowPairs {
  uint32_t lower, upper;
};

// Each format converts a word's numbers of one run of 16 inputs: of 8-bit codes all, of 4-bit codes
// those of run `odd`. `factor` is of mxfp4 only.
template <WeightFormat kFormat>
__device__ __forceinline__ RowPairs Convert(uint32_t word, int odd, uint32_t factor);

// mmm and eeee land where bf16 has the top of its mantissa and the end of its exponent; 2^120
// makes up for the difference of the biases. Subnormals come out right by the same product.
template <>
__device__ __forceinline__ RowPairs Convert<WeightFormat::kFp8>(uint32_t word, int, uint32_t) {
  const uint32_t lower = word & 0x87f087f0u;
  const uint32_t rest = __funnelshift_r(word, word, 4) & 0x80808080u;
  const uint32_t upper = MaskOr<0x07700770u>(RotateByte(word), rest);
  return {Scale2<0x7b80>(lower), Scale2<0x7b80>(upper)};
}

// A magnitude in the mantissa of a bf16 number with exponent 0 weighs 2^-133.
template <>
__device__ __forceinline__ RowPairs Convert<WeightFormat::kInt8>(uint32_t word, int, uint32_t) {
  return {Scale2<0x7f00>(word & 0x807f807fu), Scale2<0x7f00>(RotateByte(word) & 0x807f807fu)};
}

// Pairs 0 and 2 are a mantissa of 128 + 8 + v: times 2^-2, less 34, is v / 4. Pairs 1 and 3 are
// +-(2 m + 1) * 2^-130, v or -v - 1 being m: times 2^127, less 1/8, is v / 4.
template <>
__device__ __forceinline__ RowPairs Convert<WeightFormat::kInt4>(uint32_t word, int odd, uint32_t) {
  if (odd != 0) word = RotateByte(word);
  const uint32_t lower = MaskFlip<0x000f000fu, 0x43084308u>(word);
  const uint32_t upper = MaskOr<0x80708070u>(word, 0x00080008u);
  return {ScaleAdd2<0x3e80, 0xc208>(lower), ScaleAdd2<0x7f00, 0xbe00>(upper)};
}

// Two look-ups of 8 bytes, one for each top bit of the name: the one that does not apply gives 0 or
// 0xff, which the other's entries allow for. First the low bytes of four numbers, then the high.
template <>
__device__ __forceinline__ RowPairs Convert<WeightFormat::kNf4>(uint32_t word, int odd, uint32_t) {
  uint32_t flipped = word ^ 0x88888888u;
  if (odd != 0) {
    word >>= 16;
    flipped >>= 16;
  }
  const uint32_t low =
      Permute(0x92803200u, 0x1025e2a3u, word) ^ Permute(0x4535063du, 0x397c7f52u, flipped);
  const uint32_t high =
      Permute(0xbebfbf80u, 0x3f3e3e3du, word) ^ Permute(0x42414041u, 0x3f3e3f3eu, flipped);
  return {Permute(low, high, 0x5140), Permute(low, high, 0x7362)};
}

// s at 15, ee at the end of the exponent, m at the top of the mantissa. The factor makes up for the
// biases, 2^126, and is the group's scale at once.
template <>
__device__ __forceinline__ RowPairs Convert<WeightFormat::kMxfp4>(uint32_t word, int odd,
                                                                  uint32_t factor) {
  uint32_t lower, upper;
  if (odd == 0) {
    lower = word & 0x81c081c0u;
    upper = word << 6 & 0x81c081c0u;
  } else {
    lower = MaskOr<0x80008000u>(word << 2, word << 3 & 0x01c001c0u);
    upper = MaskOr<0x80008000u>(word << 1, word >> 4 & 0x01c001c0u);
  }
  return {Multiply2(lower, factor), Multiply2(upper, factor)};
}

}  // namespace dequant_internal

// A tile of `kFormat` with kScaleGroups scales a row: 2 for groups of 32, else 1.
template <WeightFormat kWeightFormat, int kGroups>
struct QuantTile {
  static constexpr WeightFormat kFormat = kWeightFormat;
  static constexpr int kScaleGroups = kGroups;
  static constexpr int kGroup = kTileInputs / kGroups;  // of the groups that such tiles serve
  static constexpr int kTileBytes = TileBytes(kFormat, kGroup);
  static constexpr int kParts = CodeBits(kFormat) / 4;
  // Where fragments hold their scales, RowScale is 1 / FragmentUnit everywhere: one sum can run
  // over all inputs and be multiplied at its end. Otherwise each of the kSumGroups equal parts of
  // a tile has sums of its own.
  static constexpr bool kScaledFragments = kFormat == WeightFormat::kMxfp4;
  static constexpr int kSumGroups = kScaledFragments ? 1 : kGroups;
  static_assert(IsQuantised(kFormat) && ScaleGroups(kFormat, kGroup) == kGroups);

  // All codes of a lane, for four steps of 16 inputs; and, of scaled fragments, their factors as
  // bf16 pairs, [group][row g, row g + 8].
  struct Codes {
    uint4 part[kParts];
    uint32_t factor[kScaledFragments ? 4 : 1];
  };
  static __device__ __forceinline__ Codes LoadCodes(const uint8_t* tile, int lane) {
    Codes codes;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      codes.part[p] = reinterpret_cast<const uint4*>(tile)[p * 32 + lane];
    }
    codes.factor[0] = 0;
    if constexpr (kScaledFragments) {
      const uint32_t scales =
          *reinterpret_cast<const uint32_t*>(tile + ScaleOffset(kFormat, kGroup, lane / 4, 0));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // 2^(126 - 32 + scale - 127), in both halves.
        codes.factor[i] =
            dequant_internal::Permute(scales, 0, 0x4440 + i) * 0x00800080u + (94u << 7) * 0x10001u;
      }
    }
    return codes;
  }

  // a: inputs [16 * step, + 16) of the tile; step 0..3, known when compiled.
  static __device__ __forceinline__ void Fragment(const Codes& codes, int step, uint32_t (&a)[4]) {
    const int group = kScaledFragments ? step / 2 * 2 : 0;
    const auto g =
        dequant_internal::Convert<kFormat>(Word(codes, step, 0), step % 2, codes.factor[group]);
    const auto h = dequant_internal::Convert<kFormat>(
        Word(codes, step, 1), step % 2, codes.factor[kScaledFragments ? group + 1 : 0]);
    a[0] = g.lower;
    a[1] = h.lower;
    a[2] = g.upper;
    a[3] = h.upper;
  }

  static __device__ __forceinline__ void LoadFragment(const uint8_t* tile, int lane, int step,
                                                      uint32_t (&a)[4]) {
    Fragment(LoadCodes(tile, lane), step, a);
  }

  // What sums of `row` over part 0..kSumGroups - 1 of the tile are multiplied by.
  static __device__ __forceinline__ float RowScale(const uint8_t* tile, int row, int sum_group) {
    if constexpr (kScaledFragments) return 1 / FragmentUnit(kFormat);
    const uint8_t* scale = tile + ScaleOffset(kFormat, kGroup, row, sum_group);
    if constexpr (ScaleBytes(kFormat) == 4) return *reinterpret_cast<const float*>(scale);
    return __uint_as_float(uint32_t{*reinterpret_cast<const uint16_t*>(scale)} << 16);
  }

  // Of rows g and g + 8 of lane 4 g + t, by one load: what a lane multiplies its sums by.
  static __device__ __forceinline__ float2 LaneScales(const uint8_t* tile, int lane,
                                                      int sum_group) {
    constexpr float kConstant = 1 / FragmentUnit(kFormat);
    if constexpr (kScaledFragments) return make_float2(kConstant, kConstant);
    const uint8_t* scales = tile + ScaleOffset(kFormat, kGroup, lane / 4, sum_group);
    if constexpr (ScaleBytes(kFormat) == 4) return *reinterpret_cast<const float2*>(scales);
    const uint32_t both = *reinterpret_cast<const uint32_t*>(scales);
    return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
  }

 protected:
  // Words: [even step, odd step] of 8-bit codes, [steps 0 and 1, steps 2 and 3] of 4-bit codes,
  // each [row g, row g + 8].
  static __device__ __forceinline__ uint32_t Word(const Codes& codes, int step, int half) {
    uint4 part = codes.part[0];
    if constexpr (kParts == 2) part = codes.part[step / 2];
    const bool later = kParts == 2 ? step % 2 != 0 : step >= 2;
    if (half == 0) return later ? part.z : part.x;
    return later ? part.w : part.y;
  }
};

// nf4 by a table in shared memory of two numbers for each byte, one copy for each lane so that
// look- ups never meet in a bank: fewer instructions, for a block that has the room.
template <int kGroups>
struct Nf4TableTile : QuantTile<WeightFormat::kNf4, kGroups> {
  using Tile = QuantTile<WeightFormat::kNf4, kGroups>;
  static constexpr int kTableBytes = 256 * 32 * 4;  // [byte][lane], 128-byte aligned

  // By `threads` threads, before a barrier.
  static __device__ __forceinline__ void FillTable(uint8_t* table, int thread, int threads) {
    for (int i = thread; i < kTableBytes / 4; i += threads) {
      reinterpret_cast<uint32_t*>(table)[i] =
          dequant_internal::Convert<WeightFormat::kNf4>(i / 32, 0, 0).lower;
    }
  }

  static __device__ __forceinline__ void Fragment(const typename Tile::Codes& codes,
                                                  const uint8_t* table, int lane, int step,
                                                  uint32_t (&a)[4]) {
    const uint8_t* const copy = table + lane * 4;
    const auto pair = [&](int half, int upper) {
      const uint32_t byte = dequant_internal::Permute(Tile::Word(codes, step, half), 0,
                                                      0x4440 + step % 2 * 2 + upper);
      return *reinterpret_cast<const uint32_t*>(copy + byte * 128);
    };
    a[0] = pair(0, 0);
    a[1] = pair(1, 0);
    a[2] = pair(0, 1);
    a[3] = pair(1, 1);
  }
};

}  // namespace conclave
