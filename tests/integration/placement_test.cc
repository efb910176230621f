// The same text and the same logits, bit for bit, whatever the placement: real processes over UCX.

#include <future>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/integration/real_cluster.h"

namespace conclave {
namespace {

constexpr int kGreedyTokens = 64;

struct Grid {
  std::string parallel;
  std::string exchange = "pcc";
  int nodes = 1;
};

// Every grid of at most 8 workers with tp, dp in {1, 2, 4}, and those with experts in two slices,
// and pipelines; and the two-level exchange within a node and between nodes.
std::vector<Grid> Grids() {
  std::vector<Grid> grids;
  for (const int tp : {1, 2, 4}) {
    for (const int dp : {1, 2, 4}) {
      if (tp * dp > 8) continue;
      grids.push_back({absl::StrCat("tp=", tp, ",dp=", dp)});
      if (tp * dp > 1) grids.push_back({absl::StrCat("tp=", tp, ",dp=", dp, ",slices=2")});
    }
  }
  for (const char* parallel : {"pp=2", "tp=2,pp=2", "tp=2,dp=2,pp=2", "dp=3"}) {
    grids.push_back({parallel});
  }
  grids.push_back({"tp=2,dp=2", "two-level"});
  grids.push_back({"tp=2,dp=2,slices=2", "two-level", 2});
  return grids;
}

class PlacementTest : public testing::TestWithParam<Grid> {
 protected:
  static void SetUpTestSuite() {
    references_ = std::make_unique<std::vector<DemoReference>>(DemoReferences());
    const auto cluster = StartCluster("tp=1");
    logits_ = std::make_unique<std::vector<std::string>>();
    for (const DemoReference& reference : *references_) {
      logits_->push_back(LogitsBytes(*cluster, {reference.prompt}));
    }
    EXPECT_TRUE(cluster->Stop().ok());
  }
  static void TearDownTestSuite() {
    references_.reset();
    logits_.reset();
  }
  static std::unique_ptr<std::vector<DemoReference>> references_;
  static std::unique_ptr<std::vector<std::string>> logits_;
};

std::unique_ptr<std::vector<DemoReference>> PlacementTest::references_;
std::unique_ptr<std::vector<std::string>> PlacementTest::logits_;

TEST_P(PlacementTest, SameTextAndLogits) {
  ModelOptions model;
  model.exchange = GetParam().exchange;
  const auto cluster = StartCluster(GetParam().parallel, model, GetParam().nodes);
  const HttpClient client = cluster->Client(false);
  std::vector<std::future<std::vector<int32_t>>> texts;
  for (const DemoReference& reference : *references_) {
    texts.push_back(std::async(std::launch::async, [&client, &reference] {
      return Greedy(client, reference.prompt, kGreedyTokens);
    }));
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[i].get(), (*references_)[i].greedy) << "prompt " << i;
    EXPECT_TRUE(LogitsBytes(*cluster, {(*references_)[i].prompt}) == (*logits_)[i])
        << "logits of prompt " << i << " differ from those of one worker";
  }
  const absl::Status stopped = cluster->Stop();
  EXPECT_TRUE(stopped.ok()) << stopped.message();
}

INSTANTIATE_TEST_SUITE_P(AllGrids, PlacementTest, testing::ValuesIn(Grids()),
                         [](const testing::TestParamInfo<Grid>& info) {
                           std::string name = info.param.parallel;
                           if (info.param.exchange != "pcc") {
                             absl::StrAppend(&name, "_", info.param.exchange, "_on_",
                                             info.param.nodes);
                           }
                           for (char& c : name) {
                             if (c == '=' || c == ',' || c == '-') c = '_';
                           }
                           return name;
                         });

// .npy bytes of n rows of logits: the header, then the rows; the rows of one prompt are cut out of
// a batch.
std::string RowsOf(const std::string& npy, size_t index, size_t count) {
  const size_t header = 10 + static_cast<uint8_t>(npy[8]) + 256 * static_cast<uint8_t>(npy[9]);
  const size_t bytes = (npy.size() - header) / count;
  return npy.substr(header + index * bytes, bytes);
}

TEST(BatchTest, LogitsDoNotDependOnTheBatchOrTheChunks) {
  const std::vector<DemoReference> references = DemoReferences();
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 16; ++i) {  // 16 prompts of one length, cut from the reference texts
    const std::vector<int32_t>& text = references[i % 4].greedy;
    prompts.emplace_back(text.begin() + i, text.begin() + i + 24);
  }
  const auto alone = StartCluster("tp=1");
  std::vector<std::string> expected;
  for (const auto& prompt : prompts) {
    expected.push_back(RowsOf(LogitsBytes(*alone, {prompt}), 0, 1));
  }
  const std::string batch = LogitsBytes(*alone, prompts);
  EXPECT_TRUE(alone->Stop().ok());
  ModelOptions chunked;
  chunked.batch_tokens_max = 3;
  const auto chunks = StartCluster("tp=2,dp=2", chunked);
  const std::string in_chunks = LogitsBytes(*chunks, prompts);
  EXPECT_TRUE(chunks->Stop().ok());
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_TRUE(RowsOf(batch, i, 16) == expected[i]) << "prompt " << i << " in a batch of 16";
    EXPECT_TRUE(RowsOf(in_chunks, i, 16) == expected[i]) << "prompt " << i << " in chunks of 3";
  }
}

}  // namespace
}  // namespace conclave
