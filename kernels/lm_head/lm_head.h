// lm_head: logits of chosen rows: gathers the rows (the last position of each sequence that
// samples, or every position when logits are wanted) and multiplies by the (vocabulary-sliced)
// head. logits [rows, vocabulary slice].
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "comm/device/compute_pool.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// hidden [tokens, hidden] (normed); rows: indices into it; scratch [rows, hidden]; logits [rows,
// head.outputs()].
// tidy: allow(parameters) the contract of the operator: tensors in, tensors out
void LmHead(ConstRows hidden, absl::Span<const int32_t> rows, const PackedMatrix& head,
            Rows scratch, Rows logits, ComputePool& pool);

}  // namespace conclave
