// The engine of a GPU, in one process, all ranks sharing the device: deterministic runs give the
// CPU's bits in every grid; bfloat16 runs agree with transformers. Skipped where there is no GPU.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "comm/device/cuda_device.h"
#include "glog/logging.h"
#include "gtest/gtest.h"
#include "worker/engine/engine_cluster.h"
#include "worker/model/golden.h"

namespace conclave {
namespace {

std::vector<EngineRequest> Prompts(const GoldenTensor& ids, int tokens_max, bool logits) {
  std::vector<EngineRequest> requests;
  for (int64_t i = 0; i < ids.dims[0]; ++i) {
    EngineRequest request;
    request.prompt = ids.IntRow(i);
    request.tokens_max = tokens_max;
    request.want_logits = logits;
    requests.push_back(std::move(request));
  }
  return requests;
}

std::vector<float> AllLogits(const EngineRun& run) {
  std::vector<float> all;
  for (const EngineAnswer& answer : run.answers) {
    all.insert(all.end(), answer.logits.begin(), answer.logits.end());
  }
  return all;
}

double Deviation(const std::vector<float>& values) {
  double mean = 0, squares = 0;
  for (const float x : values) mean += x / values.size();
  for (const float x : values) squares += (x - mean) * (x - mean) / values.size();
  return std::sqrt(squares);
}

// Errors of rows: root mean square over the standard deviation of all values. A few rows are far
// off where rounding makes the router choose another expert.
struct RowErrors {
  double median = 0;
  double ninth_decile = 0;
};

RowErrors ErrorsOf(const std::vector<float>& got, const std::vector<float>& want, int64_t vocab) {
  CHECK_EQ(got.size(), want.size());
  const double deviation = Deviation(want);
  std::vector<double> errors;
  for (size_t row = 0; row < want.size(); row += vocab) {
    double squares = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      const double error = static_cast<double>(got[row + i]) - want[row + i];
      squares += error * error;
    }
    errors.push_back(std::sqrt(squares / vocab) / deviation);
  }
  std::sort(errors.begin(), errors.end());
  return {errors[errors.size() / 2], errors[errors.size() * 9 / 10]};
}

class CudaEngineTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const absl::Status gpu = CheckCudaDevice(0);
    if (!gpu.ok()) GTEST_SKIP() << gpu.message();
    folder_ = GoldenFolder(GetParam());
    shape_ = GoldenShape(folder_);
    reference_ = ReadGolden(folder_ + "/reference.safetensors");
  }

  EngineClusterOptions Options(const std::string& spec) const {
    EngineClusterOptions options;
    options.shape = shape_;
    options.source.path = folder_;
    options.spec = ParseParallelSpec(spec).value();
    options.cache.pages_max = 64;
    options.gpu = 0;
    return options;
  }
  EngineClusterOptions Exact(const std::string& spec) const {
    EngineClusterOptions options = Options(spec);
    options.compute.deterministic = true;
    return options;
  }
  EngineClusterOptions Fast() const {
    EngineClusterOptions options = Options("tp=1");
    options.cache.dtype = Dtype::kBf16;
    return options;
  }

  static EngineRun MustRun(const EngineClusterOptions& options,
                           const std::vector<EngineRequest>& requests, int chunk = 0) {
    auto cluster = EngineCluster::Create(options);
    CHECK(cluster.ok()) << options.spec.ToString() << ": " << cluster.status();
    auto run = (*cluster)->Run(requests, chunk);
    CHECK(run.ok()) << options.spec.ToString() << ": " << run.status();
    return *std::move(run);
  }

  // Greedy tokens are transformers' until the first near tie.
  void ExpectGreedy(const EngineRun& run, const char* what) {
    const GoldenTensor& ids = reference_.at("input_ids");
    const GoldenTensor& greedy = reference_.at("greedy_ids");
    const GoldenTensor& margin = reference_.at("greedy_margin");
    const double gate = 0.3 * Deviation(reference_.at("logits").floats);
    for (int64_t i = 0; i < ids.dims[0]; ++i) {
      const std::vector<int32_t> want = greedy.IntRow(i);
      for (size_t j = 0; j < run.answers[i].tokens.size(); ++j) {
        if (margin.floats[i * margin.dims[1] + j] < gate) break;
        ASSERT_EQ(run.answers[i].tokens[j], want[ids.dims[1] + j]) << what << " " << i << ", " << j;
      }
    }
  }

  std::string folder_;
  ModelShape shape_;
  std::map<std::string, GoldenTensor> reference_;
};

