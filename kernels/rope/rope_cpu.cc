#include <cmath>

#include "kernels/rope/rope_row.h"
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/rope_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/attention/lanes16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// x := weight * (x / sqrt(mean(x^2) + epsilon)), squares summed in sixteen lanes.
void NormHead(float* x, const float* weight, int head_dim, float epsilon) {
  Lanes16 squares = Set16(0);
  for (int i = 0; i < head_dim; i += 16) {
    const Lanes16 v = i + 16 <= head_dim ? Load16(x + i) : LoadTail16(x + i, head_dim - i, 0.0f);
    squares = MulAdd16(v, v, squares);
  }
  const float mean = Sum16(squares) / static_cast<float>(head_dim);
  const float inverse = 1.0f / std::sqrt(mean + epsilon);
  for (int i = 0; i < head_dim; ++i) x[i] = weight[i] * (x[i] * inverse);
}

// (a, b) := (a cos - b sin, b cos + a sin), products rounded before they are added, as transformers
// does.
void RotateHead(float* x, const RopeAngles& angles, int half) {
  int i = 0;
  for (; i + 8 <= half; i += 8) {
    const Vec8 a = hn::LoadU(Tag8(), x + i), b = hn::LoadU(Tag8(), x + half + i);
    const Vec8 c = hn::LoadU(Tag8(), angles.cosine + i), s = hn::LoadU(Tag8(), angles.sine + i);
    hn::StoreU(a * c - b * s, Tag8(), x + i);
    hn::StoreU(b * c + a * s, Tag8(), x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    const float c = angles.cosine[i], s = angles.sine[i];
    x[i] = a * c - b * s;
    x[half + i] = b * c + a * s;
  }
}

void NormRopeRowCpu(const RopeArgs& args, const RopeAngles& angles, float* row) {
  for (int64_t first = 0; first < args.x.cols; first += args.head_dim) {
    float* head = row + first;
    if (!args.norm_weight.empty()) {
      NormHead(head, args.norm_weight.data(), args.head_dim, args.norm_epsilon);
    }
    RotateHead(head, angles, args.head_dim / 2);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(NormRopeRowCpu);

void NormRopeRow(const RopeArgs& args, const RopeAngles& angles, float* row) {
  HWY_DYNAMIC_DISPATCH(NormRopeRowCpu)(args, angles, row);
}

}  // namespace conclave
#endif
