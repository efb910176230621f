#include "coordinator/request/request_table.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

class CountingSink : public GenerationSink {
 public:
  void OnToken(const SampledToken& token) override { tokens.push_back(token.token); }
  void OnLogits(int32_t position, int32_t, absl::Span<const float> values) override {
    logits.emplace_back(position, values.size());
  }
  void OnFinish(FinishReason reason, const absl::Status&) override { ends.push_back(reason); }

  std::vector<int32_t> tokens;
  std::vector<std::pair<int32_t, size_t>> logits;
  std::vector<FinishReason> ends;
};

TEST(RequestTableTest, EndsOnceAndIsSilentAfterwards) {
  RequestTable table;
  auto sink = std::make_shared<CountingSink>();
  table.Add(RequestId{1}, 3, sink, absl::FromUnixSeconds(5));
  table.OnToken({RequestId{1}, 3, 42, 0});
  table.OnToken({RequestId{2}, 3, 43, 0});
  Logits logits;
  logits.request = RequestId{1};
  logits.position = 2;
  logits.values = {1, 2};
  table.OnLogits(logits);
  EXPECT_EQ(*table.Generated(RequestId{1}), (std::vector<int32_t>{42}));
  EXPECT_TRUE(table.SubmittedBefore(absl::FromUnixSeconds(5)).empty());
  EXPECT_EQ(table.SubmittedBefore(absl::FromUnixSeconds(6)).size(), 1u);
  EXPECT_TRUE(table.Finish(RequestId{1}, FinishReason::kStop, absl::OkStatus()));
  EXPECT_FALSE(table.Finish(RequestId{1}, FinishReason::kStop, absl::OkStatus()));
  table.OnToken({RequestId{1}, 4, 44, 0});
  EXPECT_EQ(sink->tokens, (std::vector<int32_t>{42}));
  EXPECT_EQ(sink->logits.size(), 1u);
  EXPECT_EQ(sink->ends, (std::vector<FinishReason>{FinishReason::kStop}));
  EXPECT_EQ(table.totals().finished, 1);
  EXPECT_EQ(table.totals().prompt_tokens, 3);
  EXPECT_EQ(table.totals().generated_tokens, 1);
  EXPECT_EQ(table.Generated(RequestId{1}), nullptr);
}

}  // namespace
}  // namespace conclave
