#include "kernels/lm_head/lm_head.h"

#include <algorithm>

#include "glog/logging.h"
#include "kernels/gemm/gemm.h"

namespace conclave {

// tidy: allow(parameters) the contract of the operator: tensors in, tensors out
void LmHead(ConstRows hidden, absl::Span<const int32_t> rows, const PackedMatrix& head,
            Rows scratch, Rows logits, ComputePool& pool) {
  CHECK_EQ(scratch.rows, static_cast<int64_t>(rows.size()));
  CHECK_EQ(scratch.cols, hidden.cols);
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i] >= 0 && rows[i] < hidden.rows) << "row " << rows[i] << " of " << hidden.rows;
    std::copy_n(hidden.row(rows[i]), hidden.cols, scratch.row(i));
  }
  Gemm(scratch, head, logits, pool);
}

}  // namespace conclave
