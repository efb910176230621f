#include <algorithm>
#include <bit>
#include <boost/json.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/weights/dummy_source.h"
#include "worker/weights/model_weights.h"
#include "worker/weights/rank_slices.h"
#include "worker/weights/safetensors_source.h"
#include "worker/weights/safetensors_test_kit.h"
#include "worker/weights/tensor_names.h"
#include "worker/weights/weights_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;

// A bf16 checkpoint read by other means than the loader's, which notes the elements asked for.
class Checkpoint {
 public:
  struct Tensor {
    int64_t cols = 1;
    std::vector<float> values;
    std::vector<bool> seen;

    float At(int64_t row, int64_t col) {
      seen.at(row * cols + col) = true;
      return values[row * cols + col];
    }
  };

  explicit Checkpoint(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    const boost::json::value parsed = boost::json::parse(bytes.substr(8, header));
    for (const auto& item : parsed.as_object()) {
      if (item.key() == "__metadata__") continue;
      const auto& shape = item.value().at("shape").as_array();
      const auto& offsets = item.value().at("data_offsets").as_array();
      Tensor& tensor = tensors_[item.key()];
      tensor.cols = shape.size() == 2 ? shape[1].as_int64() : 1;
      for (int64_t at = offsets[0].as_int64(); at < offsets[1].as_int64(); at += 2) {
        uint16_t bits = 0;
        std::memcpy(&bits, bytes.data() + 8 + header + at, 2);
        tensor.values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
      }
      tensor.seen.resize(tensor.values.size());
    }
  }

  Tensor& Get(const std::string& name) { return tensors_.at(name); }

