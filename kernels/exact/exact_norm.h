// exact_norm: RMS norm, its halves for rows cut over ranks, and rotary embedding with the optional
// norm of each head, bit for bit as kernels/rms_norm and kernels/rope. The caller owns all memory;
// any thread, on its current device; capturable. Bytes: each row read and written once (twice with
// a delta); a few flops an element.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/exact/exact_rows.h"

namespace conclave {

// y = rms_norm(x) * weight; with `delta`, x += delta before. y may be x.
struct ExactNormArgs {
  float* x = nullptr;             // [rows, cols]; written only with delta
  const float* delta = nullptr;   // [rows, cols] or none
  const float* weight = nullptr;  // [cols]
  float epsilon = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  float* y = nullptr;  // [rows, cols]
};
absl::Status ExactRmsNorm(const ExactNormArgs& args, CudaStream stream);

// sums[row] = the sum of squares of `slices` (1, 2, 4, 8) neighbouring reduction slices, which make
// up each row.
absl::Status ExactSumSquares(ExactRows x, int slices, float* sums, CudaStream stream);

// x := x / sqrt(sums[row] / width + epsilon) * weight, with the whole row's sums and width.
struct ExactScaleArgs {
  ExactRows x;
  const float* sums = nullptr;  // [rows]
  int64_t width = 0;
  const float* weight = nullptr;  // [cols]
  float epsilon = 0;
};
absl::Status ExactScaleByRms(const ExactScaleArgs& args, CudaStream stream);

// In place on x [rows, heads * head_dim]. Cosines and sines come from the host, whose libm decides
// their last bits.
struct ExactRopeArgs {
  ExactRows x;
  int head_dim = 0;               // even, at most 256
  const float* cosine = nullptr;  // [rows, head_dim / 2]
  const float* sine = nullptr;
  const float* norm_weight = nullptr;  // [head_dim]: norm each head first; or none
  float norm_epsilon = 0;
};
absl::Status ExactNormRope(const ExactRopeArgs& args, CudaStream stream);

}  // namespace conclave
