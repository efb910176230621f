#include <cmath>

#include "comm/base/reduction.h"
#include "kernels/moe_permute/combine_row.h"
#include "kernels/moe_permute/moe_permute.h"

namespace conclave {

void CombineRef(const CombineArgs& args) {
  CheckCombineArgs(args);
  for (int64_t t = 0; t < args.out.rows; ++t) {
    for (int64_t i = 0; i < args.out.cols; ++i) {
      float sum = 0;
      for (int c = 0; c < args.top_k; ++c) {
        const int64_t choice = t * args.top_k + c;
        float parts[kReductionSlices];
        for (int s = 0; s < args.slices; ++s) {
          parts[s] = args.parts.row(args.part_row[choice * args.slices + s])[i];
        }
        sum = std::fma(args.weights[choice], TreeSum(parts, args.slices), sum);
      }
      args.out.row(t)[i] += sum;
    }
  }
}

}  // namespace conclave