  // Names of tensors with an element never asked for.
  std::vector<std::string> Unseen() const {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) {
      if (std::find(tensor.seen.begin(), tensor.seen.end(), false) != tensor.seen.end()) {
        names.push_back(name);
      }
    }
    return names;
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

absl::StatusOr<LoadedModel> Load(const Assign& assign, WeightSource& source, int threads = 2) {
  ComputePool pool(threads);
  std::atomic<uint64_t> progress{0};
  const std::atomic<bool> cancelled{false};
  auto loaded = LoadModelWeights(assign, source, pool, progress, cancelled);
  if (loaded.ok()) {
    EXPECT_GT(progress.load(), 0u);
  }
  return loaded;
}

// A corner of a tensor.
struct At {
  std::string name;
  int64_t row = 0;
  int64_t col = 0;
};

// Rows `rows` of `matrix` are the rows and columns from `at` on.
void ExpectRows(const PackedMatrix& matrix, IndexRange rows, Checkpoint& checkpoint, const At& at) {
  Checkpoint::Tensor& tensor = checkpoint.Get(at.name);
  for (int64_t n = 0; n < rows.size(); ++n) {
    for (int64_t k = 0; k < matrix.inputs(); ++k) {
      ASSERT_EQ(matrix.At(rows.begin + n, k), tensor.At(at.row + n, at.col + k))
          << at.name << " " << at.row + n << " " << at.col + k;
    }
  }
}

void ExpectVector(const std::vector<float>& got, int64_t size, Checkpoint& checkpoint,
                  const std::string& name, int64_t first) {
  ASSERT_EQ(static_cast<int64_t>(got.size()), size) << name;
  for (int64_t i = 0; i < size; ++i)
    ASSERT_EQ(got[i], checkpoint.Get(name).At(first + i, 0)) << name;
}

// The names of gate, up and down under `prefix`, rows [begin, begin + weights.ffn) of the
// intermediate size.
void ExpectFfn(const FfnWeights& weights, int64_t begin, Checkpoint& checkpoint,
               const std::vector<std::string>& names) {
  for (int64_t n = 0; n < weights.ffn; ++n) {
    const int64_t packed = n / 16 * 32 + n % 16;  // a panel of gate, a panel of up, and so on
    ExpectRows(weights.gate_up, {packed, packed + 1}, checkpoint, {names[0], begin + n, 0});
    ExpectRows(weights.gate_up, {packed + 16, packed + 16 + 1}, checkpoint,
               {names[1], begin + n, 0});
  }
  ExpectRows(weights.down, {0, 64}, checkpoint, {names[2], 0, begin});
}

void ExpectAttention(const LayerWeights& layer, const ModelShape& shape, int tp, int tp_size,
                     Checkpoint& checkpoint) {
  const std::string prefix = absl::StrCat("model.layers.", layer.layer, ".");
  const std::string attn = prefix + "self_attn.";
  const AttentionWeights& a = layer.attention;
  const int64_t head_dim = shape.head_dim;
  const int64_t q_rows = shape.heads / tp_size * head_dim, q_begin = tp * q_rows;
  const int64_t kv_heads = std::max(1, shape.kv_heads / tp_size);
  const int64_t kv_begin = shape.kv_heads * tp / tp_size * head_dim, kv_rows = kv_heads * head_dim;
  EXPECT_EQ(a.heads, shape.heads / tp_size);
  EXPECT_EQ(a.kv_heads, kv_heads);
  ASSERT_EQ(a.qkv.outputs(), q_rows + 2 * kv_rows);
  ExpectRows(a.qkv, {0, q_rows}, checkpoint, {attn + "q_proj.weight", q_begin, 0});
  ExpectRows(a.qkv, {q_rows, q_rows + kv_rows}, checkpoint, {attn + "k_proj.weight", kv_begin, 0});
  ExpectRows(a.qkv, {q_rows + kv_rows, q_rows + kv_rows + kv_rows}, checkpoint,
             {attn + "v_proj.weight", kv_begin, 0});
  ASSERT_EQ(a.output.inputs(), q_rows);
  EXPECT_EQ(a.output.slices(), 8 / tp_size);
  EXPECT_EQ(a.qkv.slices(), 8);
  ExpectRows(a.output, {0, 64}, checkpoint, {attn + "o_proj.weight", 0, q_begin});
  ExpectVector(a.input_norm, 64, checkpoint, prefix + "input_layernorm.weight", 0);
  ExpectVector(layer.ffn_norm, 64, checkpoint, prefix + "post_attention_layernorm.weight", 0);
  if (shape.qk_norm == QkNorm::kPerHead) {
    ExpectVector(a.q_norm, head_dim, checkpoint, attn + "q_norm.weight", 0);
    ExpectVector(a.k_norm, head_dim, checkpoint, attn + "k_norm.weight", 0);
  } else if (shape.qk_norm == QkNorm::kFullWidth) {
    ExpectVector(a.q_norm, q_rows, checkpoint, attn + "q_norm.weight", q_begin);
    ExpectVector(a.k_norm, kv_rows, checkpoint, attn + "k_norm.weight", kv_begin);
  } else {
    EXPECT_TRUE(a.q_norm.empty() && a.k_norm.empty());
  }
}

void ExpectExperts(const LayerWeights& layer, const Assign& assign, Checkpoint& checkpoint) {
  const ModelShape& shape = assign.shape;
  const ParallelSpec& spec = assign.plan.spec;
  const bool mixtral = shape.architecture == Architecture::kMixtral;
  const std::string block =
      absl::StrCat("model.layers.", layer.layer, mixtral ? ".block_sparse_moe." : ".mlp.");
  EXPECT_EQ(layer.router.outputs(), shape.moe.experts);
  ExpectRows(layer.router, {0, shape.moe.experts}, checkpoint, {block + "gate.weight", 0, 0});
  const auto units =
      assign.plan.experts.layers[layer.layer].UnitsOf(assign.rank % spec.StageSize());
  ASSERT_EQ(layer.slots.size(), units.size());
  const int64_t width = shape.moe.ffn / spec.slices;
  for (size_t slot = 0; slot < units.size(); ++slot) {
    const std::string expert = absl::StrCat(block, "experts.", units[slot].expert, ".");
    const std::vector<std::string> names =
        mixtral ? std::vector<std::string>{"w1", "w3", "w2"}
                : std::vector<std::string>{"gate_proj", "up_proj", "down_proj"};
    EXPECT_EQ(layer.slots[slot].ffn, width);
    EXPECT_EQ(layer.slots[slot].down.slices(), 8 / spec.slices);
    ExpectFfn(layer.slots[slot], units[slot].slice * width, checkpoint,
              {expert + names[0] + ".weight", expert + names[1] + ".weight",
               expert + names[2] + ".weight"});
  }
}

void ExpectTables(const ModelWeights& weights, const Assign& assign, Checkpoint& checkpoint) {
  const ParallelSpec& spec = assign.plan.spec;
  const GridPosition at = spec.PositionOf(assign.rank);
  const int64_t rows = 512 / spec.tp;
  EXPECT_EQ(weights.vocab_begin, at.tp * rows);
  EXPECT_EQ(weights.vocab_end, (at.tp + 1) * rows);
  const bool tied = assign.shape.tied_embeddings;
  const bool last = at.pp == spec.pp - 1;
  EXPECT_EQ(weights.embedding.outputs(), at.pp == 0 ? rows : 0);
  if (at.pp == 0) {
    ExpectRows(weights.embedding, {0, rows}, checkpoint, {kEmbeddingTensor, at.tp * rows, 0});
  }
  EXPECT_EQ(weights.head_is_embedding, tied && spec.pp == 1);
  if (!last) {
    EXPECT_TRUE(weights.final_norm.empty());
    return;
  }
  ExpectVector(weights.final_norm, 64, checkpoint, kFinalNormTensor, 0);
  ASSERT_EQ(weights.lm_head().outputs(), rows);
  ExpectRows(weights.lm_head(), {0, rows}, checkpoint,
             {tied ? kEmbeddingTensor : kHeadTensor, at.tp * rows, 0});
}

// Loads every rank of a plan; all they hold is right, and together they hold all of the checkpoint.
void CheckPlan(const std::string& name, const std::string& spec) {
  SCOPED_TRACE(absl::StrCat(name, " ", spec));
  const ModelShape shape = GoldenShapeOf(name);
  Checkpoint checkpoint(GoldenPath(name) + "/model.safetensors");
  const auto source = SafetensorsSource::Open(GoldenPath(name));
  ASSERT_TRUE(source.ok()) << source.status();
  const int ranks = MakeAssign(shape, spec, 0).plan.spec.WorkerCount();
  for (int rank = 0; rank < ranks; ++rank) {
    const Assign assign = MakeAssign(shape, spec, rank);
    const auto loaded = Load(assign, **source);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->checkpoint_bytes_read, loaded->checkpoint_bytes_share);
    EXPECT_GE(loaded->weights.bytes(), loaded->checkpoint_bytes_share);
    const GridPosition at = assign.plan.spec.PositionOf(rank);
    const LayerRange stage = assign.plan.stages[at.pp];
    ASSERT_EQ(static_cast<int>(loaded->weights.layers.size()), stage.end - stage.begin);
    for (const LayerWeights& layer : loaded->weights.layers) {
      ExpectAttention(layer, shape, at.tp, assign.plan.spec.tp, checkpoint);
      if (shape.IsMoeLayer(layer.layer)) {
        ExpectExperts(layer, assign, checkpoint);
        continue;
      }
      const std::string mlp = absl::StrCat("model.layers.", layer.layer, ".mlp.");
      const int64_t width = shape.ffn / assign.plan.spec.tp;
      ASSERT_EQ(layer.slots.size(), 1u);
      EXPECT_EQ(layer.slots[0].ffn, width);
      EXPECT_EQ(layer.slots[0].down.slices(), 8 / assign.plan.spec.tp);
      ExpectFfn(layer.slots[0], at.tp * width, checkpoint,
                {mlp + "gate_proj.weight", mlp + "up_proj.weight", mlp + "down_proj.weight"});
    }
    ExpectTables(loaded->weights, assign, checkpoint);
  }
  EXPECT_THAT(checkpoint.Unseen(), testing::IsEmpty());
}

