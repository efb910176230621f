#include "kernels/exact/exact_test_kit.h"

#include "absl/strings/str_cat.h"
#include "comm/base/rng.h"
#include "comm/device/cuda_device.h"

namespace conclave {
namespace {

WeightFormat FormatOf(Dtype dtype) {
  if (dtype == Dtype::kF32) return WeightFormat::kF32;
  return dtype == Dtype::kF16 ? WeightFormat::kF16 : WeightFormat::kBf16;
}

}  // namespace

void ExactTest::SetUp() {
  const absl::Status device = CheckCudaDevice(0);
  if (!device.ok()) GTEST_SKIP() << device.message();
  ExpectOk(UseCudaDevice(0));
}

HostTiles::HostTiles(int outputs, int inputs, int matrices, Dtype dtype) {
  view.outputs = outputs;
  view.inputs = inputs;
  view.matrices = matrices;
  view.format = FormatOf(dtype);
  const int64_t elements = int64_t{view.output_tiles()} * view.input_tiles() * kTileElements;
  view.matrix_bytes = (elements * static_cast<int64_t>(DtypeBytes(dtype)) + 1023) / 1024 * 1024;
  bytes.assign(view.matrix_bytes * matrices, 0);
}

void HostTiles::Set(int matrix, int64_t output, int64_t input, float value) {
  uint8_t* data = bytes.data() + matrix * view.matrix_bytes;
  if (view.format == WeightFormat::kF32) {
    std::memcpy(data + 4 * TiledIndex(output, input, view.input_tiles(), 4), &value, 4);
    return;
  }
  const uint16_t bits = view.format == WeightFormat::kF16 ? FloatToF16(value) : FloatToBf16(value);
  std::memcpy(data + 2 * TiledIndex(output, input, view.input_tiles(), 2), &bits, 2);
}

void HostTiles::SetAll(int matrix, const PackedMatrix& packed, int64_t (*placed)(int64_t)) {
  for (int64_t n = 0; n < packed.outputs(); ++n) {
    const int64_t output = placed(n);
    if (output < 0) continue;
    for (int64_t k = 0; k < packed.inputs(); ++k) Set(matrix, output, k, packed.At(n, k));
  }
}

HostTiles TilesOf(const PackedMatrix& packed) {
  HostTiles tiles(static_cast<int>(packed.outputs()), static_cast<int>(packed.inputs()), 1,
                  packed.dtype());
  tiles.SetAll(0, packed, [](int64_t n) { return n; });
  return tiles;
}

std::vector<float> UniformFloats(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(rng.Next() >> 40) * 0x1p-23f - 1.0f;
  return values;
}

void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& want,
                    const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  if (std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0) return;
  int64_t wrong = 0, first = -1;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &want[i], sizeof(float)) == 0) continue;
    if (first < 0) first = static_cast<int64_t>(i);
    ++wrong;
  }
  ADD_FAILURE() << what << ": " << wrong << " of " << got.size() << " differ, first at " << first
                << ": got " << absl::StrCat(got[first]) << ", want " << absl::StrCat(want[first]);
}

void ExpectOk(const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; }

}  // namespace conclave
