#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/sampling/logit_scan.h"
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sampling/sampling_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/attention/lanes16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// As CleanLogit, in every lane.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Clean(D d, V x) {
  const V high = hn::Set(d, std::numeric_limits<float>::max());
  const V low = hn::Set(d, std::numeric_limits<float>::lowest());
  return hn::Max(hn::Min(hn::IfThenElse(hn::Eq(x, x), x, low), high), low);
}

float MaxLogitCpu(const float* logits, int64_t count) {
  Vec8 max = hn::Set(Tag8(), std::numeric_limits<float>::lowest());
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    max = hn::Max(max, Clean(Tag8(), hn::LoadU(Tag8(), logits + i)));
  }
  float result = hn::GetLane(hn::MaxOfLanes(Tag8(), max));
  for (; i < count; ++i) result = std::max(result, CleanLogit(logits[i]));
  return result;
}

HWY_INLINE Vec8 Weights8(Vec8 x, const WeightScale& scale) {
  const Tag8 d;
  const Vec8 shifted = hn::Sub(Clean(d, x), hn::Set(d, scale.max));
  const Vec8 weight = FastExp(d, hn::Div(shifted, hn::Set(d, scale.temperature)));
  return hn::IfThenElseZero(hn::Ge(weight, hn::Set(d, scale.weight_min)), weight);
}

float ScaleBlockCpu(const float* logits, int64_t count, const WeightScale& scale, float* out) {
  const Tag8 d;
  Lanes16 sum = Set16(0);
  alignas(64) float lanes[16];
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t n = std::min<int64_t>(16, count - i);
    const float* x = logits + i;
    if (n < 16) {
      Store16(LoadTail16(x, n, std::numeric_limits<float>::lowest()), lanes);
      x = lanes;
    }
    const Vec8 low = Weights8(hn::LoadU(d, x), scale);
    const Vec8 high = Weights8(hn::LoadU(d, x + 8), scale);
    hn::Store(low, d, lanes);
    hn::Store(high, d, lanes + 8);
    // A row of equal lowest logits weighs its padding too: only the row counts.
    for (int64_t j = n; j < 16; ++j) lanes[j] = 0;
    sum = Add16(sum, Load16(lanes));
    std::copy_n(lanes, n, out + i);
  }
  return Sum16(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(MaxLogitCpu);
HWY_EXPORT(ScaleBlockCpu);

float CleanLogit(float logit) {
  const float high = std::numeric_limits<float>::max();
  return std::isnan(logit) ? -high : std::clamp(logit, -high, high);
}

float MaxLogit(absl::Span<const float> logits) {
  return HWY_DYNAMIC_DISPATCH(MaxLogitCpu)(logits.data(), static_cast<int64_t>(logits.size()));
}

float ScaleBlock(absl::Span<const float> logits, const WeightScale& scale, float* out) {
  const int64_t count = static_cast<int64_t>(logits.size());
  return HWY_DYNAMIC_DISPATCH(ScaleBlockCpu)(logits.data(), count, scale, out);
}

}  // namespace conclave
#endif
