#include "kernels/embedding/embedding.h"

#include <algorithm>

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr int64_t kPanel = PackedMatrix::kPanel;

float ToFloat(float value) { return value; }

// One output of a panel: its elements lie one panel's width apart. `convert` widens an element.
template <typename T, typename Convert>
void CopyRow(const void* panel, int64_t lane, int64_t inputs, Convert convert, float* out) {
  const T* from = static_cast<const T*>(panel) + lane;
  for (int64_t k = 0; k < inputs; ++k) out[k] = convert(from[k * kPanel]) + 0.0f;
}

void EmbedRow(const PackedMatrix& table, int64_t row, float* out) {
  const void* panel = table.panel(row / kPanel);
  switch (table.dtype()) {
    case Dtype::kF32:
      return CopyRow<float>(panel, row % kPanel, table.inputs(), ToFloat, out);
    case Dtype::kF16:
      return CopyRow<uint16_t>(panel, row % kPanel, table.inputs(), F16ToFloat, out);
    default:
      return CopyRow<uint16_t>(panel, row % kPanel, table.inputs(), Bf16ToFloat, out);
  }
}

}  // namespace

void Embed(const PackedMatrix& table, int64_t first_row, absl::Span<const int32_t> ids, Rows out) {
  CHECK_EQ(out.rows, static_cast<int64_t>(ids.size()));
  CHECK_EQ(out.cols, table.inputs());
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t row = ids[i] - first_row;
    if (row >= 0 && row < table.outputs()) {
      EmbedRow(table, row, out.row(i));
    } else {
      std::fill_n(out.row(i), out.cols, 0.0f);
    }
  }
}

}  // namespace conclave
