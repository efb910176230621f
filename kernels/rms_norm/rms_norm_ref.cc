#include <cmath>

#include "comm/base/reduction.h"
#include "glog/logging.h"
#include "kernels/rms_norm/rms_norm.h"

namespace conclave {
namespace {

// A slice is summed in 16 lanes, element k in lane k % 16, and the lanes in a tree: (l + 8), (l +
// 4), (l + 2), (l + 1).
float SliceSquares(const float* x, int64_t count) {
  float lanes[16] = {};
  for (int64_t k = 0; k < count; ++k) lanes[k % 16] = std::fma(x[k], x[k], lanes[k % 16]);
  for (int stride = 8; stride >= 1; stride /= 2) {
    for (int l = 0; l < stride; ++l) lanes[l] += lanes[l + stride];
  }
  return lanes[0];
}

}  // namespace

void RmsNormRef(ConstRows x, absl::Span<const float> weight, float epsilon, Rows y) {
  CHECK_EQ(x.cols, static_cast<int64_t>(weight.size()));
  for (int64_t t = 0; t < x.rows; ++t) {
    float parts[kReductionSlices];
    for (int s = 0; s < kReductionSlices; ++s) {
      const int64_t begin = ReductionSliceBegin(x.cols, s);
      parts[s] = SliceSquares(x.row(t) + begin, ReductionSliceBegin(x.cols, s + 1) - begin);
    }
    const float mean = TreeSum(parts, kReductionSlices) / static_cast<float>(x.cols);
    const float scale = 1.0f / std::sqrt(mean + epsilon);
    for (int64_t k = 0; k < x.cols; ++k) y.row(t)[k] = x.row(t)[k] * scale * weight[k];
  }
}

}  // namespace conclave