TEST_P(CudaEngineTest, DeterministicRunsGiveTheCpusBitsInEveryGrid) {
  std::vector<EngineRequest> requests = Prompts(reference_.at("input_ids"), 4, true);
  for (EngineRequest& request : requests) request.prompt.resize(24);
  requests[1].sampling = {1.0f, 50, 0.95f, 0.01f, 7};
  EngineClusterOptions cpu = Exact("tp=1");
  cpu.gpu = -1;
  const EngineRun want = MustRun(cpu, requests);
  std::vector<std::string> specs = {"tp=1", "tp=2", "dp=2", "tp=4", "tp=2,dp=2", "tp=2,pp=2"};
  if (shape_.IsMoe()) specs.push_back("tp=2,dp=2,slices=2");
  for (const std::string& spec : specs) {
    const EngineRun run = MustRun(Exact(spec), requests, 7);
    EXPECT_TRUE(AllLogits(run) == AllLogits(want))
        << spec << ": worst difference " << WorstDifference(AllLogits(run), AllLogits(want));
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(run.answers[i].tokens, want.answers[i].tokens) << spec;
    }
  }
}

TEST_P(CudaEngineTest, Bfloat16LogitsAreTransformers) {
  for (const int chunk : {0, 5}) {
    const EngineRun run = MustRun(Fast(), Prompts(reference_.at("input_ids"), 0, true), chunk);
    const RowErrors errors = ErrorsOf(AllLogits(run), reference_.at("logits").floats, shape_.vocab);
    EXPECT_LE(errors.median, 0.03) << "chunks of " << chunk;
    EXPECT_LE(errors.ninth_decile, 0.15) << "chunks of " << chunk;
  }
}

TEST_P(CudaEngineTest, Bfloat16DecodesTransformersGreedyTokens) {
  const std::vector<EngineRequest> requests = Prompts(reference_.at("input_ids"), 24, false);
  ExpectGreedy(MustRun(Fast(), requests), "together");
  ExpectGreedy(MustRun(Fast(), requests, 11), "in chunks, prompts beside decodes");
  EngineRun alone;
  for (const EngineRequest& request : requests) {
    alone.answers.push_back(MustRun(Fast(), {request}).answers[0]);
  }
  ExpectGreedy(alone, "alone");
}

TEST_P(CudaEngineTest, LargeBatchesDecodeAsSmallOnes) {
  const std::vector<EngineRequest> three = Prompts(reference_.at("input_ids"), 12, false);
  std::vector<EngineRequest> many;
  for (int i = 0; i < 96; ++i) many.push_back(three[i % 3]);
  EngineClusterOptions options = Fast();
  options.cache.pages_max = 96 * 8;
  const EngineRun run = MustRun(options, many);
  for (int i = 0; i < 96; i += 3) {
    EngineRun part;
    for (int j = 0; j < 3; ++j) part.answers.push_back(run.answers[i + j]);
    ExpectGreedy(part, "in a batch of 96");
  }
}

