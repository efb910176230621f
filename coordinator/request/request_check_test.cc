#include "coordinator/request/request_check.h"

#include <cmath>
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

GenerationRequest Good() {
  GenerationRequest request;
  request.prompt = {1, 2};
  return request;
}

TEST(RequestCheckTest, NamesTheFieldThatIsWrong) {
  ModelShape shape;
  shape.vocab = 10;
  EXPECT_TRUE(CheckRequest(Good(), shape).ok());
  const std::vector<std::pair<std::string, std::function<void(GenerationRequest&)>>> bad = {
      {"prompt", [](auto& r) { r.prompt.clear(); }},
      {"prompt token 10",
       [](auto& r) {
         r.prompt = {1, 10};
       }},
      {"prompt token -1", [](auto& r) { r.prompt = {-1}; }},
      {"max_tokens -1", [](auto& r) { r.tokens_max = -1; }},
      {"max_tokens 0", [](auto& r) { r.tokens_max = 0; }},
      {"temperature", [](auto& r) { r.sampling.temperature = -0.5f; }},
      {"temperature", [](auto& r) { r.sampling.temperature = NAN; }},
      {"temperature", [](auto& r) { r.sampling.temperature = INFINITY; }},
      {"top_p", [](auto& r) { r.sampling.top_p = 0; }},
      {"top_p", [](auto& r) { r.sampling.top_p = 1.5f; }},
      {"min_p", [](auto& r) { r.sampling.min_p = NAN; }},
      {"top_k", [](auto& r) { r.sampling.top_k = -1; }},
  };
  for (const auto& [field, spoil] : bad) {
    GenerationRequest request = Good();
    spoil(request);
    const absl::Status status = CheckRequest(request, shape);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(field));
  }
  GenerationRequest logits = Good();
  logits.tokens_max = 0;
  logits.want_logits = true;
  EXPECT_TRUE(CheckRequest(logits, shape).ok());
}

}  // namespace
}  // namespace conclave
