// token_sampler: the next token of each row of logits and its logprob under the unmodified softmax,
// on the device, with the semantics of kernels/sampling: greedy below temperature 1e-5, else min-p,
// top-k, top-p and one draw of UniformAt(seed, position) that walks the tokens left in the order of
// their ids. The first kernel reads each row once by many blocks and ends greedy rows; the second
// serves the others, a cluster of blocks a row with the row's weights in registers. All sums have a
// fixed order: equal rows and options give equal tokens, whatever the batch. Sums and exponentials
// round otherwise than the host's, so a draw at the very border of two tokens may fall to the
// other. The caller owns all memory; any thread, on its current device; capturable.
// Bytes: rows * vocab * 4, twice for sampled rows.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

inline constexpr int kSamplerVocabMax = 262144;

struct TokenSamplerArgs {
  int32_t rows = 0;
  int32_t vocab = 0;
  const float* logits = nullptr;  // [rows, logits_stride]; 16-byte aligned
  int64_t logits_stride = 0;      // a multiple of 4
  // Of each row [rows]; see SamplerOptions.
  const float* temperature = nullptr;
  const int32_t* top_k = nullptr;
  const float* top_p = nullptr;
  const float* min_p = nullptr;
  const uint64_t* seed = nullptr;
  const int64_t* position = nullptr;  // of the token being chosen
  bool all_greedy = false;  // promises that no row samples: the second kernel is not launched

  int32_t* tokens = nullptr;       // out [rows]
  float* logprobs = nullptr;       // out [rows]
  const int32_t* slot = nullptr;   // [rows] where in last_tokens a row's token goes, -1: nowhere
  int32_t* last_tokens = nullptr;  // out [slots], or none
  // TokenSamplerScratchBytes(scratch_rows), 16-byte aligned, zero before the first call; a call
  // leaves it ready for the next with the same scratch_rows.
  void* scratch = nullptr;
  int32_t scratch_rows = 0;  // >= rows
};

int64_t TokenSamplerScratchBytes(int32_t scratch_rows);
absl::Status TokenSampler(const TokenSamplerArgs& args, CudaStream stream, bool dependent);

// The same by SampleToken on the host's memory.
void TokenSamplerRef(const TokenSamplerArgs& args);

}  // namespace conclave
