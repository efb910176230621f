#include "worker/weights/tensor_names.h"

#include <set>
#include <string>

#include "gtest/gtest.h"
#include "worker/weights/safetensors_source.h"
#include "worker/weights/weights_test_kit.h"

namespace conclave {
namespace {

TEST(AllTensors, AreTheTensorsOfEveryGoldenCheckpoint) {
  for (const char* name : {"llama", "llama31", "qwen3", "mixtral", "olmoe", "qwen3_moe"}) {
    SCOPED_TRACE(name);
    const ModelShape shape = GoldenShapeOf(name);
    const auto source = SafetensorsSource::Open(GoldenPath(name));
    ASSERT_TRUE(source.ok()) << source.status();
    std::set<std::string> names;
    int64_t elements = 0;
    for (const NamedTensor& tensor : AllTensors(shape)) {
      const auto info = (*source)->Find(tensor.name);
      ASSERT_TRUE(info.ok()) << info.status();
      EXPECT_EQ(info->dims, tensor.dims) << tensor.name;
      EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
      int64_t size = 1;
      for (int64_t dim : tensor.dims) size *= dim;
      elements += size;
    }
    EXPECT_EQ(elements, shape.TotalParameters());
  }
}

TEST(AllTensors, DenseLayersOfAMoeModelHaveNoRouter) {
  ModelShape shape = GoldenShapeOf("qwen3_moe");
  shape.dense_layers = {1};
  std::set<std::string> names;
  for (const NamedTensor& tensor : AllTensors(shape)) names.insert(tensor.name);
  EXPECT_TRUE(names.count("model.layers.0.mlp.gate.weight"));
  EXPECT_TRUE(names.count("model.layers.0.mlp.experts.15.down_proj.weight"));
  EXPECT_FALSE(names.count("model.layers.1.mlp.gate.weight"));
  EXPECT_TRUE(names.count("model.layers.1.mlp.gate_proj.weight"));
  EXPECT_EQ(TensorOfDenseFfn(shape, FfnTensor::kDown, 1).dims, (std::vector<int64_t>{64, 128}));
}

}  // namespace
}  // namespace conclave
