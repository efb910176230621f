#include "coordinator/api/openai_codec.h"

#include "absl/strings/str_cat.h"
#include "boost/json.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class OpenaiCodecTest : public ::testing::Test {
 protected:
  OpenaiCodecTest() : tokenizer_(*Tokenizer::Load("tools/demo_model")) {
    shape_.vocab = 4096;
    shape_.context_tokens = 64;
    context_ = {tokenizer_.get(), &shape_, "demo-moe", 77};
  }

  CompletionCall Accepted(const std::string& body) {
    auto parsed = ParseCompletion(body, context_);
    const ApiError* error = std::get_if<ApiError>(&parsed);
    EXPECT_EQ(error, nullptr) << body << ": " << error->message;
    return error != nullptr ? CompletionCall{} : std::get<CompletionCall>(parsed);
  }

  // The fields of a request around a good prompt.
  void ExpectRefused(const std::string& fields, const char* param, const char* part,
                     int http = 400) {
    const std::string body = absl::StrCat(R"({"prompt": [1, 2], )", fields, "}");
    ExpectBodyRefused(body, param, part, http);
  }
  void ExpectBodyRefused(const std::string& body, const char* param, const char* part,
                         int http = 400) {
    const auto parsed = ParseCompletion(body, context_);
    const ApiError* error = std::get_if<ApiError>(&parsed);
    ASSERT_NE(error, nullptr) << body;
    EXPECT_EQ(error->http, http) << body;
    EXPECT_EQ(error->param, param) << body;
    EXPECT_THAT(error->message, HasSubstr(part)) << body;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  ModelShape shape_;
  CompletionContext context_;
};

TEST_F(OpenaiCodecTest, Defaults) {
  const CompletionCall call = Accepted(R"({"prompt": "Hello", "future_field": {"a": [1]}})");
  EXPECT_EQ(call.request.prompt, *tokenizer_->Encode("Hello"));
  EXPECT_EQ(call.request.tokens_max, 16);
  EXPECT_EQ(call.request.sampling, (SamplingParams{1.0f, 0, 1.0f, 0.0f, 77}));
  EXPECT_FALSE(call.request.ignore_eos);
  EXPECT_FALSE(call.stream);
  EXPECT_FALSE(call.return_token_ids);
}

TEST_F(OpenaiCodecTest, EveryField) {
  const CompletionCall call = Accepted(R"({"model": "demo-moe", "prompt": [[5, 6, 7]],
      "max_tokens": 9, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": -1,
      "stop": ["a", "b"], "stop_token_ids": [8], "ignore_eos": true, "stream": true, "n": 1,
      "stream_options": {"include_usage": true}, "return_token_ids": true, "echo": false,
      "logprobs": null, "logit_bias": {}, "presence_penalty": 0, "user": "x"})");
  EXPECT_THAT(call.request.prompt, ElementsAre(5, 6, 7));
  EXPECT_EQ(call.request.tokens_max, 9);
  EXPECT_EQ(call.request.sampling, (SamplingParams{0.0f, 3, 0.5f, 0.1f, ~uint64_t{0}}));
  EXPECT_THAT(call.stops, ElementsAre("a", "b"));
  EXPECT_THAT(call.request.stop_token_ids, ElementsAre(8));
  EXPECT_TRUE(call.request.ignore_eos);
  EXPECT_TRUE(call.stream && call.include_usage && call.return_token_ids);
  EXPECT_THAT(Accepted(R"({"prompt": ["Hi"], "stop": "x", "top_k": -1})").stops, ElementsAre("x"));
}

TEST_F(OpenaiCodecTest, BadBodies) {
  ExpectBodyRefused("", "", "JSON");
  ExpectBodyRefused("{", "", "JSON");
  ExpectBodyRefused("[]", "", "object");
  ExpectBodyRefused(std::string(1000, '['), "", "JSON");
  ExpectBodyRefused("{\"prompt\": \"\xff\"}", "", "JSON");
}

