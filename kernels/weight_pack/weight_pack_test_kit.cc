#include "kernels/weight_pack/weight_pack_test_kit.h"

#include <cmath>
#include <cstring>

#include "glog/logging.h"

namespace conclave {

const char* FormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kBf16:
      return "bf16";
    case WeightFormat::kF16:
      return "f16";
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kFp8:
      return "fp8";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4:
      return "int4";
    case WeightFormat::kNf4:
      return "nf4";
    case WeightFormat::kMxfp4:
      return "mxfp4";
  }
  LOG(FATAL) << "no such format: " << static_cast<int>(format);
}

std::string CaseName(FormatCase c) {
  return std::string(FormatName(c.format)) + "/" + std::to_string(c.group);
}

std::vector<FormatCase> QuantCases() {
  std::vector<FormatCase> cases;
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kInt8, WeightFormat::kInt4,
                                    WeightFormat::kNf4, WeightFormat::kMxfp4}) {
    for (const int32_t group : {32, 64, 128, 256}) {
      if (IsQuantGroup(format, group)) cases.push_back({format, group});
    }
  }
  return cases;
}

std::vector<FormatCase> AllCases() {
  std::vector<FormatCase> cases = QuantCases();
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kF16, WeightFormat::kF32}) {
    cases.push_back({format, 0});
  }
  return cases;
}

WeightView MakeView(FormatCase c, MatrixShape shape) {
  WeightView view;
  view.outputs = shape.outputs;
  view.inputs = shape.inputs;
  view.matrices = shape.matrices;
  view.format = c.format;
  view.group = c.group;
  view.matrix_bytes = MatrixBytes(view);
  return view;
}

SourceRows RandomSource(Rng& rng, Dtype dtype, int64_t count) {
  SourceRows source;
  source.values.resize(count);
  float scale = 1;
  for (int64_t i = 0; i < count; ++i) {
    if (i % 16 == 0) {
      scale = std::ldexp(1.0f, static_cast<int>(rng.Below(5)) - 8);
      if (rng.Chance(1, 8)) scale = 0;
    }
    double sum = -2;
    for (int j = 0; j < 4; ++j) sum += rng.Uniform();
    source.values[i] = rng.Chance(1, 32) ? 0 : static_cast<float>(sum) * scale;
  }
  const size_t bytes = DtypeBytes(dtype);
  source.bytes.resize(count * bytes);
  for (int64_t i = 0; i < count; ++i) {
    float& value = source.values[i];
    if (dtype == Dtype::kF32) {
      std::memcpy(&source.bytes[i * bytes], &value, bytes);
      continue;
    }
    const uint16_t bits = dtype == Dtype::kF16 ? FloatToF16(value) : FloatToBf16(value);
    value = dtype == Dtype::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
    std::memcpy(&source.bytes[i * bytes], &bits, bytes);
  }
  return source;
}

}  // namespace conclave
