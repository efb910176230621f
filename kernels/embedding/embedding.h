// embedding: rows of the (packed, possibly vocabulary-sliced) table by token id. An id outside the
// slice gives zeros, so that the sum over a tensor-parallel group is the row; values pass through x
// + 0.0f, so -0 does not betray the owner. Bytes: tokens * hidden * weight size read, times 4
// written.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// table holds vocabulary rows [first_row, first_row + table.outputs()). out [ids, table.inputs()].
void Embed(const PackedMatrix& table, int64_t first_row, absl::Span<const int32_t> ids, Rows out);

}  // namespace conclave
