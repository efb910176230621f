#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/moe_gate/exp_sum.h"
#include "kernels/moe_gate/moe_gate.h"

namespace conclave {

void MoeGateRef(const MoeGateArgs& args) {
  CheckMoeGateArgs(args);
  const int experts = static_cast<int>(args.logits.cols);
  for (int64_t t = 0; t < args.logits.rows; ++t) {
    std::vector<double> logits(args.logits.row(t), args.logits.row(t) + experts);
    for (double& x : logits) {
      if (std::isnan(x)) x = -std::numeric_limits<double>::infinity();
    }
    std::vector<int32_t> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    double sum = 0;
    for (double x : logits) sum += std::exp(x - logits[order[0]]);
    double chosen = 0;
    for (int k = 0; k < args.top_k; ++k) chosen += std::exp(logits[order[k]] - logits[order[0]]);
    for (int k = 0; k < args.top_k; ++k) {
      const double e = std::exp(logits[order[k]] - logits[order[0]]);
      args.experts[t * args.top_k + k] = order[k];
      args.weights[t * args.top_k + k] = static_cast<float>(e / (args.normalize ? chosen : sum));
    }
  }
}

}  // namespace conclave
