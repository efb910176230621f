#include "kernels/exact/exact_norm.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/exact/exact_test_kit.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"

namespace conclave {
namespace {

constexpr float kEpsilon = 1e-6f;

using ExactNormTest = ExactTest;

TEST_F(ExactNormTest, RmsNormHasTheBitsOfTheCpu) {
  for (const int64_t cols : {1, 5, 17, 64, 80, 100, 2048, 4100}) {
    for (const int64_t rows : {1, 3, 200}) {
      for (const bool add : {false, true}) {
        std::vector<float> x = UniformFloats(rows * cols, 1), want(rows * cols);
        const std::vector<float> delta = UniformFloats(rows * cols, 2);
        const std::vector<float> weight = UniformFloats(cols, 3);
        const OnDevice<float> dx(x), dd(delta), dw(weight);
        const OnDevice<float> y = OnDevice<float>::Poisoned(rows * cols);
        const Rows host_x = {x.data(), rows, cols, cols}, host_y = {want.data(), rows, cols, cols};
        if (add) {
          AddRmsNorm(host_x, {delta.data(), rows, cols, cols}, weight, kEpsilon, host_y);
        } else {
          RmsNorm(host_x, weight, kEpsilon, host_y);
        }
        ExpectOk(ExactRmsNorm(
            {dx.get(), add ? dd.get() : nullptr, dw.get(), kEpsilon, rows, cols, y.get()},
            nullptr));
        const std::string what = absl::StrCat("cols ", cols, " rows ", rows, " add ", add);
        ExpectSameBits(y.Read(), want, what);
        ExpectSameBits(dx.Read(), x, what + ", residual");
      }
    }
  }
}

TEST_F(ExactNormTest, HalvesOfACutRowHaveTheBitsOfTheCpu) {
  for (const int slices : {1, 2, 4, 8}) {
    for (const int64_t cols : {16, 60, 512, 2048}) {
      const int64_t rows = 5, stride = cols + 3;
      std::vector<float> x = UniformFloats(rows * stride, slices), want(rows);
      const std::vector<float> weight = UniformFloats(cols, 3);
      const OnDevice<float> dx(x), dw(weight), sums = OnDevice<float>::Poisoned(rows);
      SumSquares({x.data(), rows, cols, stride}, slices, absl::MakeSpan(want));
      const ExactRows device = {dx.get(), rows, cols, stride};
      ExpectOk(ExactSumSquares(device, slices, sums.get(), nullptr));
      const std::string what = absl::StrCat("cols ", cols, " slices ", slices);
      ExpectSameBits(sums.Read(), want, what);
      const int64_t width = cols * 8 / slices;
      const Rows host = {x.data(), rows, cols, stride};
      ScaleByRms(host, want, width, weight, kEpsilon, host);
      ExpectOk(ExactScaleByRms({device, sums.get(), width, dw.get(), kEpsilon}, nullptr));
      ExpectSameBits(dx.Read(), x, what + ", scaled");
    }
  }
}

TEST_F(ExactNormTest, NormRopeHasTheBitsOfTheCpu) {
  for (const int head_dim : {2, 16, 20, 32, 64, 80, 128, 256}) {
    for (const int heads : {1, 3, 16}) {
      for (const bool norm : {false, true}) {
        const int64_t rows = 37, cols = static_cast<int64_t>(heads) * head_dim, stride = cols + 5;
        const int half = head_dim / 2;
        std::vector<float> x = UniformFloats(rows * stride, head_dim + heads);
        const std::vector<float> weight = UniformFloats(head_dim, 3);
        const std::vector<float> frequencies = RopeFrequencies({.head_dim = head_dim});
        std::vector<int32_t> positions(rows);
        std::vector<float> cosine(rows * half), sine(rows * half);
        for (int64_t t = 0; t < rows; ++t) {
          positions[t] = static_cast<int32_t>(t * t * 31);
          for (int i = 0; i < half; ++i) {
            const float angle = frequencies[i] * static_cast<float>(positions[t]);
            cosine[t * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
            sine[t * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
          }
        }
        const OnDevice<float> dx(x), dw(weight), dc(cosine), ds(sine);
        RopeArgs host;
        host.x = {x.data(), rows, cols, stride};
        host.head_dim = head_dim;
        host.positions = positions;
        host.frequencies = frequencies;
        if (norm) host.norm_weight = weight;
        host.norm_epsilon = kEpsilon;
        NormRope(host);
        ExactRopeArgs args;
        args.x = {dx.get(), rows, cols, stride};
        args.head_dim = head_dim;
        args.cosine = dc.get();
        args.sine = ds.get();
        args.norm_weight = norm ? dw.get() : nullptr;
        args.norm_epsilon = kEpsilon;
        ExpectOk(ExactNormRope(args, nullptr));
        ExpectSameBits(dx.Read(), x,
                       absl::StrCat("head_dim ", head_dim, " heads ", heads, " norm ", norm));
      }
    }
  }
}

}  // namespace
}  // namespace conclave
