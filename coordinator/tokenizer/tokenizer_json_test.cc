#include <fstream>
#include <string>

#include "boost/json.hpp"
#include "coordinator/model_config/json_fields.h"
#include "coordinator/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

// The demo's tokenizer with changes, so that each test breaks one thing.
class TokenizerJsonTest : public ::testing::Test {
 protected:
  TokenizerJsonTest() {
    const absl::StatusOr<std::string> text =
        ReadTextFile("tools/demo_model/tokenizer.json", 1 << 24);
    root_ = ParseJson(*text, "demo").value().as_object();
  }

  json::object& model() { return root_["model"].as_object(); }

  void ExpectError(absl::StatusCode code, std::initializer_list<const char*> parts) {
    const auto tokenizer = Tokenizer::Parse(json::serialize(root_), "x/tokenizer.json");
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
    const std::string message(tokenizer.status().message());
    EXPECT_THAT(message, HasSubstr("x/tokenizer.json"));
    for (const char* part : parts) EXPECT_THAT(message, HasSubstr(part));
  }
  void ExpectInvalid(std::initializer_list<const char*> parts) {
    ExpectError(absl::StatusCode::kInvalidArgument, parts);
  }
  void ExpectUnsupported(std::initializer_list<const char*> parts) {
    ExpectError(absl::StatusCode::kUnimplemented, parts);
  }

  json::object root_;
};

TEST_F(TokenizerJsonTest, ShippedFileLoads) {
  const auto tokenizer = Tokenizer::Load("tools/demo_model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->id_count(), 4096);
  EXPECT_TRUE((*tokenizer)->IsSpecial(0));
  EXPECT_FALSE((*tokenizer)->IsSpecial(300));
  EXPECT_FALSE((*tokenizer)->IsSpecial(-1));
  EXPECT_EQ((*tokenizer)->Bytes(99999), "");
}

TEST_F(TokenizerJsonTest, AbsentAndOversizedFiles) {
  EXPECT_EQ(Tokenizer::Load("no/such").status().code(), absl::StatusCode::kNotFound);
  const std::string path = ::testing::TempDir() + "/oversized_tokenizer.json";
  std::ofstream(path).seekp(64 << 20) << "{}";
  EXPECT_THAT(std::string(Tokenizer::Load(path).status().message()), HasSubstr("67108864"));
  std::remove(path.c_str());
}

TEST_F(TokenizerJsonTest, NotJson) {
  for (const char* text : {"", "{", "{\"model\": ", "nope", "{} {}"}) {
    const auto tokenizer = Tokenizer::Parse(text, "x");
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("JSON"));
  }
  EXPECT_FALSE(Tokenizer::Parse("[]", "x").ok());
  EXPECT_FALSE(Tokenizer::Parse(std::string(100000, '['), "x").ok());
}

TEST_F(TokenizerJsonTest, MergesInBothForms) {
  json::array strings;
  for (const json::value& pair : model()["merges"].as_array()) {
    strings.push_back(json::string(std::string(pair.at(0).as_string()) + " " +
                                   std::string(pair.at(1).as_string())));
  }
  const auto arrays = Tokenizer::Parse(json::serialize(root_), "x");
  model()["merges"] = strings;
  const auto lines = Tokenizer::Parse(json::serialize(root_), "x");
  ASSERT_TRUE(arrays.ok() && lines.ok()) << lines.status();
  const std::string text = "It is a truth universally acknowledged";
  EXPECT_EQ(*(*arrays)->Encode(text), *(*lines)->Encode(text));
}