TEST_F(OpenaiCodecTest, BadPrompts) {
  ExpectBodyRefused("{}", "prompt", "missing");
  ExpectBodyRefused(R"({"prompt": 5})", "prompt", "5");
  ExpectBodyRefused(R"({"prompt": ""})", "prompt", "no tokens");
  ExpectBodyRefused(R"({"prompt": []})", "prompt", "no tokens");
  ExpectBodyRefused(R"({"prompt": [[]]})", "prompt", "no tokens");
  ExpectBodyRefused(R"({"prompt": ["a", "b"]})", "prompt", "one prompt");
  ExpectBodyRefused(R"({"prompt": [1, 4096]})", "prompt", "4096");
  ExpectBodyRefused(R"({"prompt": [1, -1]})", "prompt", "-1");
  ExpectBodyRefused(R"({"prompt": [1, "a"]})", "prompt", "entry 1");
  ExpectBodyRefused(R"({"prompt": [1, 2.5]})", "prompt", "2.5");
  std::string ids = "1";
  for (int i = 0; i < 63; ++i) ids += ",1";
  ExpectBodyRefused("{\"prompt\": [" + ids + "]}", "prompt", "64");
  ExpectBodyRefused("{\"prompt\": \"" + std::string(100000, 'a') + "\"}", "prompt", "shorten");
  context_.tokenizer = nullptr;
  ExpectBodyRefused(R"({"prompt": "a"})", "prompt", "tokenizer");
  EXPECT_TRUE(Accepted(R"({"prompt": [1]})").return_token_ids);
  ExpectRefused(R"("stop": "x")", "stop", "tokenizer");
}

TEST_F(OpenaiCodecTest, EachBadFieldIsNamed) {
  ExpectRefused(R"("max_tokens": 0)", "max_tokens", "0");
  ExpectRefused(R"("max_tokens": -5)", "max_tokens", "-5");
  ExpectRefused(R"("max_tokens": "many")", "max_tokens", "many");
  ExpectRefused(R"("max_tokens": 63)", "max_tokens", "at most 62");
  ExpectRefused(R"("max_tokens": 99999999999)", "max_tokens", "99999999999");
  ExpectRefused(R"("temperature": -0.1)", "temperature", "-");
  ExpectRefused(R"("temperature": "hot")", "temperature", "hot");
  ExpectRefused(R"("temperature": 1e999)", "temperature", "number");
  ExpectRefused(R"("top_p": 0)", "top_p", "0");
  ExpectRefused(R"("top_p": 1.5)", "top_p", "1.5");
  ExpectRefused(R"("top_k": -2)", "top_k", "-2");
  ExpectRefused(R"("top_k": 1.5)", "top_k", "1.5");
  ExpectRefused(R"("min_p": 2)", "min_p", "2");
  ExpectRefused(R"("seed": "x")", "seed", "x");
  ExpectRefused(R"("stop": 5)", "stop", "5");
  ExpectRefused(R"("stop": [""])", "stop", "[\"\"]");
  ExpectRefused(R"("stop": [1])", "stop", "1");
  ExpectRefused(R"("stop": ["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])",
                "stop", "16");
  ExpectRefused(R"("stop_token_ids": 4)", "stop_token_ids", "4");
  ExpectRefused(R"("stop_token_ids": [5000])", "stop_token_ids", "5000");
  ExpectRefused(R"("ignore_eos": 1)", "ignore_eos", "1");
  ExpectRefused(R"("stream": "yes")", "stream", "yes");
  ExpectRefused(R"("stream_options": true)", "stream_options", "include_usage");
  ExpectRefused(R"("stream_options": {"include_usage": 1})", "stream_options", "include_usage");
  ExpectRefused(R"("return_token_ids": 0)", "return_token_ids", "0");
  ExpectRefused(R"("model": 5)", "model", "5");
  ExpectRefused(R"("model": "other")", "model", "other", 404);
}

TEST_F(OpenaiCodecTest, UnsupportedFieldsAreRefused) {
  ExpectRefused(R"("n": 2)", "n", "2");
  ExpectRefused(R"("best_of": 3)", "best_of", "3");
  ExpectRefused(R"("echo": true)", "echo", "true");
  ExpectRefused(R"("logprobs": 0)", "logprobs", "not supported");
  ExpectRefused(R"("logit_bias": {"5": 1})", "logit_bias", "not supported");
  ExpectRefused(R"("suffix": "x")", "suffix", "not supported");
  ExpectRefused(R"("presence_penalty": 1)", "presence_penalty", "only 0");
  ExpectRefused(R"("frequency_penalty": -1)", "frequency_penalty", "only 0");
  ExpectRefused(R"("repetition_penalty": 1.1)", "repetition_penalty", "only 1");
}