TEST(LoadModelWeights, DenseModels) {
  for (const char* name : {"llama", "llama31", "qwen3"}) {
    for (const char* spec : {"tp=1", "tp=2", "tp=4", "dp=2", "pp=2", "tp=2,pp=2"}) {
      CheckPlan(name, spec);
    }
  }
}

TEST(LoadModelWeights, MixtureModels) {
  for (const char* name : {"mixtral", "olmoe", "qwen3_moe"}) {
    for (const char* spec :
         {"tp=1", "tp=2", "tp=2,dp=2", "tp=4,dp=2,slices=2", "dp=3", "pp=2,dp=2"}) {
      CheckPlan(name, spec);
    }
  }
}

TEST(LoadModelWeights, DummyWeightsAreTheSameInEveryPlacement) {
  const ModelShape shape = GoldenShapeOf("olmoe");
  DummySource source(shape, 5);
  const auto whole = Load(MakeAssign(shape, "tp=1", 0), source);
  const auto part = Load(MakeAssign(shape, "tp=4,slices=2", 3), source);
  ASSERT_TRUE(whole.ok() && part.ok());
  EXPECT_EQ(part->checkpoint_bytes_read, part->checkpoint_bytes_share);
  // Query head 3 of layer 1, and unit 7 of it: the walk puts (3, 1) on rank (7 + 1) % 4 = 0, (3, 0)
  // on rank 3.
  const PackedMatrix& all = whole->weights.layers[1].attention.qkv;
  const PackedMatrix& cut = part->weights.layers[1].attention.qkv;
  for (int64_t k = 0; k < 64; ++k) EXPECT_EQ(cut.At(0, k), all.At(48, k));
  const FfnWeights& expert = whole->weights.layers[1].slots[3];
  const FfnWeights& slice = part->weights.layers[1].slots[1];
  for (int64_t k = 0; k < 16; ++k) EXPECT_EQ(slice.down.At(5, k), expert.down.At(5, k));
}

