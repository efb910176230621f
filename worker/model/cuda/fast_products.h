// Matrix products of the fused path: which kernel takes a product of so many rows, and with which
// config. Thin wrappers over sbi_gemm and tile_gemm; free functions, engine's thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/sbi_gemm/sbi_gemm.h"
#include "kernels/tile_gemm/tile_gemm.h"
#include "worker/model/cuda/op_trace.h"

namespace conclave {

struct ProductLaunch {
  int32_t sm_count = 132;
  CudaStream stream = nullptr;
  bool dependent = false;
};

// Runs `args` with the config of its shape; `splits_max` bounds the slabs of a dense product.
// Returns the slabs.
absl::StatusOr<int32_t> StreamProduct(SbiArgs args, int32_t splits_max,
                                      const ProductLaunch& launch);

// Runs `args` with the config of its shape. `rows_expected`: of grouped rows.
absl::Status TileProduct(TileGemmArgs args, const ProductLaunch& launch);

// What a product with `matrices` touched matrices of `weights` cannot do without.
OpCost ProductCost(const WeightView& weights, int64_t rows, double matrices);

}  // namespace conclave
