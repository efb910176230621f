// The model as a whole, in one process: every architecture against Hugging Face's logits, and the
// promise of DESIGN 4 that logits are the same bits for every grid, batch composition and chunking.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "glog/logging.h"
#include "gtest/gtest.h"
#include "worker/engine/engine_cluster.h"
#include "worker/model/golden.h"

namespace conclave {
namespace {

struct Layout {
  const char* spec;
  ExchangeKind exchange = ExchangeKind::kPcc;
  std::vector<std::string> nodes = {};
  PayloadFormat payload = PayloadFormat::kF32;
};

EngineClusterOptions Options(const std::string& folder, const ModelShape& shape,
                             const Layout& layout) {
  EngineClusterOptions options;
  options.shape = shape;
  options.source.path = folder;
  options.spec = ParseParallelSpec(layout.spec).value();
  options.exchange = layout.exchange;
  options.nodes = layout.nodes;
  options.payload = layout.payload;
  options.cache.pages_max = 256;
  return options;
}

std::vector<EngineRequest> Prompts(const GoldenTensor& ids, int tokens_max) {
  std::vector<EngineRequest> requests;
  for (int64_t i = 0; i < ids.dims[0]; ++i) {
    EngineRequest request;
    request.prompt = ids.IntRow(i);
    request.tokens_max = tokens_max;
    request.want_logits = true;
    requests.push_back(std::move(request));
  }
  return requests;
}

// Logits of every position computed, request after request.
std::vector<float> AllLogits(const EngineRun& run) {
  std::vector<float> all;
  for (const EngineAnswer& answer : run.answers) {
    all.insert(all.end(), answer.logits.begin(), answer.logits.end());
  }
  return all;
}

// Not the worst: of near ties of the router rounding may take the other, and that position's logits
// become others.
float MedianDifference(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK_EQ(a.size(), b.size());
  std::vector<float> differences(a.size());
  for (size_t i = 0; i < a.size(); ++i) differences[i] = std::fabs(a[i] - b[i]);
  std::sort(differences.begin(), differences.end());
  return differences.at(a.size() / 2);
}

class GoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  GoldenTest()
      : folder_(GoldenFolder(GetParam())),
        shape_(GoldenShape(folder_)),
        reference_(ReadGolden(folder_ + "/reference.safetensors")) {}

  EngineRun MustRun(const Layout& layout, const std::vector<EngineRequest>& requests, int chunk) {
    auto cluster = EngineCluster::Create(Options(folder_, shape_, layout));
    CHECK(cluster.ok()) << layout.spec << ": " << cluster.status();
    auto run = (*cluster)->Run(requests, chunk);
    CHECK(run.ok()) << layout.spec << ": " << run.status();
    return *std::move(run);
  }

  std::string folder_;
  ModelShape shape_;
  std::map<std::string, GoldenTensor> reference_;
};

TEST_P(GoldenTest, LogitsAndGreedyTokensAreTransformers) {
  const GoldenTensor& ids = reference_.at("input_ids");
  const EngineRun prefill = MustRun({"tp=1"}, Prompts(ids, 0), 0);
  EXPECT_LE(WorstDifference(AllLogits(prefill), reference_.at("logits").floats), 1e-3);

  const EngineRun run = MustRun({"tp=1"}, Prompts(ids, 24), 0);
  const GoldenTensor& greedy = reference_.at("greedy_ids");
  const GoldenTensor& margin = reference_.at("greedy_margin");
  for (int64_t i = 0; i < ids.dims[0]; ++i) {
    const std::vector<int32_t> want = greedy.IntRow(i);
    for (int64_t j = 0; j < margin.dims[1]; ++j) {
      if (margin.floats[i * margin.dims[1] + j] < 0.01) break;  // a near tie
      ASSERT_EQ(run.answers[i].tokens[j], want[ids.dims[1] + j]) << i << ", " << j;
    }
  }
}

TEST_P(GoldenTest, EveryGridGivesTheSameBits) {
  std::vector<EngineRequest> requests = Prompts(reference_.at("input_ids"), 4);
  for (EngineRequest& request : requests) request.prompt.resize(24);
  requests[1].sampling = {1.0f, 50, 0.95f, 0.01f, 7};
  const EngineRun alone = MustRun({"tp=1"}, requests, 0);
  const std::vector<float> want = AllLogits(alone);
  std::vector<Layout> layouts = {{"tp=2"},      {"tp=4"},           {"dp=2"},      {"pp=2"},
                                 {"tp=2,dp=2"}, {"tp=2,dp=1,pp=2"}, {"tp=4,dp=2"}, {"dp=2,pp=2"}};
  if (shape_.IsMoe()) {
    for (const Layout& more : std::vector<Layout>{
             {"dp=4"},
             {"tp=2,dp=4"},
             {"tp=2,slices=2"},
             {"dp=2,slices=2"},
             {"tp=2,dp=2,slices=2"},
             {"tp=2,dp=2,slices=4"},
             {"tp=4,dp=2,slices=2"},
             {"tp=2,dp=2,pp=2,slices=2"},
             {"tp=2,dp=2", ExchangeKind::kNaive},
             {"tp=2,dp=2,slices=2", ExchangeKind::kNaive},
             {"tp=2,dp=2", ExchangeKind::kTwoLevel},
             {"dp=4", ExchangeKind::kTwoLevel, {"a", "a", "b", "b"}},
             {"tp=2,dp=4,slices=2",
              ExchangeKind::kTwoLevel,
              {"a", "a", "a", "b", "b", "b", "b", "c"}},
             {"tp=2,dp=2,pp=2", ExchangeKind::kTwoLevel, {"a", "b", "b", "b", "c", "c", "c", "d"}},
         }) {
      layouts.push_back(more);
    }
  }
  for (const Layout& layout : layouts) {
    const EngineRun run = MustRun(layout, requests, 0);
    EXPECT_TRUE(AllLogits(run) == want)
        << layout.spec << ": worst difference " << WorstDifference(AllLogits(run), want);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(run.answers[i].tokens, alone.answers[i].tokens) << layout.spec;
    }
  }
}