TEST_P(CudaEngineTest, QuantisedWeightsAreRefusedByName) {
  EngineClusterOptions options = Fast();
  options.compute.quantization = Quantization::kInt4;
  const auto cluster = EngineCluster::Create(options);
  ASSERT_FALSE(cluster.ok());
  EXPECT_EQ(cluster.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(cluster.status().message().find("--quantization int4"), std::string::npos)
      << cluster.status();
}

INSTANTIATE_TEST_SUITE_P(Models, CudaEngineTest,
                         ::testing::Values("llama", "llama31", "qwen3", "mixtral", "olmoe",
                                           "qwen3_moe"));

// Heads of 64 and more than a few experts: a single sequence decodes by the persistent kernel,
// three copies of it by the chain of kernels. Both must say the same, up to rounding.
TEST(CudaOneTokenTest, OneSequenceDecodesAsOneOfThree) {
  const absl::Status gpu = CheckCudaDevice(0);
  if (!gpu.ok()) GTEST_SKIP() << gpu.message();
  for (const QkNorm norm : {QkNorm::kPerHead, QkNorm::kFullWidth}) {
    EngineClusterOptions options;
    options.shape.architecture =
        norm == QkNorm::kPerHead ? Architecture::kQwen3Moe : Architecture::kOlmoe;
    options.shape.layers = 3;
    options.shape.hidden = 512;
    options.shape.heads = 8;
    options.shape.kv_heads = norm == QkNorm::kPerHead ? 2 : 8;
    options.shape.head_dim = 64;
    options.shape.ffn = 256;
    options.shape.vocab = 1000;
    options.shape.context_tokens = 1024;
    options.shape.qk_norm = norm;
    options.shape.moe = {16, 4, 256, true};
    options.source.dummy = true;
    options.cache.dtype = Dtype::kBf16;
    options.cache.pages_max = 64;
    options.gpu = 0;
    auto cluster = EngineCluster::Create(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    for (int prompt = 0; prompt < 6; ++prompt) {
      EngineRequest request;
      for (int i = 0; i < 40; ++i) request.prompt.push_back((7 * i + 13 * prompt) % 1000);
      request.tokens_max = 12;
      const auto alone = (*cluster)->Run({request}, 0);
      const auto three = (*cluster)->Run({request, request, request}, 0);
      ASSERT_TRUE(alone.ok()) << alone.status();
      ASSERT_TRUE(three.ok()) << three.status();
      ASSERT_EQ(alone->steps.size(), three->steps.size());
      for (size_t i = 0; i < alone->steps.size(); ++i) {
        const SampledToken one = alone->steps[i][0].tokens[0];
        const SampledToken other = three->steps[i][0].tokens[0];
        EXPECT_NEAR(one.logprob, other.logprob, 0.05) << "prompt " << prompt << ", step " << i;
        if (one.token != other.token) break;  // a near tie: what follows may differ
      }
    }
  }
}

// The demo model's texts are transformers', token for token, in every grid of workers that share
// the GPU.
TEST(CudaDemoTest, WritesTheReference) {
  const absl::Status gpu = CheckCudaDevice(0);
  if (!gpu.ok()) GTEST_SKIP() << gpu.message();
  const std::string folder = GoldenFolder("demo");
  const auto reference = ReadGolden(folder + "/reference.safetensors");
  std::vector<EngineRequest> requests(4);
  for (int i = 0; i < 4; ++i) {
    requests[i].prompt = reference.at("prompt" + std::to_string(i)).ints;
    requests[i].tokens_max = 64;
  }
  EngineClusterOptions options;
  options.shape = GoldenShape(folder);
  options.source.path = folder;
  options.cache.pages_max = 64;
  options.gpu = 0;
  options.compute.deterministic = true;
  for (const char* spec : {"tp=1", "tp=2", "dp=2", "tp=2,dp=2", "tp=4"}) {
    options.spec = ParseParallelSpec(spec).value();
    auto cluster = EngineCluster::Create(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    const auto run = (*cluster)->Run(requests, 0);
    ASSERT_TRUE(run.ok()) << run.status();
    for (int i = 0; i < 4; ++i) {
      std::vector<int32_t> text = requests[i].prompt;
      text.insert(text.end(), run->answers[i].tokens.begin(), run->answers[i].tokens.end());
      EXPECT_EQ(text, reference.at("greedy" + std::to_string(i)).ints) << spec << ", prompt " << i;
    }
  }
}

}  // namespace
}  // namespace conclave
