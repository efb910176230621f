#include "coordinator/api/completion_text.h"

#include "comm/base/rng.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(StopMatcherTest, NeverGivesOutPartOfAStop) {
  StopMatcher matcher({"STOP", "\n\n"});
  EXPECT_EQ(matcher.Push("abS"), "ab");
  EXPECT_EQ(matcher.Push("T"), "");
  EXPECT_EQ(matcher.Push("x"), "STx");
  EXPECT_EQ(matcher.Push("y\n"), "y");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.Push("\nz"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FlushGivesWhatWasHeld) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("STO"), "");
  EXPECT_EQ(matcher.Flush(), "STO");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcherTest, TheEarliestStopCounts) {
  StopMatcher matcher({"cd", "bcd"});
  EXPECT_EQ(matcher.Push("abcd"), "a");
  StopMatcher none({});
  EXPECT_EQ(none.Push("abc"), "abc");
}

// However the text is cut into pieces, what is given out is what lies before the first stop string.
TEST(StopMatcherTest, EqualsSearchOfTheWholeText) {
  Rng rng(5);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 20; ++i) text.push_back(static_cast<char>('a' + rng.Below(3)));
    const std::vector<std::string> stops = {"abca", "cc", "bab"};
    size_t end = text.size();
    for (const std::string& stop : stops) end = std::min(end, text.find(stop));
    StopMatcher matcher(stops);
    std::string out;
    for (size_t i = 0; i < text.size();) {
      const size_t size = 1 + rng.Below(4);
      out += matcher.Push(text.substr(i, size));
      EXPECT_EQ(text.compare(0, out.size(), out), 0);
      EXPECT_LE(out.size(), end);
      i += size;
    }
    out += matcher.Flush();
    EXPECT_EQ(out, text.substr(0, end));
  }
}

TEST(CompletionTextTest, DecodesStopsAndSilence) {
  const auto tokenizer = Tokenizer::Load("tools/demo_model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<int32_t> ids =
      *(*tokenizer)->Encode("caf\xc3\xa9 is \xf0\x9f\x98\x80 open. Not");
  CompletionText text(tokenizer->get(), {" open"}, {});
  std::string out;
  for (int32_t id : ids) out += text.Push(id);
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(out + text.Flush(), "caf\xc3\xa9 is \xf0\x9f\x98\x80");

  CompletionText silent(tokenizer->get(), {}, {ids[0]});
  EXPECT_EQ(silent.Push(ids[0]), "");

  CompletionText blind(nullptr, {}, {});
  EXPECT_EQ(blind.Push(5), "");
  EXPECT_EQ(blind.Flush(), "");
}

}  // namespace
}  // namespace conclave
