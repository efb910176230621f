#include <cmath>

#include "comm/base/dtype.h"
#include "kernels/tile_gemm/tile_gemm.h"

namespace conclave {
namespace {

// The matrix of a row, or -1 outside all groups.
int MatrixOf(const TileGemmArgs& args, int64_t row) {
  if (args.group_first == nullptr) return 0;
  for (int m = 0; m < args.weights.matrices; ++m) {
    if (row >= args.group_first[m] && row < args.group_first[m + 1]) return m;
  }
  return -1;
}

double Product(const TileGemmArgs& args, int64_t row, int matrix, int64_t output) {
  const WeightView& weights = args.weights;
  const auto* x = static_cast<const uint16_t*>(args.x) + row * args.x_stride;
  const auto* w = reinterpret_cast<const uint16_t*>(static_cast<const uint8_t*>(weights.data) +
                                                    matrix * weights.matrix_bytes);
  double sum = 0;
  for (int k = 0; k < weights.inputs; ++k) {
    sum +=
        double{Bf16ToFloat(x[k])} * Bf16ToFloat(w[TiledIndex(output, k, weights.input_tiles(), 2)]);
  }
  if (args.bias != nullptr) sum += args.bias[int64_t{matrix} * weights.outputs + output];
  return sum;
}

}  // namespace

double TileGemmRefAt(const TileGemmArgs& args, int64_t row, int64_t column) {
  const int matrix = MatrixOf(args, row);
  if (args.epilogue == TileEpilogue::kSwiGlu) {
    const double gate = Product(args, row, matrix, GateOutput(column));
    return gate / (1 + std::exp(-gate)) * Product(args, row, matrix, UpOutput(column));
  }
  const double product = Product(args, row, matrix, column);
  if (args.epilogue != TileEpilogue::kFp32Add) return product;
  return product + static_cast<const float*>(args.out)[row * args.out_stride + column];
}

void TileGemmRef(const TileGemmArgs& args) {
  const bool narrow =
      args.epilogue == TileEpilogue::kBf16 || args.epilogue == TileEpilogue::kSwiGlu;
  for (int64_t row = 0; row < args.rows; ++row) {
    if (MatrixOf(args, row) < 0) continue;
    for (int64_t column = 0; column < TileOutColumns(args); ++column) {
      const double value = TileGemmRefAt(args, row, column);
      const int64_t place = row * args.out_stride + column;
      if (narrow) {
        static_cast<uint16_t*>(args.out)[place] = FloatToBf16(static_cast<float>(value));
      } else {
        static_cast<float*>(args.out)[place] = static_cast<float>(value);
      }
    }
  }
}

}  // namespace conclave
