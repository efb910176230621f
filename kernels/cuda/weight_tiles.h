// The layout of weight matrices on a GPU, one for decode, prefill and the exact kernels. W
// [outputs, inputs] is cut into tiles of 16 outputs x 64 inputs; tiles of 16 outputs stand next to
// each other along the inputs, so that decode (sbi_gemm) streams a contiguous run for its outputs
// (SBI-GeMM, paper section III-C: layout transformed at load, full cache lines) and prefill
// (tile_gemm) finds in each run what wgmma's 128-byte swizzle wants: eight rows of 128 bytes, the
// 16-byte chunk c of row r at c ^ (r % 8). Both dimensions are padded with zeros to whole tiles.
// Two-byte elements (bf16, f16) lie so; fp32 (exact kernels only) has rows of 256 bytes, not
// swizzled; quantised formats are laid out by kernels/sbi_gemm. Values and pure functions, for host
// and device; any thread.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CONCLAVE_HOST_DEVICE __host__ __device__
#else
#define CONCLAVE_HOST_DEVICE
#endif

namespace conclave {

inline constexpr int kTileOutputs = 16;
inline constexpr int kTileInputs = 64;
inline constexpr int kTileElements = kTileOutputs * kTileInputs;

enum class WeightFormat : uint8_t {
  kBf16 = 0,
  kF16 = 1,   // exact kernels only
  kF32 = 2,   // exact kernels only
  kFp8 = 3,   // e4m3, a scale per block
  kInt8 = 4,  // a scale per group
  kInt4 = 5,
  kNf4 = 6,
  kMxfp4 = 7,  // e2m1, a power-of-two scale for 32 inputs
};

// Several matrices of one shape and format, one after the other (the experts of a layer), or one.
// Borrowed device memory, 1024-byte aligned; passed to kernels by value. Matrix m starts at
// data + m * matrix_bytes.
struct WeightView {
  const void* data = nullptr;
  int64_t matrix_bytes = 0;
  int32_t outputs = 0;  // not padded
  int32_t inputs = 0;
  int32_t matrices = 1;
  WeightFormat format = WeightFormat::kBf16;
  int32_t group = 0;  // inputs that share a scale; 0 without scales

  CONCLAVE_HOST_DEVICE int32_t output_tiles() const {
    return (outputs + kTileOutputs - 1) / kTileOutputs;
  }
  CONCLAVE_HOST_DEVICE int32_t input_tiles() const {
    return (inputs + kTileInputs - 1) / kTileInputs;
  }
};

// Place of element (output, input) of a matrix of `input_tiles` tiles, in elements.
CONCLAVE_HOST_DEVICE inline int64_t TiledIndex(int64_t output, int64_t input, int64_t input_tiles,
                                               int element_bytes) {
  const int64_t tile = output / kTileOutputs * input_tiles + input / kTileInputs;
  const int row = static_cast<int>(output % kTileOutputs);
  const int column = static_cast<int>(input % kTileInputs);
  const int placed = element_bytes == 2 ? ((column / 8) ^ (row % 8)) * 8 + column % 8 : column;
  return tile * kTileElements + row * kTileInputs + placed;
}

// Gate and up projections of an FFN in one matrix of 2 * ffn outputs: tile t holds rows 8t..8t+7 of
// gate, then the same rows of up, so that a thread that has a gate value has the up value beside
// it. ffn is padded to a multiple of 8 by the caller.
CONCLAVE_HOST_DEVICE inline int64_t GateOutput(int64_t ffn_row) {
  return ffn_row / 8 * 16 + ffn_row % 8;
}
CONCLAVE_HOST_DEVICE inline int64_t UpOutput(int64_t ffn_row) { return GateOutput(ffn_row) + 8; }

}  // namespace conclave
