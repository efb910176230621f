#include <algorithm>
#include <limits>

#include "kernels/moe_gate/exp_sum.h"
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/moe_gate/moe_gate_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/attention/lanes16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {

float ExpSumCpu(const float* x, int64_t count, float max) {
  const Lanes16 shift = Set16(max);
  Lanes16 sum = Set16(0);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) sum = Add16(sum, Exp16(Sub16(Load16(x + i), shift)));
  if (i < count) {
    const Lanes16 tail = LoadTail16(x + i, count - i, std::numeric_limits<float>::lowest());
    sum = Add16(sum, Exp16(Sub16(tail, shift)));
  }
  return Sum16(sum);
}

void ExpScaleCpu(absl::Span<float> x, float max, float sum) {
  alignas(64) float lanes[16];
  for (size_t i = 0; i < x.size(); i += 16) {
    const size_t count = std::min<size_t>(16, x.size() - i);
    Store16(Exp16(Sub16(LoadTail16(x.data() + i, count, max), Set16(max))), lanes);
    for (size_t j = 0; j < count; ++j) x[i + j] = lanes[j] / sum;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(ExpSumCpu);
HWY_EXPORT(ExpScaleCpu);

float ExpSum(const float* x, int64_t count, float max) {
  return HWY_DYNAMIC_DISPATCH(ExpSumCpu)(x, count, max);
}

void ExpScale(absl::Span<float> x, float max, float sum) {
  HWY_DYNAMIC_DISPATCH(ExpScaleCpu)(x, max, sum);
}

}  // namespace conclave
#endif
