#include "worker/weights/weights_test_kit.h"

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {
namespace {

ModelShape SmallShape(Architecture architecture, int layers, int kv_heads, int head_dim) {
  ModelShape shape;
  shape.architecture = architecture;
  shape.layers = layers;
  shape.hidden = 64;
  shape.heads = 4;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.ffn = 128;
  shape.vocab = 512;
  return shape;
}

}  // namespace

ModelShape GoldenShapeOf(absl::string_view name) {
  if (name == "llama") return SmallShape(Architecture::kLlama, 3, 2, 16);
  if (name == "llama31") {
    ModelShape shape = SmallShape(Architecture::kLlama, 2, 4, 16);
    shape.tied_embeddings = true;
    return shape;
  }
  if (name == "qwen3") {
    ModelShape shape = SmallShape(Architecture::kQwen3, 2, 2, 32);
    shape.qk_norm = QkNorm::kPerHead;
    return shape;
  }
  if (name == "mixtral") {
    ModelShape shape = SmallShape(Architecture::kMixtral, 3, 2, 16);
    shape.moe = {8, 2, 96, true};
    return shape;
  }
  if (name == "olmoe") {
    ModelShape shape = SmallShape(Architecture::kOlmoe, 2, 4, 16);
    shape.qk_norm = QkNorm::kFullWidth;
    shape.moe = {8, 2, 32, false};
    return shape;
  }
  CHECK_EQ(name, "qwen3_moe");
  ModelShape shape = SmallShape(Architecture::kQwen3Moe, 3, 2, 32);
  shape.qk_norm = QkNorm::kPerHead;
  shape.moe = {16, 4, 32, true};
  return shape;
}

std::string GoldenPath(absl::string_view name) { return absl::StrCat("tests/golden/", name); }

Assign MakeAssign(const ModelShape& shape, absl::string_view spec, int rank) {
  auto parsed = ParseParallelSpec(spec);
  CHECK(parsed.ok()) << parsed.status();
  auto resolved = ResolveParallelSpec(*parsed, shape);
  CHECK(resolved.ok()) << resolved.status();
  Assign assign;
  assign.shape = shape;
  assign.rank = rank;
  assign.plan.spec = *resolved;
  for (int stage = 0; stage < resolved->pp; ++stage) {
    assign.plan.stages.push_back(
        {shape.layers * stage / resolved->pp, shape.layers * (stage + 1) / resolved->pp});
  }
  const int ranks = resolved->StageSize();
  for (int layer = 0; layer < shape.layers; ++layer) {
    if (!shape.IsMoeLayer(layer)) {
      assign.plan.experts.layers.emplace_back();
      continue;
    }
    std::vector<std::vector<int32_t>> owners;
    for (int unit = 0; unit < shape.moe.experts * resolved->slices; ++unit) {
      owners.push_back({(unit + layer) % ranks});
    }
    assign.plan.experts.layers.emplace_back(resolved->slices, owners);
  }
  return assign;
}

}  // namespace conclave
