// rms_norm: y = x / sqrt(mean(x^2) + epsilon) * weight, per row, squares summed in the 8-slice
// order of comm/base/reduction.h. Bytes: the row read and written once.
#pragma once

#include "absl/types/span.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// y may be x. weight [cols].
void RmsNorm(ConstRows x, absl::Span<const float> weight, float epsilon, Rows y);

// Fused residual (Deep-Fusion): x += delta, then y = rms_norm(x).
void AddRmsNorm(Rows x, ConstRows delta, absl::Span<const float> weight, float epsilon, Rows y);

// For a row cut over ranks (full-width qk norm under tensor parallelism): the sum of squares of
// `slices` neighbouring reduction slices that make up each row; sums [rows]. Summing these over the
// tp group with AllReduceSum gives the whole row's sum in the fixed order.
void SumSquares(ConstRows x, int slices, absl::Span<float> sums);
// y = x / sqrt(sums[row] / width + epsilon) * weight, with the whole row's sums and width.
// tidy: allow(parameters) the contract of the operator: tensors in, tensors out
void ScaleByRms(ConstRows x, absl::Span<const float> sums, int64_t width,
                absl::Span<const float> weight, float epsilon, Rows y);

void RmsNormRef(ConstRows x, absl::Span<const float> weight, float epsilon, Rows y);

}  // namespace conclave
