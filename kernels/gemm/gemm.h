// gemm: y = x W^T with packed weights, fp32 accumulation in the fixed reduction order: each of the
// matrix's slices is summed in input order with fused multiply-add, the slices are added in the
// fixed tree. So y[t] depends on x[t] and W alone: not on the batch, the threads, the vector width.
// Weight-stationary: each weight is read once per block of tokens. Bytes: weights once +
// activations; flops: 2 * tokens * outputs * inputs.
#pragma once

#include "comm/device/compute_pool.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// x [tokens, inputs], y [tokens, outputs]. CHECKs shapes. y := x W^T.
void Gemm(ConstRows x, const PackedMatrix& weights, Rows y, ComputePool& pool);

// One thread, a range of panels: the piece that fused operators (expert FFN) call. y covers all
// outputs.
void GemmPanels(ConstRows x, const PackedMatrix& weights, int64_t panel_begin, int64_t panel_end,
                Rows y);

// Obviously right: the same order of additions in scalar code.
void GemmRef(ConstRows x, const PackedMatrix& weights, Rows y);

}  // namespace conclave