TEST_F(TokenizerJsonTest, BadModel) {
  root_["model"] = nullptr;
  ExpectInvalid({"model"});
}
TEST_F(TokenizerJsonTest, MissingVocab) {
  model().erase("vocab");
  ExpectInvalid({"vocab", "missing"});
}
TEST_F(TokenizerJsonTest, VocabIdOutOfRange) {
  model()["vocab"].as_object()["zzz"] = 1 << 22;
  ExpectInvalid({"vocab", "zzz", "4194304"});
}
TEST_F(TokenizerJsonTest, VocabIdNegative) {
  model()["vocab"].as_object()["zzz"] = -1;
  ExpectInvalid({"vocab", "zzz", "-1"});
}
TEST_F(TokenizerJsonTest, VocabIdWrongType) {
  model()["vocab"].as_object()["zzz"] = "5";
  ExpectInvalid({"vocab", "zzz", "\"5\""});
}
TEST_F(TokenizerJsonTest, VocabIdDuplicate) {
  model()["vocab"].as_object()["zzz"] = 17;
  ExpectInvalid({"vocab", "zzz", "17", "another token"});
}
TEST_F(TokenizerJsonTest, VocabLacksAByte) {
  model()["vocab"].as_object().erase("a");
  ExpectInvalid({"byte 97"});
}
TEST_F(TokenizerJsonTest, MissingMerges) {
  model().erase("merges");
  ExpectInvalid({"merges", "missing"});
}
TEST_F(TokenizerJsonTest, MalformedMerge) {
  model()["merges"].as_array()[5] = "a b c";
  ExpectInvalid({"merges", "entry 5", "a b c"});
}
TEST_F(TokenizerJsonTest, MergeOfUnknownToken) {
  model()["merges"].as_array()[5] = {"qq", "zz"};
  ExpectInvalid({"merges", "entry 5", "'qq'"});
}
TEST_F(TokenizerJsonTest, AddedTokenDisagreesWithVocab) {
  root_["added_tokens"].as_array()[1].as_object()["id"] = 77;
  ExpectInvalid({"added_tokens[1]", "77", "<|im_start|>"});
}
TEST_F(TokenizerJsonTest, AddedTokenWithoutContent) {
  root_["added_tokens"].as_array()[1].as_object()["content"] = "";
  ExpectInvalid({"added_tokens[1]", "content"});
}
TEST_F(TokenizerJsonTest, AddedTokenTwice) {
  root_["added_tokens"].as_array().push_back(root_["added_tokens"].as_array()[1]);
  ExpectInvalid({"added_tokens[3]", "twice"});
}
TEST_F(TokenizerJsonTest, PatternDoesNotCompile) {
  root_["pre_tokenizer"].as_object()["pretokenizers"].as_array()[0].as_object()["pattern"] =
      json::object{{"Regex", "(["}};
  ExpectInvalid({"pre_tokenizer", "(["});
}
TEST_F(TokenizerJsonTest, TemplateNamesUnknownToken) {
  root_["post_processor"].as_object()["single"].as_array().push_back(
      json::object{{"SpecialToken", json::object{{"id", "<s>"}, {"type_id", 0}}}});
  ExpectInvalid({"special_tokens", "<s>"});
}

TEST_F(TokenizerJsonTest, OtherKindsAreRefusedByName) {
  model()["type"] = "Unigram";
  ExpectUnsupported({"Unigram", "byte-level BPE"});
}
TEST_F(TokenizerJsonTest, ByteFallback) {
  model()["byte_fallback"] = true;
  ExpectUnsupported({"byte_fallback", "true"});
}
TEST_F(TokenizerJsonTest, Dropout) {
  model()["dropout"] = 0.1;
  ExpectUnsupported({"dropout"});
}
TEST_F(TokenizerJsonTest, OtherNormalizer) {
  root_["normalizer"] = json::object{
      {"type", "Sequence"}, {"normalizers", json::array{json::object{{"type", "Lowercase"}}}}};
  ExpectUnsupported({"normalizer", "Lowercase"});
}
TEST_F(TokenizerJsonTest, OtherPreTokenizer) {
  root_["pre_tokenizer"] = json::object{{"type", "Metaspace"}};
  ExpectUnsupported({"pre_tokenizer", "Metaspace"});
}
TEST_F(TokenizerJsonTest, NoPreTokenizer) {
  root_["pre_tokenizer"] = nullptr;
  ExpectUnsupported({"pre_tokenizer", "ByteLevel"});
}
TEST_F(TokenizerJsonTest, OtherSplitBehavior) {
  root_["pre_tokenizer"].as_object()["pretokenizers"].as_array()[0].as_object()["behavior"] =
      "MergedWithNext";
  ExpectUnsupported({"behavior", "MergedWithNext"});
}
TEST_F(TokenizerJsonTest, OtherPostProcessor) {
  root_["post_processor"] = json::object{{"type", "BertProcessing"}};
  ExpectUnsupported({"post_processor", "BertProcessing"});
}
TEST_F(TokenizerJsonTest, OtherDecoder) {
  root_["decoder"] = json::object{{"type", "WordPiece"}};
  ExpectUnsupported({"decoder", "WordPiece"});
}

}  // namespace
}  // namespace conclave
