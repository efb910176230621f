#include <algorithm>
#include <cmath>
#include <vector>

#include "comm/base/dtype.h"
#include "kernels/sbi_gemm/sbi_gemm.h"

namespace conclave {
namespace {

using Matrix = std::vector<double>;  // row-major

double RoundToBf16(double v) { return Bf16ToFloat(FloatToBf16(static_cast<float>(v))); }

// [outputs, inputs]
Matrix UnpackWeights(const WeightView& weights, int matrix) {
  const auto* data = static_cast<const uint8_t*>(weights.data) + matrix * weights.matrix_bytes;
  Matrix unpacked(static_cast<size_t>(weights.outputs) * weights.inputs);
  for (int o = 0; o < weights.outputs; ++o) {
    for (int k = 0; k < weights.inputs; ++k) {
      const int64_t place = TiledIndex(o, k, weights.input_tiles(), 2);
      unpacked[static_cast<size_t>(o) * weights.inputs + k] =
          Bf16ToFloat(reinterpret_cast<const uint16_t*>(data)[place]);
    }
  }
  return unpacked;
}

Matrix ReadRows(const SbiArgs& args, int rows) {
  const int inputs = args.weights.inputs;
  const auto* x = static_cast<const uint16_t*>(args.rows.x);
  Matrix read(static_cast<size_t>(rows) * inputs);
  for (int t = 0; t < rows; ++t) {
    for (int k = 0; k < inputs; ++k)
      read[t * inputs + k] = Bf16ToFloat(x[t * args.rows.stride + k]);
  }
  return read;
}

Matrix NormRows(const SbiArgs& args) {
  const SbiNorm& norm = args.norm;
  const int inputs = args.weights.inputs;
  Matrix x(static_cast<size_t>(args.tokens) * inputs);
  for (int t = 0; t < args.tokens; ++t) {
    double* row = x.data() + t * inputs;
    double squares = 0;
    for (int k = 0; k < inputs; ++k) {
      double sum = norm.residual_in[t * inputs + k];
      for (int p = 0; p < norm.pending; ++p) {
        const int entry = t * norm.pending + p;
        sum += norm.gate_weights != nullptr
                   ? double{norm.gate_weights[entry]} * norm.partials[entry * norm.row_stride + k]
                   : norm.partials[p * norm.slab_stride + t * norm.row_stride + k];
      }
      norm.residual_out[t * inputs + k] = static_cast<float>(sum);
      row[k] = sum;
      squares += sum * sum;
    }
    const double scale = 1 / std::sqrt(squares / inputs + norm.epsilon);
    for (int k = 0; k < inputs; ++k) row[k] = RoundToBf16(row[k] * scale * norm.norm_weight[k]);
  }
  return x;
}

Matrix CombineAttention(const SbiArgs& args) {
  const SbiAttention& attention = args.attention;
  const int inputs = args.weights.inputs;
  Matrix x(static_cast<size_t>(args.tokens) * inputs);
  for (int t = 0; t < args.tokens; ++t) {
    for (int k = 0; k < inputs; ++k) {
      const int head = k / (inputs / attention.heads);
      const auto at = [&](int s) { return (s * args.tokens + t) * attention.heads + head; };
      double largest = -INFINITY;
      for (int s = 0; s < attention.splits; ++s) {
        if (attention.l[at(s)] != 0) largest = std::max<double>(largest, attention.m[at(s)]);
      }
      double sum = 0, weight = 0;
      for (int s = 0; s < attention.splits; ++s) {
        if (attention.l[at(s)] == 0) continue;
        const double scale = std::exp(attention.m[at(s)] - largest);
        sum += scale * attention.o[int64_t{s * args.tokens + t} * inputs + k];
        weight += scale * attention.l[at(s)];
      }
      x[t * inputs + k] = weight > 0 ? RoundToBf16(sum / weight) : 0;
    }
  }
  return x;
}

// Outputs of one row of activations by one matrix, with bias.
std::vector<double> Product(const SbiArgs& args, const Matrix& weights, int matrix,
                            const double* x) {
  const int inputs = args.weights.inputs, outputs = args.weights.outputs;
  std::vector<double> y(outputs);
  for (int o = 0; o < outputs; ++o) {
    const double* w = weights.data() + static_cast<size_t>(o) * inputs;
    double sum = args.bias != nullptr ? args.bias[int64_t{matrix} * outputs + o] : 0;
    for (int k = 0; k < inputs; ++k) sum += w[k] * x[k];
    y[o] = sum;
  }
  return y;
}

void StoreRow(const SbiArgs& args, int entry, const std::vector<double>& y) {
  if (args.kind == SbiKind::kGateUp) {
    auto* hidden = static_cast<uint16_t*>(args.hidden) + entry * args.hidden_stride;
    for (int i = 0; i < args.weights.outputs / 2; ++i) {
      const double gate = y[GateOutput(i)], up = y[UpOutput(i)];
      hidden[i] = FloatToBf16(static_cast<float>(gate / (1 + std::exp(-gate)) * up));
    }
    return;
  }
  for (size_t o = 0; o < y.size(); ++o) {
    args.out[entry * args.out_stride + static_cast<int64_t>(o)] = static_cast<float>(y[o]);
  }
}

}  // namespace

absl::Status SbiGemmRef(const SbiArgs& args) {
  const bool routed = args.kind != SbiKind::kDense && args.table.active_count != nullptr;
  const int entries = routed ? args.tokens * args.table.top_k : args.tokens;
  const int inputs = args.weights.inputs;
  const Matrix x = args.prologue == SbiPrologue::kNorm        ? NormRows(args)
                   : args.prologue == SbiPrologue::kAttention ? CombineAttention(args)
                   : args.kind == SbiKind::kDown              ? ReadRows(args, entries)
                                                              : ReadRows(args, args.tokens);
  const int active = routed ? args.table.active_count[0] : 1;
  for (int a = 0; a < active; ++a) {
    const int matrix = routed ? args.table.active_slot[a] : 0;
    const Matrix weights = UnpackWeights(args.weights, matrix);
    const int begin = routed ? args.table.slot_first[matrix] : 0;
    const int end = routed ? args.table.slot_first[matrix + 1] : args.tokens;
    for (int i = begin; i < end; ++i) {
      const int entry = routed ? args.table.order[i] : i;
      const int row = args.kind == SbiKind::kGateUp ? entry / args.table.top_k : entry;
      StoreRow(args, entry, Product(args, weights, matrix, x.data() + row * inputs));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
