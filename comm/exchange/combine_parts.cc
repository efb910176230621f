#include "comm/exchange/combine_parts.h"

#include <cmath>

#include "comm/base/reduction.h"
#include "glog/logging.h"

namespace conclave {

void CombineParts(const PartsToCombine& args) {
  CHECK_LE(args.slices, kReductionSlices);
  CHECK_EQ(args.part_row.size(), args.weights.size() * args.slices);
  const int64_t hidden = args.hidden;
  for (int64_t t = 0; t < args.tokens(); ++t) {
    for (int64_t i = 0; i < hidden; ++i) {
      float sum = 0;
      for (int c = 0; c < args.top_k; ++c) {
        const int64_t choice = t * args.top_k + c;
        float parts[kReductionSlices];
        for (int s = 0; s < args.slices; ++s) {
          parts[s] = args.parts[args.part_row[choice * args.slices + s] * hidden + i];
        }
        sum = std::fma(args.weights[choice], TreeSum(parts, args.slices), sum);
      }
      args.out[t * hidden + i] = sum;
    }
  }
}

}  // namespace conclave
