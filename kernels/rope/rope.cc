#include "kernels/rope/rope.h"

#include <cmath>
#include <numbers>

#include "glog/logging.h"
#include "kernels/rope/rope_row.h"

namespace conclave {
namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between
// interpolated. fp32, as there.
float RescaleLlama3(float frequency, const RopeOptions& options) {
  const float context = static_cast<float>(options.original_context_tokens);
  const float factor = static_cast<float>(options.factor);
  const float low = static_cast<float>(options.low_freq_factor);
  const float high = static_cast<float>(options.high_freq_factor);
  const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
  if (wavelength > context / low) return frequency / factor;
  if (wavelength < context / high) return frequency;
  const float smooth = (context / wavelength - low) / (high - low);
  return (1 - smooth) * (frequency / factor) + smooth * frequency;
}

}  // namespace

std::vector<float> RopeFrequencies(const RopeOptions& options) {
  CHECK(options.head_dim > 0 && options.head_dim % 2 == 0) << options.head_dim;
  std::vector<float> frequencies(options.head_dim / 2);
  for (int i = 0; i < options.head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(options.head_dim);
    const float power = static_cast<float>(std::pow(options.theta, static_cast<double>(exponent)));
    frequencies[i] = 1.0f / power;
    if (options.llama3) frequencies[i] = RescaleLlama3(frequencies[i], options);
  }
  return frequencies;
}

void CheckRopeArgs(const RopeArgs& args) {
  CHECK(args.head_dim > 0 && args.head_dim % 2 == 0 && args.head_dim <= kRopeHeadDimMax)
      << args.head_dim;
  CHECK_EQ(args.x.cols % args.head_dim, 0);
  CHECK_EQ(static_cast<int64_t>(args.positions.size()), args.x.rows);
  CHECK_EQ(static_cast<int>(args.frequencies.size()), args.head_dim / 2);
  CHECK(args.norm_weight.empty() || static_cast<int>(args.norm_weight.size()) == args.head_dim);
}

void NormRope(const RopeArgs& args) {
  CheckRopeArgs(args);
  RopeAngles angles;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    const float position = static_cast<float>(args.positions[t]);
    for (int i = 0; i < args.head_dim / 2; ++i) {
      const float angle = args.frequencies[i] * position;
      angles.cosine[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      angles.sine[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
    NormRopeRow(args, angles, args.x.row(t));
  }
}

}  // namespace conclave
