#include <cmath>
#include <vector>

#include "comm/base/dtype.h"
#include "kernels/add_norm/add_norm.h"

namespace conclave {
namespace {

double PendingAt(const AddNormArgs& args, int64_t token, int64_t column) {
  const PendingSum& pending = args.pending;
  if (pending.kind == PendingKind::kNone) return 0;
  double sum = 0;
  for (int64_t c = 0; c < pending.count; ++c) {
    if (pending.kind == PendingKind::kSlabs) {
      sum += static_cast<const float*>(
          pending.data)[c * pending.slab_stride + token * pending.row_stride + column];
      continue;
    }
    const int64_t entry = token * pending.count + c;
    const int64_t row = pending.row_of_entry == nullptr ? entry : pending.row_of_entry[entry];
    if (row < 0) continue;
    const int64_t place = row * pending.row_stride + column;
    const double value = pending.kind == PendingKind::kRowsF32
                             ? static_cast<const float*>(pending.data)[place]
                             : Bf16ToFloat(static_cast<const uint16_t*>(pending.data)[place]);
    sum += value * pending.gate_weights[entry];
  }
  return sum;
}

}  // namespace

void AddNormRef(const AddNormArgs& args) {
  std::vector<double> row(args.hidden);
  for (int64_t t = 0; t < args.tokens; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < args.hidden; ++i) {
      row[i] = args.residual_in[t * args.hidden + i] + PendingAt(args, t, i);
      squares += row[i] * row[i];
    }
    const double scale = 1 / std::sqrt(squares / args.hidden + args.epsilon);
    for (int64_t i = 0; i < args.hidden; ++i) {
      args.residual_out[t * args.hidden + i] = static_cast<float>(row[i]);
      if (args.normed == nullptr) continue;
      static_cast<uint16_t*>(args.normed)[t * args.hidden + i] =
          FloatToBf16(static_cast<float>(row[i] * scale * args.norm_weight[i]));
    }
  }
}

}  // namespace conclave
