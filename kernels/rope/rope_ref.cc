#include <cmath>

#include "kernels/rope/rope.h"
#include "kernels/rope/rope_row.h"

namespace conclave {

void NormRopeRef(const RopeArgs& args) {
  CheckRopeArgs(args);
  const int half = args.head_dim / 2;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    for (float* x = args.x.row(t); x < args.x.row(t) + args.x.cols; x += args.head_dim) {
      if (!args.norm_weight.empty()) {
        double squares = 0;
        for (int i = 0; i < args.head_dim; ++i) squares += static_cast<double>(x[i]) * x[i];
        const double scale = 1 / std::sqrt(squares / args.head_dim + args.norm_epsilon);
        for (int i = 0; i < args.head_dim; ++i) {
          x[i] = static_cast<float>(args.norm_weight[i] * x[i] * scale);
        }
      }
      for (int i = 0; i < half; ++i) {
        const double angle = args.frequencies[i] * static_cast<float>(args.positions[t]);
        const double a = x[i], b = x[half + i];
        x[i] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
        x[half + i] = static_cast<float>(b * std::cos(angle) + a * std::sin(angle));
      }
    }
  }
}

}  // namespace conclave
