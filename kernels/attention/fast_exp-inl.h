// FastExp: e^x for softmax, whose arguments are at most 0: a few multiply-adds in one order, so
// that every instruction set gives the same bits. Relative error below 3e-7; 0 for x < -87 and for
// NaN; exactly 1 at 0; x above 88 counts as 88. Include inside foreach_target code, after
// hwy/highway.h. Pure; any thread.

#if defined(CONCLAVE_KERNELS_ATTENTION_FAST_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONCLAVE_KERNELS_ATTENTION_FAST_EXP_INL_H_
#undef CONCLAVE_KERNELS_ATTENTION_FAST_EXP_INL_H_
#else
#define CONCLAVE_KERNELS_ATTENTION_FAST_EXP_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {

template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V FastExp(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  const auto in_range = hn::Ge(x, hn::Set(d, -87.0f));
  x = hn::Min(hn::IfThenElseZero(in_range, x), hn::Set(d, 88.0f));
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first exact times any n.
  const V n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693145752f), x);
  r = hn::NegMulAdd(n, hn::Set(d, 1.42860677e-6f), r);
  // The Taylor series to r^6 / 6!: the rest is below 1.2e-7 on this interval.
  V p = hn::Set(d, 1.0f / 720.0f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto exponent = hn::Add(hn::NearestInt(n), hn::Set(di, 127));
  const V scale = hn::BitCast(d, hn::ShiftLeft<23>(exponent));
  return hn::IfThenElseZero(in_range, hn::Mul(p, scale));
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