// A checkpoint of dummy weights with chosen tensors changed.
class TinyCheckpoint {
 public:
  TinyCheckpoint() : shape_(GoldenShapeOf("qwen3_moe")) {
    shape_.layers = 1;
    shape_.vocab = 16;
    shape_.moe.experts = 2;
    shape_.moe.top_k = 1;
    DummySource source(shape_, 1);
    for (const NamedTensor& tensor : AllTensors(shape_)) {
      const int64_t cols = tensor.dims.size() == 2 ? tensor.dims[1] : 1;
      std::string data(2 * tensor.dims[0] * cols, '\0');
      EXPECT_TRUE(source.Read(tensor.name, {0, tensor.dims[0], 0, cols}, data.data()).ok());
      tensors_.push_back({tensor.name, "BF16", tensor.dims, data});
    }
  }

  TestTensor& Tensor(absl::string_view name) {
    for (TestTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return tensors_[0];
  }

  ModelShape& shape() { return shape_; }

  absl::Status Load() const {
    const ScratchFolder folder;
    folder.Write("model.safetensors", SafetensorsFile(tensors_));
    const auto source = OpenWeightSource({folder.path()}, shape_);
    if (!source.ok()) return source.status();
    return conclave::Load(MakeAssign(shape_, "tp=1", 0), **source).status();
  }

 private:
  ModelShape shape_;
  std::vector<TestTensor> tensors_;
};

constexpr const char* kUp = "model.layers.0.mlp.experts.1.up_proj.weight";

TEST(LoadModelWeights, NamesAMissingTensor) {
  TinyCheckpoint checkpoint;
  EXPECT_TRUE(checkpoint.Load().ok());
  checkpoint.Tensor(kUp).name = "other";
  const absl::Status status = checkpoint.Load();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(kUp));
}

TEST(LoadModelWeights, NamesAShapeThatDoesNotFit) {
  for (const char* name : {kUp, "model.embed_tokens.weight", "model.layers.0.mlp.gate.weight",
                           "model.layers.0.self_attn.q_proj.weight"}) {
    TinyCheckpoint checkpoint;
    std::swap(checkpoint.Tensor(name).dims[0], checkpoint.Tensor(name).dims[1]);
    const absl::Status status = checkpoint.Load();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_THAT(std::string(status.message()), HasSubstr("expected ["));
  }
  TinyCheckpoint config;
  config.shape().hidden = 128;
  const absl::Status status = config.Load();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("[16, 64], expected [16, 128]"));
}

TEST(LoadModelWeights, NamesAWrongDtype) {
  for (const char* name : {kUp, "model.norm.weight", "model.layers.0.self_attn.o_proj.weight"}) {
    TinyCheckpoint checkpoint;
    TestTensor& tensor = checkpoint.Tensor(name);
    tensor.dtype = "I32";
    tensor.data += tensor.data;
    const absl::Status status = checkpoint.Load();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_THAT(std::string(status.message()), HasSubstr("int32, expected float32, float16"));
  }
}

TEST(LoadModelWeights, RefusesMixedDtypesInOneMatrix) {
  for (const char* name : {kUp, "model.layers.0.self_attn.v_proj.weight"}) {
    TinyCheckpoint checkpoint;
    checkpoint.Tensor(name).dtype = "F16";
    const absl::Status status = checkpoint.Load();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("float16, expected bfloat16"));
  }
  TinyCheckpoint norms;  // vectors become floats anyway
  TestTensor& norm = norms.Tensor("model.norm.weight");
  norm.dtype = "F32";
  norm.data += norm.data;
  EXPECT_TRUE(norms.Load().ok());
}

TEST(LoadModelWeights, StopsWhenCancelled) {
  const ModelShape shape = GoldenShapeOf("olmoe");
  DummySource source(shape, 5);
  ComputePool pool(2);
  std::atomic<uint64_t> progress{0};
  const std::atomic<bool> cancelled{true};
  const auto loaded =
      LoadModelWeights(MakeAssign(shape, "tp=1", 0), source, pool, progress, cancelled);
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(source.bytes_read(), 0);
}

TEST(OpenWeightSource, DummyNeedsNoFolder) {
  const ModelShape shape = GoldenShapeOf("llama");
  EXPECT_TRUE(OpenWeightSource({"", true, 3}, shape).ok());
  const auto missing = OpenWeightSource({"/no/such/folder", false, 0}, shape);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/no/such/folder"));
}

}  // namespace
}  // namespace conclave
