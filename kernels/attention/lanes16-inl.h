// Lanes16: sixteen floats, one AVX-512 register or two AVX2 registers. Sums over a head or a page
// are kept in these sixteen lanes and folded in one fixed tree (i with i + 8, then i + 4, i + 2, i
// + 1), so the result does not depend on the register width. Also exp, from the same operations in
// the same order everywhere. Include inside foreach_target code, after hwy/highway.h. Values; any
// thread.

#if defined(CONCLAVE_KERNELS_ATTENTION_LANES16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONCLAVE_KERNELS_ATTENTION_LANES16_INL_H_
#undef CONCLAVE_KERNELS_ATTENTION_LANES16_INL_H_
#else
#define CONCLAVE_KERNELS_ATTENTION_LANES16_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "kernels/attention/fast_exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {

using Tag8 = hwy::HWY_NAMESPACE::FixedTag<float, 8>;
using Vec8 = hwy::HWY_NAMESPACE::Vec<Tag8>;

#if HWY_TARGET <= HWY_AVX3
using Tag16 = hwy::HWY_NAMESPACE::FixedTag<float, 16>;

struct Lanes16 {
  hwy::HWY_NAMESPACE::Vec<Tag16> all;
};

HWY_INLINE Lanes16 Set16(float x) { return {hwy::HWY_NAMESPACE::Set(Tag16(), x)}; }
HWY_INLINE Lanes16 Load16(const float* p) { return {hwy::HWY_NAMESPACE::LoadU(Tag16(), p)}; }
HWY_INLINE void Store16(Lanes16 a, float* p) { hwy::HWY_NAMESPACE::StoreU(a.all, Tag16(), p); }
HWY_INLINE Lanes16 Add16(Lanes16 a, Lanes16 b) { return {a.all + b.all}; }
HWY_INLINE Lanes16 Sub16(Lanes16 a, Lanes16 b) { return {a.all - b.all}; }
HWY_INLINE Lanes16 Mul16(Lanes16 a, Lanes16 b) { return {a.all * b.all}; }
HWY_INLINE Lanes16 Max16(Lanes16 a, Lanes16 b) { return {hwy::HWY_NAMESPACE::Max(a.all, b.all)}; }
HWY_INLINE Lanes16 MulAdd16(Lanes16 a, Lanes16 b, Lanes16 c) {
  return {hwy::HWY_NAMESPACE::MulAdd(a.all, b.all, c.all)};
}
HWY_INLINE Lanes16 Exp16(Lanes16 a) { return {FastExp(Tag16(), a.all)}; }
// Lane i + lane i + 8.
HWY_INLINE Vec8 Fold8(Lanes16 a) {
  namespace hn = hwy::HWY_NAMESPACE;
  return hn::LowerHalf(Tag8(), a.all) + hn::UpperHalf(Tag8(), a.all);
}
#else
struct Lanes16 {
  Vec8 low;
  Vec8 high;
};

HWY_INLINE Lanes16 Set16(float x) {
  const Vec8 v = hwy::HWY_NAMESPACE::Set(Tag8(), x);
  return {v, v};
}
HWY_INLINE Lanes16 Load16(const float* p) {
  namespace hn = hwy::HWY_NAMESPACE;
  return {hn::LoadU(Tag8(), p), hn::LoadU(Tag8(), p + 8)};
}
HWY_INLINE void Store16(Lanes16 a, float* p) {
  namespace hn = hwy::HWY_NAMESPACE;
  hn::StoreU(a.low, Tag8(), p);
  hn::StoreU(a.high, Tag8(), p + 8);
}
HWY_INLINE Lanes16 Add16(Lanes16 a, Lanes16 b) { return {a.low + b.low, a.high + b.high}; }
HWY_INLINE Lanes16 Sub16(Lanes16 a, Lanes16 b) { return {a.low - b.low, a.high - b.high}; }
HWY_INLINE Lanes16 Mul16(Lanes16 a, Lanes16 b) { return {a.low * b.low, a.high * b.high}; }
HWY_INLINE Lanes16 Max16(Lanes16 a, Lanes16 b) {
  namespace hn = hwy::HWY_NAMESPACE;
  return {hn::Max(a.low, b.low), hn::Max(a.high, b.high)};
}
HWY_INLINE Lanes16 MulAdd16(Lanes16 a, Lanes16 b, Lanes16 c) {
  namespace hn = hwy::HWY_NAMESPACE;
  return {hn::MulAdd(a.low, b.low, c.low), hn::MulAdd(a.high, b.high, c.high)};
}
HWY_INLINE Lanes16 Exp16(Lanes16 a) { return {FastExp(Tag8(), a.low), FastExp(Tag8(), a.high)}; }
HWY_INLINE Vec8 Fold8(Lanes16 a) { return a.low + a.high; }
#endif

// The four sums of four values, [a, b, c, d].
HWY_INLINE hwy::HWY_NAMESPACE::Vec<hwy::HWY_NAMESPACE::FixedTag<float, 4>> Sum4(Lanes16 a,
                                                                                Lanes16 b,
                                                                                Lanes16 c,
                                                                                Lanes16 d) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::FixedTag<float, 4> tag4;
  const Vec8 a8 = Fold8(a), b8 = Fold8(b), c8 = Fold8(c), d8 = Fold8(d);
  const auto a4 = hn::LowerHalf(tag4, a8) + hn::UpperHalf(tag4, a8);
  const auto b4 = hn::LowerHalf(tag4, b8) + hn::UpperHalf(tag4, b8);
  const auto c4 = hn::LowerHalf(tag4, c8) + hn::UpperHalf(tag4, c8);
  const auto d4 = hn::LowerHalf(tag4, d8) + hn::UpperHalf(tag4, d8);
  // [a0 b0 a1 b1] + [a2 b2 a3 b3], and the same of c and d.
  const auto ab = hn::InterleaveLower(tag4, a4, b4) + hn::InterleaveUpper(tag4, a4, b4);
  const auto cd = hn::InterleaveLower(tag4, c4, d4) + hn::InterleaveUpper(tag4, c4, d4);
  return hn::ConcatLowerLower(tag4, cd, ab) + hn::ConcatUpperUpper(tag4, cd, ab);
}

HWY_INLINE float Sum16(Lanes16 a) { return hwy::HWY_NAMESPACE::GetLane(Sum4(a, a, a, a)); }

// The largest of the sixteen.
HWY_INLINE float MaxOf16(Lanes16 a) {
  alignas(64) float lanes[16];
  Store16(a, lanes);
  float result = lanes[0];
  for (int i = 1; i < 16; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}

// p[0..count) and `fill` behind, count < 16.
HWY_INLINE Lanes16 LoadTail16(const float* p, int64_t count, float fill) {
  alignas(64) float lanes[16];
  for (int64_t i = 0; i < 16; ++i) lanes[i] = i < count ? p[i] : fill;
  return Load16(lanes);
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
