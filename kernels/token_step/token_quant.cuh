// Quantised tiles in token_step: codes to bf16 fragments of mma, exactly, by the layout of
// kernels/weight_pack/quant_tiles.h; scales multiply the fp32 sums of a tile. Device code only.
#pragma once

#include <cstdint>

#include "kernels/token_step/token_gemv.cuh"
#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {

__device__ __forceinline__ uint4 LoadShared16(uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at));
  return v;
}
__device__ __forceinline__ uint2 LoadShared8(uint32_t at) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
  return v;
}
__device__ __forceinline__ uint32_t LoadShared4(uint32_t at) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
  return v;
}

// a * b + c of two bf16, whose subnormals count.
__device__ __forceinline__ uint32_t FmaBf16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ uint32_t RotateByte(uint32_t word) {
  return __byte_perm(word, word, 0x0321);
}

inline constexpr uint32_t kBf16Zero = 0x80008000;      // -0: keeps the sign of 0
inline constexpr uint32_t kBf16Pow127 = 0x7f007f00;    // 2^127
inline constexpr uint32_t kBf16Pow120 = 0x7b807b80;    // 2^120
inline constexpr uint32_t kBf16Quarter = 0x3e803e80;   // 0.25
inline constexpr uint32_t kBf16Minus34 = 0xc208c208;   // -34
inline constexpr uint32_t kBf16Minus8th = 0xbe00be00;  // -0.125

// Scales of rows g and g + 8 for the tile's halves.
struct TokenScales {
  float low[2], high[2];
};

__device__ __forceinline__ void AddScaled(const float (&d)[2][4], const TokenScales& scales,
                                          TokenSums& sums) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sums.d[half][0] += scales.low[half] * d[half][0];
    sums.d[half][1] += scales.low[half] * d[half][1];
    sums.d[half][2] += scales.high[half] * d[half][2];
    sums.d[half][3] += scales.high[half] * d[half][3];
  }
}

struct TokenInt4 {
  static constexpr int kWarpTiles = 4;

  // Codes of two runs of 16 inputs: pairs 2t and 2t + 8 of each.
  static __device__ __forceinline__ void Decode(uint32_t word, uint32_t (&pairs)[4]) {
    const uint32_t turned = RotateByte(word);
    // Two's complement under an exponent of ulp 1: 128 + 8 + code.
    pairs[0] = FmaBf16((word & 0x000f000fu) ^ 0x43084308u, kBf16Quarter, kBf16Minus34);
    pairs[2] = FmaBf16((turned & 0x000f000fu) ^ 0x43084308u, kBf16Quarter, kBf16Minus34);
    // Subnormals of +-(low + 1/2).
    pairs[1] = FmaBf16((word & 0x80708070u) | 0x00080008u, kBf16Pow127, kBf16Minus8th);
    pairs[3] = FmaBf16((turned & 0x80708070u) | 0x00080008u, kBf16Pow127, kBf16Minus8th);
  }

  static __device__ __forceinline__ void Multiply(uint32_t tile, const uint4 (&b)[2], int group,
                                                  TokenSums& sums) {
    const int lane = threadIdx.x % 32;
    const uint4 codes = LoadShared16(tile + lane * 16);
    const uint32_t scale_at = tile + PayloadBytes(WeightFormat::kInt4);
    uint2 bits;
    if (group < kTileInputs) {
      bits = LoadShared8(scale_at + lane / 4 * 8);
    } else {
      bits.x = bits.y = LoadShared4(scale_at + lane / 4 * 4);
    }
    const TokenScales scales = {
        {__uint_as_float(bits.x << 16), __uint_as_float(bits.y << 16)},
        {__uint_as_float(bits.x & 0xffff0000u), __uint_as_float(bits.y & 0xffff0000u)}};
    float d[2][4] = {};
    const uint32_t words[2][2] = {{codes.x, codes.y}, {codes.z, codes.w}};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t low[4], high[4];  // of rows g and g + 8
      Decode(words[half][0], low);
      Decode(words[half][1], high);
      const uint32_t first[4] = {low[0], high[0], low[1], high[1]};
      const uint32_t second[4] = {low[2], high[2], low[3], high[3]};
      MatrixMultiplyAdd(d[half], first, b[half].x, b[half].y);
      MatrixMultiplyAdd(d[half], second, b[half].z, b[half].w);
    }
    AddScaled(d, scales, sums);
  }
};

// Decoder: static Decode(word, pairs) of one run of 16 inputs.
template <typename Decoder>
struct TokenByteCodes {
  static constexpr int kWarpTiles = 2;

  static __device__ __forceinline__ void Multiply(uint32_t tile, const uint4 (&b)[2], int group,
                                                  TokenSums& sums) {
    const int lane = threadIdx.x % 32;
    const uint32_t scale_at = tile + PayloadBytes(WeightFormat::kInt8);
    uint4 bits;
    if (group < kTileInputs) {
      bits = LoadShared16(scale_at + lane / 4 * 16);
    } else {
      const uint2 both = LoadShared8(scale_at + lane / 4 * 8);
      bits = make_uint4(both.x, both.y, both.x, both.y);
    }
    const TokenScales scales = {{__uint_as_float(bits.x), __uint_as_float(bits.z)},
                                {__uint_as_float(bits.y), __uint_as_float(bits.w)}};
    float d[2][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 codes = LoadShared16(tile + half * 512 + lane * 16);
      uint32_t low[2], high[2];
      Decoder::Decode(codes.x, low);
      Decoder::Decode(codes.y, high);
      const uint32_t first[4] = {low[0], high[0], low[1], high[1]};
      MatrixMultiplyAdd(d[half], first, b[half].x, b[half].y);
      Decoder::Decode(codes.z, low);
      Decoder::Decode(codes.w, high);
      const uint32_t second[4] = {low[0], high[0], low[1], high[1]};
      MatrixMultiplyAdd(d[half], second, b[half].z, b[half].w);
    }
    AddScaled(d, scales, sums);
  }
};

// Sign and magnitude as subnormals.
struct Int8Decoder {
  static __device__ __forceinline__ void Decode(uint32_t word, uint32_t (&pairs)[2]) {
    pairs[0] = FmaBf16(word & 0x807f807fu, kBf16Pow127, kBf16Zero);
    pairs[1] = FmaBf16(RotateByte(word) & 0x807f807fu, kBf16Pow127, kBf16Zero);
  }
};

// e4m3 in the lowest bits of bf16's exponent and the highest of its mantissa.
struct Fp8Decoder {
  static __device__ __forceinline__ void Decode(uint32_t word, uint32_t (&pairs)[2]) {
    pairs[0] = FmaBf16(word & 0x87f087f0u, kBf16Pow120, kBf16Zero);
    const uint32_t turned = RotateByte(word);
    pairs[1] = FmaBf16((turned & 0x07700770u) | (turned << 4 & 0x80808080u), kBf16Pow120,
                       kBf16Zero);
  }
};

using TokenInt8 = TokenByteCodes<Int8Decoder>;
using TokenFp8 = TokenByteCodes<Fp8Decoder>;

}  // namespace conclave
