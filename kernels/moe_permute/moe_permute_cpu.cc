#include <cmath>

#include "comm/base/reduction.h"
#include "kernels/moe_permute/combine_row.h"
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/moe_permute/moe_permute_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/attention/lanes16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sixteen columns from `column` of the tree sum of a choice's parts.
HWY_INLINE Lanes16 LoadParts(const CombineArgs& args, const int32_t* rows, int64_t column) {
  if (args.slices == 1) return Load16(args.parts.row(rows[0]) + column);
  Lanes16 parts[kReductionSlices];
  for (int s = 0; s < args.slices; ++s) parts[s] = Load16(args.parts.row(rows[s]) + column);
  for (int stride = 1; stride < args.slices; stride *= 2) {
    for (int i = 0; i + stride < args.slices; i += 2 * stride) {
      parts[i] = Add16(parts[i], parts[i + stride]);
    }
  }
  return parts[0];
}

void CombineRowCpu(const CombineArgs& args, int64_t token) {
  const int32_t* rows = args.part_row.data() + token * args.top_k * args.slices;
  const float* weights = args.weights.data() + token * args.top_k;
  float* out = args.out.row(token);
  int64_t i = 0;
  for (; i + 16 <= args.out.cols; i += 16) {
    Lanes16 sum = Set16(0);
    for (int c = 0; c < args.top_k; ++c) {
      sum = MulAdd16(Set16(weights[c]), LoadParts(args, rows + c * args.slices, i), sum);
    }
    Store16(Add16(Load16(out + i), sum), out + i);
  }
  for (; i < args.out.cols; ++i) {
    float sum = 0;
    for (int c = 0; c < args.top_k; ++c) {
      float parts[kReductionSlices];
      for (int s = 0; s < args.slices; ++s) {
        parts[s] = args.parts.row(rows[c * args.slices + s])[i];
      }
      sum = std::fma(weights[c], TreeSum(parts, args.slices), sum);
    }
    out[i] += sum;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(CombineRowCpu);

void CombineRow(const CombineArgs& args, int64_t token) {
  HWY_DYNAMIC_DISPATCH(CombineRowCpu)(args, token);
}

}  // namespace conclave
#endif
