// Sixteen lanes whatever the vector width: two vectors of AVX2 or one of AVX-512 (see
// rms_norm_ref.cc for the order).
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm/rms_norm_cpu.cc"
#include <cmath>

#include "comm/base/reduction.h"
#include "glog/logging.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/rms_norm/rms_norm.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int64_t kWidth = 16;
constexpr int64_t kLanes = HWY_LANES(float);
constexpr int kVectors = static_cast<int>(kWidth / kLanes);

// Sixteen elements, the first `count` of them valid and the rest zero: adding their squares changes
// nothing.
HWY_INLINE void LoadPart(const float* x, int64_t count, V (&v)[kVectors]) {
  const D d;
  for (int i = 0; i < kVectors; ++i) {
    const int64_t valid = HWY_MIN(HWY_MAX(count - i * kLanes, int64_t{0}), kLanes);
    v[i] = hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(valid)), d, x + i * kLanes);
  }
}

float SliceSquares(const float* x, int64_t count) {
  const D d;
  V sum[kVectors], v[kVectors];
  for (int i = 0; i < kVectors; ++i) sum[i] = hn::Zero(d);
  int64_t k = 0;
  for (; k + kWidth <= count; k += kWidth) {
    for (int i = 0; i < kVectors; ++i) {
      v[i] = hn::LoadU(d, x + k + i * kLanes);
      sum[i] = hn::MulAdd(v[i], v[i], sum[i]);
    }
  }
  if (k < count) {
    LoadPart(x + k, count - k, v);
    for (int i = 0; i < kVectors; ++i) sum[i] = hn::MulAdd(v[i], v[i], sum[i]);
  }
  HWY_ALIGN float lanes[kWidth];
  for (int i = 0; i < kVectors; ++i) hn::Store(sum[i], d, lanes + i * kLanes);
  for (int stride = 8; stride >= 1; stride /= 2) {
    for (int l = 0; l < stride; ++l) lanes[l] += lanes[l + stride];
  }
  return lanes[0];
}

float RowSquares(const float* x, int64_t cols, int slices) {
  float parts[kReductionSlices];
  for (int s = 0; s < slices; ++s) {
    const int64_t begin = s * cols / slices;
    parts[s] = SliceSquares(x + begin, (s + 1) * cols / slices - begin);
  }
  return TreeSum(parts, slices);
}

void ScaleRow(const float* x, float scale, const float* weight, int64_t cols, float* y) {
  const D d;
  const V factor = hn::Set(d, scale);
  int64_t k = 0;
  for (; k + kLanes <= cols; k += kLanes) {
    const V scaled = hn::Mul(hn::LoadU(d, x + k), factor);
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, weight + k)), d, y + k);
  }
  for (; k < cols; ++k) y[k] = x[k] * scale * weight[k];
}

void AddRow(float* x, const float* delta, int64_t cols) {
  const D d;
  int64_t k = 0;
  for (; k + kLanes <= cols; k += kLanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + k), hn::LoadU(d, delta + k)), d, x + k);
  }
  for (; k < cols; ++k) x[k] += delta[k];
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(RowSquares);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(AddRow);

namespace {

float ScaleOf(float sum, int64_t width, float epsilon) {
  return 1.0f / std::sqrt(sum / static_cast<float>(width) + epsilon);
}

void CheckShapes(ConstRows x, absl::Span<const float> weight, ConstRows y) {
  CHECK_EQ(x.cols, static_cast<int64_t>(weight.size()));
  CHECK_EQ(x.cols, y.cols);
  CHECK_EQ(x.rows, y.rows);
}

void NormRow(const float* x, absl::Span<const float> weight, float epsilon, float* y) {
  const int64_t cols = static_cast<int64_t>(weight.size());
  const float sum = HWY_DYNAMIC_DISPATCH(RowSquares)(x, cols, kReductionSlices);
  HWY_DYNAMIC_DISPATCH(ScaleRow)(x, ScaleOf(sum, cols, epsilon), weight.data(), cols, y);
}

}  // namespace

void RmsNorm(ConstRows x, absl::Span<const float> weight, float epsilon, Rows y) {
  CheckShapes(x, weight, y);
  for (int64_t t = 0; t < x.rows; ++t) NormRow(x.row(t), weight, epsilon, y.row(t));
}

void AddRmsNorm(Rows x, ConstRows delta, absl::Span<const float> weight, float epsilon, Rows y) {
  CheckShapes(x, weight, y);
  CheckShapes(delta, weight, y);
  for (int64_t t = 0; t < x.rows; ++t) {
    HWY_DYNAMIC_DISPATCH(AddRow)(x.row(t), delta.row(t), x.cols);
    NormRow(x.row(t), weight, epsilon, y.row(t));
  }
}

void SumSquares(ConstRows x, int slices, absl::Span<float> sums) {
  CHECK_EQ(x.rows, static_cast<int64_t>(sums.size()));
  CHECK(slices == 1 || slices == 2 || slices == 4 || slices == 8) << slices << " slices";
  for (int64_t t = 0; t < x.rows; ++t) {
    sums[t] = HWY_DYNAMIC_DISPATCH(RowSquares)(x.row(t), x.cols, slices);
  }
}

// tidy: allow(parameters) the contract of the operator: tensors in, tensors out
void ScaleByRms(ConstRows x, absl::Span<const float> sums, int64_t width,
                absl::Span<const float> weight, float epsilon, Rows y) {
  CheckShapes(x, weight, y);
  CHECK_EQ(x.rows, static_cast<int64_t>(sums.size()));
  for (int64_t t = 0; t < x.rows; ++t) {
    HWY_DYNAMIC_DISPATCH(ScaleRow)
    (x.row(t), ScaleOf(sums[t], width, epsilon), weight.data(), x.cols, y.row(t));
  }
}

}  // namespace conclave
#endif  // HWY_ONCE
