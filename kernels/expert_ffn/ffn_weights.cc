#include <algorithm>
#include <cstdint>

#include "glog/logging.h"
#include "kernels/expert_ffn/expert_ffn.h"

namespace conclave {
namespace {

constexpr int64_t kPanel = PackedMatrix::kPanel;

// Row-major rows for gate or up, [first, first + count).
struct SourceRows {
  int64_t first = 0, count = 0;
  const void* source = nullptr;
  int64_t stride = 0;
};

// `offset`: 0 for gate, one panel for up. In runs that end where a panel does.
void SetInterleaved(FfnWeights& weights, const SourceRows& rows, int64_t offset) {
  const int64_t first = rows.first, count = rows.count, stride = rows.stride;
  CHECK(first >= 0 && count >= 0 && first + count <= weights.ffn)
      << "rows [" << first << ", " << first + count << ") of an ffn of " << weights.ffn;
  PackedMatrix& matrix = weights.gate_up;
  const int64_t row_bytes = stride * static_cast<int64_t>(DtypeBytes(matrix.dtype()));
  const auto* from = static_cast<const uint8_t*>(rows.source);
  for (int64_t n = first; n < first + count;) {
    const int64_t run = std::min(kPanel - n % kPanel, first + count - n);
    const int64_t packed = n / kPanel * 2 * kPanel + offset + n % kPanel;
    matrix.SetRows(packed, run, from + (n - first) * row_bytes, stride);
    n += run;
  }
}

}  // namespace

void SetGateRows(FfnWeights& weights, int64_t first, int64_t count, const void* source,
                 int64_t stride) {
  SetInterleaved(weights, {first, count, source, stride}, 0);
}

void SetUpRows(FfnWeights& weights, int64_t first, int64_t count, const void* source,
               int64_t stride) {
  SetInterleaved(weights, {first, count, source, stride}, kPanel);
}

}  // namespace conclave
