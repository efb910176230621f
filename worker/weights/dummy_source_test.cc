#include "worker/weights/dummy_source.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

ModelShape SmallMoe() {
  ModelShape shape;
  shape.architecture = Architecture::kQwen3Moe;
  shape.layers = 2;
  shape.hidden = 256;
  shape.heads = shape.kv_heads = 4;
  shape.head_dim = 64;
  shape.ffn = 64;
  shape.vocab = 1000;
  shape.qk_norm = QkNorm::kPerHead;
  shape.moe = {4, 2, 96, true};
  return shape;
}

constexpr const char* kGate = "model.layers.1.mlp.experts.3.gate_proj.weight";

std::vector<uint16_t> ReadAll(DummySource& source, const char* name, const TensorRegion& region) {
  std::vector<uint16_t> values((region.row_end - region.row_begin) *
                               (region.col_end - region.col_begin));
  EXPECT_TRUE(source.Read(name, region, values.data()).ok());
  return values;
}

TEST(DummySource, AnElementDoesNotDependOnTheRegionRead) {
  DummySource source(SmallMoe(), 7), same(SmallMoe(), 7), other(SmallMoe(), 8);
  const auto all = ReadAll(source, kGate, {0, 96, 0, 256});
  EXPECT_EQ(ReadAll(same, kGate, {0, 96, 0, 256}), all);
  EXPECT_NE(ReadAll(other, kGate, {0, 96, 0, 256}), all);
  const auto part = ReadAll(source, kGate, {10, 50, 100, 131});
  for (int row = 0; row < 40; ++row) {
    for (int col = 0; col < 31; ++col) {
      ASSERT_EQ(part[row * 31 + col], all[(row + 10) * 256 + col + 100]);
    }
  }
  EXPECT_EQ(source.bytes_read(), 2 * (96 * 256 + 40 * 31));
}

TEST(DummySource, TensorsAndRowsDiffer) {
  DummySource source(SmallMoe(), 7);
  const auto a = ReadAll(source, kGate, {0, 2, 0, 256});
  const auto b = ReadAll(source, "model.layers.1.mlp.experts.2.gate_proj.weight", {0, 1, 0, 256});
  EXPECT_NE(std::vector<uint16_t>(a.begin(), a.begin() + 256), b);
  EXPECT_NE(std::vector<uint16_t>(a.begin(), a.begin() + 256),
            std::vector<uint16_t>(a.begin() + 256, a.end()));
}

TEST(DummySource, WeightsSpreadAndNormsAreOne) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
    ModelShape shape = SmallMoe();
    shape.weight_dtype = dtype;
    DummySource source(shape, 1);
    std::vector<uint8_t> bytes(1000 * 256 * DtypeBytes(dtype));
    ASSERT_TRUE(source.Read("model.embed_tokens.weight", {0, 1000, 0, 256}, bytes.data()).ok());
    double sum = 0, squares = 0;
    for (int i = 0; i < 256000; ++i) {
      const double value = dtype == Dtype::kF32 ? reinterpret_cast<const float*>(bytes.data())[i]
                           : dtype == Dtype::kF16
                               ? F16ToFloat(reinterpret_cast<const uint16_t*>(bytes.data())[i])
                               : Bf16ToFloat(reinterpret_cast<const uint16_t*>(bytes.data())[i]);
      sum += value;
      squares += value * value;
    }
    EXPECT_NEAR(sum / 256000, 0, 2e-4);
    EXPECT_NEAR(std::sqrt(squares / 256000), 0.02, 5e-4);
    ASSERT_TRUE(
        source.Read("model.layers.0.self_attn.q_norm.weight", {3, 4, 0, 1}, bytes.data()).ok());
    const float one = dtype == Dtype::kF32 ? *reinterpret_cast<const float*>(bytes.data())
                      : dtype == Dtype::kF16
                          ? F16ToFloat(*reinterpret_cast<const uint16_t*>(bytes.data()))
                          : Bf16ToFloat(*reinterpret_cast<const uint16_t*>(bytes.data()));
    EXPECT_EQ(one, 1.0f);
  }
}

TEST(DummySource, KnowsOnlyTheTensorsOfTheShape) {
  DummySource source(SmallMoe(), 1);
  EXPECT_EQ(source.Find("model.layers.2.mlp.gate.weight").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(source.Find("lm_head.weight")->dims, (std::vector<int64_t>{1000, 256}));
  char out[4096];
  EXPECT_FALSE(source.Read(kGate, {0, 97, 0, 1}, out).ok());
}

}  // namespace
}  // namespace conclave
