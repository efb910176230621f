#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu/swiglu_cpu.cc"
#include <algorithm>

#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/swiglu/swiglu.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// exp(x) as 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2, exp(r) by its Taylor polynomial of
// degree 7 (error below 2^-28). Below -87 the result is that of -87 (1e-38, nothing beside the 1 it
// is added to); beyond 88.7 infinity.
HWY_INLINE V Exp(V x) {
  const D d;
  const hn::RebindToSigned<D> di;
  x = hn::Min(hn::Max(x, hn::Set(d, -87.0f)), hn::Set(d, 100.0f));
  const V n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  // ln 2 in two parts, the first with so few bits that n times it is exact (Cody and Waite).
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.0f / 5040);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  // 2^n in two factors, so that n = 128 and more overflow to infinity rather than into the sign.
  const auto whole = hn::ConvertTo(di, n);
  const auto half = hn::ShiftRight<1>(whole);
  const auto bias = hn::Set(di, 127);
  const V scale0 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(whole, half), bias)));
  return hn::Mul(hn::Mul(p, scale0), scale1);
}

HWY_INLINE V SwiGluOf(V gate, V up) {
  const D d;
  const V denominator = hn::Add(hn::Set(d, 1.0f), Exp(hn::Neg(gate)));
  return hn::Mul(hn::Div(gate, denominator), up);
}

void SwiGluCpu(const float* gate, const float* up, int64_t count, float* h) {
  const D d;
  constexpr int64_t kLanes = HWY_LANES(float);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(SwiGluOf(hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, h + i);
  }
  if (i == count) return;
  HWY_ALIGN float g[kLanes] = {}, u[kLanes] = {};
  std::copy(gate + i, gate + count, g);
  std::copy(up + i, up + count, u);
  hn::Store(SwiGluOf(hn::Load(d, g), hn::Load(d, u)), d, g);
  std::copy_n(g, count - i, h + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(SwiGluCpu);

void SwiGlu(const float* gate, const float* up, int64_t count, float* h) {
  HWY_DYNAMIC_DISPATCH(SwiGluCpu)(gate, up, count, h);
}

}  // namespace conclave
#endif  // HWY_ONCE
