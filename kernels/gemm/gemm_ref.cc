#include <cmath>

#include "comm/base/reduction.h"
#include "glog/logging.h"
#include "kernels/gemm/gemm.h"

namespace conclave {

void GemmRef(ConstRows x, const PackedMatrix& weights, Rows y) {
  CHECK_EQ(x.rows, y.rows);
  CHECK_EQ(x.cols, weights.inputs());
  CHECK_EQ(y.cols, weights.outputs());
  const int slices = weights.slices();
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t n = 0; n < weights.outputs(); ++n) {
      float parts[kReductionSlices];
      for (int s = 0; s < slices; ++s) {
        const int64_t begin = s * weights.inputs() / slices;
        const int64_t end = (s + 1) * weights.inputs() / slices;
        float sum = 0;
        for (int64_t k = begin; k < end; ++k) {
          sum = std::fma(weights.At(n, k), x.row(t)[k], sum);
        }
        parts[s] = sum;
      }
      y.row(t)[n] = TreeSum(parts, slices);
    }
  }
}

}  // namespace conclave
