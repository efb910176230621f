// For tests and benches of weight_pack: views, and source rows of every dtype. Values; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/base/rng.h"
#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {

struct FormatCase {
  WeightFormat format;
  int32_t group;
};
const char* FormatName(WeightFormat format);
std::string CaseName(FormatCase c);
// Every quantised format with every group it can have.
std::vector<FormatCase> QuantCases();
// Those, and the plain formats.
std::vector<FormatCase> AllCases();

struct MatrixShape {
  int32_t outputs = 0;
  int32_t inputs = 0;
  int32_t matrices = 1;
};
// Without data.
WeightView MakeView(FormatCase c, MatrixShape shape);

// `count` numbers of a dtype, and what they are as floats: about normal, times a random power of
// two for each run of 16, with a few zeros and runs of zeros.
struct SourceRows {
  std::vector<uint8_t> bytes;
  std::vector<float> values;
};
SourceRows RandomSource(Rng& rng, Dtype dtype, int64_t count);

}  // namespace conclave
