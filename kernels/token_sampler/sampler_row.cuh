// What the two kernels of token_sampler share: clean logits, the random draw, the scratch memory,
// the result. Device code only.
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernels/token_sampler/token_sampler.h"

namespace conclave {

inline constexpr float kGreedyBelow = 1e-5f;
inline constexpr int kScanValues = 4096;  // of a row, by a block of the first kernel
inline constexpr int kScanBlocksMax = kSamplerVocabMax / kScanValues;

// What a block of the first kernel found in its part of a row.
struct ScanPart {
  float max;
  float sum;  // of exp(x - max)
  int32_t token;
  int32_t unused;
};
struct RowState {
  float max;
  float log_sum;  // of exp(x - max) over the row
};

struct SamplerScratch {
  ScanPart* parts;     // [scratch_rows][kScanBlocksMax]
  RowState* states;    // [scratch_rows]
  uint32_t* arrivals;  // [scratch_rows]
};

__device__ __forceinline__ SamplerScratch ScratchOf(const TokenSamplerArgs& args) {
  auto* at = static_cast<uint8_t*>(args.scratch);
  const int64_t padded = (int64_t{args.scratch_rows} + 3) / 4 * 4;
  SamplerScratch s = {};
  s.arrivals = reinterpret_cast<uint32_t*>(at);
  s.states = reinterpret_cast<RowState*>(at + padded * 4);
  s.parts = reinterpret_cast<ScanPart*>(at + padded * 12);
  return s;
}

// NaN as the lowest float, infinities as the finite ends.
__device__ __forceinline__ float CleanLogit(float x) {
  return x == x ? fminf(fmaxf(x, -FLT_MAX), FLT_MAX) : -FLT_MAX;
}

// UniformAt of comm/base/rng: the first word of a Philox 4x32-10 block.
__device__ __forceinline__ float DeviceUniformAt(uint64_t seed, uint64_t position) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return static_cast<float>(c0 >> 8) * 0x1p-24f;
}

__device__ __forceinline__ void WriteSample(const TokenSamplerArgs& args, int row, int token,
                                            float logit, const RowState& state) {
  args.tokens[row] = token;
  const double above = static_cast<double>(logit) - state.max;
  args.logprobs[row] = static_cast<float>(fmax(above - state.log_sum, -3e38));
  if (args.last_tokens == nullptr) return;
  const int slot = args.slot[row];
  if (slot >= 0) args.last_tokens[slot] = token;
}

}  // namespace conclave