TEST_P(GoldenTest, EveryBatchAndChunkingGivesTheSameBits) {
  std::vector<EngineRequest> requests = Prompts(reference_.at("input_ids"), 4);
  std::vector<float> want;
  for (const EngineRequest& request : requests) {
    const std::vector<float> one = AllLogits(MustRun({"tp=1"}, {request}, 0));
    want.insert(want.end(), one.begin(), one.end());
  }
  for (const Layout& layout : std::vector<Layout>{{"tp=1"}, {"tp=2,dp=2"}}) {
    EXPECT_TRUE(AllLogits(MustRun(layout, requests, 0)) == want) << layout.spec;
    EXPECT_TRUE(AllLogits(MustRun(layout, requests, 3)) == want) << layout.spec << " in chunks";
    // All in one dp group, joining one after another, among strangers.
    std::vector<EngineRequest> many = requests;
    for (int copy = 0; copy < 4; ++copy) many.insert(many.end(), requests.begin(), requests.end());
    for (size_t i = 0; i < many.size(); ++i) {
      many[i].dp = 0;
      many[i].start_step = static_cast<int>(i % 5);
      if (i >= requests.size()) many[i].prompt.resize(1 + 2 * i);
    }
    EngineRun run = MustRun(layout, many, 5);
    run.answers.resize(requests.size());
    EXPECT_TRUE(AllLogits(run) == want) << layout.spec << " in a crowd";
  }
}

// Rounded rows: the same in every grid of naive and PCC, and near the exact ones.
TEST_P(GoldenTest, RoundedExchangesStayNearAndDoNotDependOnTheGrid) {
  if (!shape_.IsMoe()) GTEST_SKIP() << "a dense model exchanges nothing";
  const std::vector<EngineRequest> requests = Prompts(reference_.at("input_ids"), 0);
  const std::vector<float> exact = AllLogits(MustRun({"tp=1"}, requests, 0));
  for (const PayloadFormat payload :
       {PayloadFormat::kBf16, PayloadFormat::kInt8, PayloadFormat::kFp8}) {
    const auto run = [&](const char* spec, ExchangeKind exchange) {
      return AllLogits(MustRun({spec, exchange, {}, payload}, requests, 0));
    };
    const std::vector<float> rounded = run("tp=2,dp=2", ExchangeKind::kPcc);
    EXPECT_FALSE(rounded == exact) << PayloadFormatName(payload) << " took no effect";
    EXPECT_TRUE(run("dp=2", ExchangeKind::kPcc) == rounded) << PayloadFormatName(payload);
    EXPECT_TRUE(run("tp=2,dp=2", ExchangeKind::kNaive) == rounded) << PayloadFormatName(payload);
    const float bound = payload == PayloadFormat::kBf16   ? 0.02f
                        : payload == PayloadFormat::kInt8 ? 0.06f
                                                          : 0.2f;
    EXPECT_LT(MedianDifference(rounded, exact), bound) << PayloadFormatName(payload);
    EXPECT_LT(MedianDifference(run("tp=2,dp=2", ExchangeKind::kTwoLevel), exact), bound)
        << PayloadFormatName(payload);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, GoldenTest,
                         ::testing::Values("llama", "llama31", "qwen3", "mixtral", "olmoe",
                                           "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

// The continuations are those of transformers, token for token, and all logits the same bits, on
// every grid.
TEST(DemoModelTest, EveryGridWritesTheReference) {
  const std::string folder = GoldenFolder("demo");
  const ModelShape shape = GoldenShape(folder);
  const auto reference = ReadGolden(folder + "/reference.safetensors");
  std::vector<EngineRequest> requests(4);
  for (int i = 0; i < 4; ++i) {
    requests[i].prompt = reference.at("prompt" + std::to_string(i)).ints;
    requests[i].tokens_max = 64;
    requests[i].want_logits = true;
  }
  std::vector<float> want;
  for (const Layout& layout : std::vector<Layout>{{"tp=1"},
                                                  {"tp=2"},
                                                  {"tp=4"},
                                                  {"dp=2"},
                                                  {"tp=2,dp=2"},
                                                  {"tp=4,dp=2"},
                                                  {"dp=4"},
                                                  {"tp=2,dp=4"},
                                                  {"tp=2,slices=2"},
                                                  {"tp=4,slices=2"},
                                                  {"dp=2,slices=2"},
                                                  {"tp=2,dp=2,slices=2"},
                                                  {"dp=4,slices=2"},
                                                  {"tp=2,dp=4,slices=2"},
                                                  {"tp=4,dp=2,slices=2"},
                                                  {"tp=2,dp=2,pp=2"}}) {
    auto cluster = EngineCluster::Create(Options(folder, shape, layout));
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    const auto run = (*cluster)->Run(requests, 0);
    ASSERT_TRUE(run.ok()) << run.status();
    if (want.empty()) want = AllLogits(*run);
    EXPECT_TRUE(AllLogits(*run) == want) << layout.spec;
    for (int i = 0; i < 4; ++i) {
      std::vector<int32_t> text = requests[i].prompt;
      text.insert(text.end(), run->answers[i].tokens.begin(), run->answers[i].tokens.end());
      EXPECT_EQ(text, reference.at("greedy" + std::to_string(i)).ints) << layout.spec;
    }
  }
}

}  // namespace
}  // namespace conclave
