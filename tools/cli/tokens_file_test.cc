#include "tools/cli/tokens_file.h"

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

std::string Write(const std::string& text) {
  const std::string path = absl::StrCat(getenv("TEST_TMPDIR"), "/tokens.json");
  std::ofstream(path) << text;
  return path;
}

TEST(TokensFileTest, ReadsSequences) {
  const auto sequences = ReadTokensFile(Write(R"({"input_ids": [[1, 2, 3], [4]]})"));
  ASSERT_TRUE(sequences.ok()) << sequences.status();
  EXPECT_EQ(*sequences, (std::vector<std::vector<int32_t>>{{1, 2, 3}, {4}}));
}

TEST(TokensFileTest, RefusesBadFilesByNameAndPlace) {
  const struct {
    const char* text;
    const char* says;
  } kCases[] = {
      {"{", "is not JSON"},
      {"[1]", "no list input_ids"},
      {R"({"input_ids": []})", "input_ids is empty"},
      {R"({"input_ids": [[]]})", "input_ids[0] is not a list"},
      {R"({"input_ids": [[1], [2, -3]]})", "input_ids[1][1] is not a token id"},
      {R"({"input_ids": [[1.5]]})", "input_ids[0][0] is not a token id"},
  };
  for (const auto& test : kCases) {
    const auto result = ReadTokensFile(Write(test.text));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << test.text;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(test.says));
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("tokens.json"));
  }
  EXPECT_THAT(std::string(ReadTokensFile("/nonexistent").status().message()),
              HasSubstr("cannot be read"));
}

TEST(TokensFileTest, WritesWholeFilesOrNothing) {
  const std::string path = absl::StrCat(getenv("TEST_TMPDIR"), "/out.npy");
  EXPECT_TRUE(WriteFileAtomically(path, "abc").ok());
  std::ifstream in(path);
  std::string text;
  in >> text;
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(WriteFileAtomically("/nonexistent/out.npy", "abc").code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