TEST_F(OpenaiCodecTest, LogitsRows) {
  const auto good = ParseLogits(R"({"input_ids": [[1, 2], [3, 4]]})", shape_);
  ASSERT_TRUE(std::holds_alternative<TokenRows>(good));
  EXPECT_EQ(std::get<TokenRows>(good), (TokenRows{{1, 2}, {3, 4}}));
  const auto message = [this](const std::string& body) {
    const auto parsed = ParseLogits(body, shape_);
    const ApiError* error = std::get_if<ApiError>(&parsed);
    return error == nullptr ? "accepted" : error->param + ": " + error->message;
  };
  EXPECT_THAT(message("{}"), HasSubstr("input_ids"));
  EXPECT_THAT(message(R"({"input_ids": []})"), HasSubstr("input_ids"));
  EXPECT_THAT(message(R"({"input_ids": [5]})"), HasSubstr("row 0"));
  EXPECT_THAT(message(R"({"input_ids": [[1], 5]})"), HasSubstr("row 1"));
  EXPECT_THAT(message(R"({"input_ids": [[1], []]})"), HasSubstr("row 1"));
  EXPECT_THAT(message(R"({"input_ids": [[1], [1, 2]]})"), HasSubstr("length"));
  EXPECT_THAT(message(R"({"input_ids": [[1, 4096]]})"), HasSubstr("4096"));
  std::string row = "1";
  for (int i = 0; i < 63; ++i) row += ",1";
  std::string rows = "[" + row + "]";
  for (int i = 0; i < 299; ++i) absl::StrAppend(&rows, ",[", row, "]");
  EXPECT_THAT(message("{\"input_ids\": [" + rows + "]}"), HasSubstr("268435456"));
  EXPECT_THAT(message("{\"input_ids\": [[" + row + ",1]]}"), HasSubstr("65"));
}

TEST_F(OpenaiCodecTest, Answers) {
  const CompletionWriter writer("cmpl-1", "demo \"moe\"", 123, /*token_ids=*/true);
  const std::vector<int32_t> ids = {4, 5};
  const boost::json::value whole =
      boost::json::parse(writer.Whole({"a\"\n\xc3\xa9", ids, "stop"}, {3, 2}));
  EXPECT_EQ(whole.at("object"), "text_completion");
  EXPECT_EQ(whole.at("model"), "demo \"moe\"");
  EXPECT_EQ(whole.at("choices").at(0).at("text"), "a\"\n\xc3\xa9");
  EXPECT_EQ(whole.at("choices").at(0).at("token_ids"), (boost::json::array{4, 5}));
  EXPECT_EQ(whole.at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(whole.at("usage").at("total_tokens"), 5);
  const std::string event = CompletionWriter("c", "m", 1, false).Event({"x", ids, nullptr});
  EXPECT_EQ(event.substr(0, 6), "data: ");
  EXPECT_EQ(event.substr(event.size() - 2), "\n\n");
  const boost::json::value piece = boost::json::parse(event.substr(6, event.size() - 8));
  EXPECT_TRUE(piece.at("choices").at(0).at("finish_reason").is_null());
  EXPECT_FALSE(piece.at("choices").at(0).as_object().contains("token_ids"));
  const std::string usage = writer.UsageEvent({3, 2});
  const boost::json::value usage_json = boost::json::parse(usage.substr(6, usage.size() - 8));
  EXPECT_TRUE(usage_json.at("choices").as_array().empty());
  EXPECT_EQ(usage_json.at("usage").at("prompt_tokens"), 3);
}

TEST_F(OpenaiCodecTest, Errors) {
  const boost::json::value error =
      boost::json::parse(ErrorJson({400, "bad \"x\"", "invalid_request_error", "top_p", ""}));
  EXPECT_EQ(error.at("error").at("message"), "bad \"x\"");
  EXPECT_EQ(error.at("error").at("param"), "top_p");
  EXPECT_TRUE(error.at("error").at("code").is_null());
  EXPECT_EQ(ErrorFromStatus(absl::InvalidArgumentError("x")).http, 400);
  EXPECT_EQ(ErrorFromStatus(absl::ResourceExhaustedError("x")).http, 429);
  EXPECT_EQ(ErrorFromStatus(absl::UnavailableError("x")).http, 503);
  EXPECT_EQ(ErrorFromStatus(absl::DeadlineExceededError("x")).http, 504);
  EXPECT_EQ(ErrorFromStatus(absl::InternalError("x")).http, 500);
}

}  // namespace
}  // namespace conclave
