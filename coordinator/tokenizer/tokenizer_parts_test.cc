#include <algorithm>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "coordinator/tokenizer/added_tokens.h"
#include "coordinator/tokenizer/bpe.h"
#include "coordinator/tokenizer/byte_alphabet.h"
#include "coordinator/tokenizer/split_pattern.h"
#include "coordinator/tokenizer/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Lossy(const std::vector<std::string>& pieces) {
  Utf8Stream stream;
  std::string out;
  for (const std::string& piece : pieces) stream.Push(piece, &out);
  stream.Flush(&out);
  return out;
}

TEST(Utf8Test, FindsInvalidBytes) {
  EXPECT_EQ(FirstInvalidUtf8("a\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80"), absl::string_view::npos);
  EXPECT_EQ(FirstInvalidUtf8("ab\x80"), 2u);
  EXPECT_EQ(FirstInvalidUtf8("\xc0\x80"), 0u);          // overlong
  EXPECT_EQ(FirstInvalidUtf8("a\xed\xa0\x80"), 1u);     // a surrogate
  EXPECT_EQ(FirstInvalidUtf8("\xf4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(FirstInvalidUtf8("abc\xf0\x9f\x98"), 3u);   // cut short
}

TEST(Utf8Test, StreamHoldsUnfinishedCharacters) {
  Utf8Stream stream;
  std::string out;
  stream.Push("\xf0\x9f", &out);
  EXPECT_EQ(out, "");
  stream.Push("\x98", &out);
  EXPECT_EQ(out, "");
  stream.Push("\x80x\xe4", &out);
  EXPECT_EQ(out, "\xf0\x9f\x98\x80x");
  stream.Flush(&out);
  EXPECT_EQ(out, "\xf0\x9f\x98\x80x\xef\xbf\xbd");
  stream.Flush(&out);
  EXPECT_EQ(out, "\xf0\x9f\x98\x80x\xef\xbf\xbd");
}

TEST(Utf8Test, OneReplacementForEachMaximalInvalidPart) {
  EXPECT_EQ(Lossy({"\xff\xfe"}), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(Lossy({"\xf0\x9f", "a"}),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(Lossy({"\xed\xa0\x80"}), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(Utf8Test, PiecesDoNotChangeTheText) {
  Rng rng(7);
  for (int round = 0; round < 200; ++round) {
    std::string bytes;
    for (int i = 0; i < 40; ++i) bytes.push_back(static_cast<char>(rng.Below(256)));
    std::vector<std::string> pieces;
    for (size_t i = 0; i < bytes.size();) {
      const size_t size = 1 + rng.Below(3);
      pieces.push_back(bytes.substr(i, size));
      i += size;
    }
    const std::string whole = Lossy({bytes});
    EXPECT_EQ(Lossy(pieces), whole);
    EXPECT_EQ(FirstInvalidUtf8(whole), absl::string_view::npos);
  }
}

TEST(ByteAlphabetTest, SpellsEveryByte) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  const std::string spelled = SpellBytes(all);
  std::string back;
  ASSERT_TRUE(UnspellBytes(spelled, &back));
  EXPECT_EQ(back, all);
  EXPECT_EQ(SpellBytes(" a\n"),
            "\xc4\xa0"
            "a\xc4\x8a");  // as in every GPT-2 vocabulary
  EXPECT_FALSE(UnspellBytes("a b", &back));
  EXPECT_FALSE(UnspellBytes("\xe4\xbd\xa0", &back));
}

std::vector<std::string> SplitAll(const std::string& pattern, const std::string& text,
                                  bool matches_only = false) {
  const absl::StatusOr<std::unique_ptr<SplitPattern>> split = SplitPattern::Compile(pattern);
  EXPECT_TRUE(split.ok()) << split.status();
  SplitScratch scratch;
  std::vector<absl::string_view> pieces;
  EXPECT_TRUE((*split)->Split(text, matches_only, &scratch, &pieces).ok());
  return std::vector<std::string>(pieces.begin(), pieces.end());
}

TEST(SplitPatternTest, IsolatesMatchesAndKeepsGaps) {
  EXPECT_THAT(SplitAll("\\p{N}", "ab12c"), ElementsAre("ab", "1", "2", "c"));
  EXPECT_THAT(SplitAll("\\p{N}", "ab12c", true), ElementsAre("1", "2"));
  EXPECT_THAT(SplitAll("x*", "axb"), ElementsAre("a", "x", "b"));  // empty matches make no piece
  EXPECT_THAT(SplitAll("\\s+(?!\\S)|\\s+", "a  b "), ElementsAre("a", " ", " ", "b", " "));
}

TEST(SplitPatternTest, WhiteSpaceIsUnicodes) {
  EXPECT_THAT(SplitAll("\\s",
                       "a\xc2\x85"
                       "b"),
              ElementsAre("a", "\xc2\x85", "b"));  // U+0085
  EXPECT_THAT(SplitAll("[^\\s]+",
                       "a\xe1\xa0\x8e"
                       "b"),
              ElementsAre("a\xe1\xa0\x8e"
                          "b"));  // U+180E
}

TEST(SplitPatternTest, BadPatterns) {
  EXPECT_EQ(SplitPattern::Compile("(").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(SplitPattern::Compile("(a").status().message()), HasSubstr("(a"));
  EXPECT_EQ(SplitPattern::Compile("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SplitPattern::Compile("\\w+").status().code(), absl::StatusCode::kUnimplemented);
}

TEST(SplitPatternTest, RunawayMatchEnds) {
  const absl::StatusOr<std::unique_ptr<SplitPattern>> split = SplitPattern::Compile("(a|aa)+$");
  ASSERT_TRUE(split.ok());
  SplitScratch scratch;
  std::vector<absl::string_view> pieces;
  const std::string text = std::string(200, 'a') + "b";
  EXPECT_EQ((*split)->Split(text, false, &scratch, &pieces).code(),
            absl::StatusCode::kResourceExhausted);
}

// All bytes, ids by value, and the merges given; a merged token's id follows.
BpeSource ByteSource(const std::vector<std::pair<std::string, std::string>>& merges) {
  BpeSource source;
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    source.vocab.push_back({SpellBytes(absl::string_view(&raw, 1)), byte});
  }
  for (const auto& [left, right] : merges) {
    source.vocab.push_back({left + right, static_cast<int32_t>(source.vocab.size())});
  }
  source.merges = merges;
  return source;
}

std::vector<int32_t> EncodeWord(const BpeModel& model, const std::string& word) {
  std::vector<int32_t> ids;
  BpeModel::Scratch scratch;
  model.Encode(word, &scratch, &ids);
  return ids;
}

TEST(BpeTest, LowestRankFirstThenLeftmost) {
  const absl::StatusOr<BpeModel> model =
      BpeModel::Build(ByteSource({{"a", "a"}, {"b", "c"}, {"a", "bc"}, {"aa", "bc"}}));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(EncodeWord(*model, ""), ElementsAre());
  EXPECT_THAT(EncodeWord(*model, "aaa"), ElementsAre(256, 'a'));
  EXPECT_THAT(EncodeWord(*model, "abc"), ElementsAre(258));
  EXPECT_THAT(EncodeWord(*model, "aabc"), ElementsAre(259));
  EXPECT_THAT(EncodeWord(*model, "aaabc"), ElementsAre(256, 258));
}

// The definition, in quadratic time.
std::vector<int32_t> ObviousBpe(const BpeSource& source, const std::string& word) {
  std::vector<std::string> parts;
  for (char c : word) parts.push_back(SpellBytes(absl::string_view(&c, 1)));
  for (;;) {
    size_t best = source.merges.size(), where = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = std::find(source.merges.begin(), source.merges.end(),
                                   std::make_pair(parts[i], parts[i + 1]));
      const size_t rank = found - source.merges.begin();
      if (rank < best) best = rank, where = i;
    }
    if (best == source.merges.size()) break;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + where + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& part : parts) {
    for (const VocabEntry& entry : source.vocab) {
      if (entry.token == part) ids.push_back(entry.id);
    }
  }
  return ids;
}

TEST(BpeTest, EqualsTheDefinition) {
  const BpeSource source = ByteSource({{"a", "b"},
                                       {"b", "a"},
                                       {"a", "a"},
                                       {"ab", "a"},
                                       {"aa", "b"},
                                       {"b", "b"},
                                       {"ab", "ab"},
                                       {"ba", "ba"},
                                       {"aba", "b"}});
  // "abab" is made by two merges; both name one token.
  BpeSource unique = source;
  for (size_t i = 256; i < unique.vocab.size(); ++i) {
    for (size_t j = 256; j < i; ++j) {
      if (unique.vocab[i].token == unique.vocab[j].token) {
        unique.vocab.erase(unique.vocab.begin() + i--);
        break;
      }
    }
  }
  const absl::StatusOr<BpeModel> model = BpeModel::Build(unique);
  ASSERT_TRUE(model.ok()) << model.status();
  Rng rng(3);
  for (int round = 0; round < 2000; ++round) {
    std::string word;
    for (uint64_t i = rng.Below(24); i > 0; --i) word.push_back(rng.Chance(1, 2) ? 'a' : 'b');
    EXPECT_EQ(EncodeWord(*model, word), ObviousBpe(unique, word)) << word;
  }
}

TEST(BpeTest, IgnoreMergesKeepsWholeWords) {
  BpeSource source = ByteSource({{"a", "b"}});
  source.vocab.push_back({"xyz", 300});
  EXPECT_THAT(EncodeWord(*BpeModel::Build(source), "xyz"), ElementsAre('x', 'y', 'z'));
  source.ignore_merges = true;
  EXPECT_THAT(EncodeWord(*BpeModel::Build(source), "xyz"), ElementsAre(300));
}

TEST(BpeTest, RefusesUnknownTokensAndMissingBytes) {
  BpeSource source = ByteSource({});
  source.merges = {{"a", "b"}};
  EXPECT_THAT(std::string(BpeModel::Build(source).status().message()), HasSubstr("'ab'"));
  source = ByteSource({});
  source.vocab.erase(source.vocab.begin() + 'a');
  EXPECT_THAT(std::string(BpeModel::Build(source).status().message()), HasSubstr("byte 97"));
}

std::vector<std::pair<std::string, int>> Segments(std::vector<AddedToken> tokens,
                                                  const std::string& text) {
  std::vector<TextSegment> segments;
  AddedTokenMatcher(std::move(tokens)).Split(text, &segments);
  std::vector<std::pair<std::string, int>> out;
  for (const TextSegment& segment : segments) out.emplace_back(segment.text, segment.id);
  return out;
}

TEST(AddedTokensTest, LeftmostLongest) {
  using P = std::pair<std::string, int>;
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "<a"}, {.id = 2, .content = "<a>"}, {.id = 3, .content = "a>b"}};
  EXPECT_THAT(Segments(tokens, "x<a>b<a"),
              ElementsAre(P("x", -1), P("<a>", 2), P("b", -1), P("<a", 1)));
  EXPECT_THAT(Segments(tokens, ""), ElementsAre());
  EXPECT_THAT(Segments({}, "x"), ElementsAre(P("x", -1)));
}

TEST(AddedTokensTest, StripAndSingleWord) {
  using P = std::pair<std::string, int>;
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "L", .lstrip = true},
                                          {.id = 2, .content = "R", .rstrip = true},
                                          {.id = 3, .content = "w", .single_word = true}};
  EXPECT_THAT(Segments(tokens, "x  L R  y"),
              ElementsAre(P("x", -1), P("  L", 1), P(" ", -1), P("R  ", 2), P("y", -1)));
  EXPECT_THAT(Segments(tokens, "w.wx \xc3\xa9w w"),
              ElementsAre(P("w", 3), P(".wx \xc3\xa9w ", -1), P("w", 3)));
}

}  // namespace
}  // namespace conclave
