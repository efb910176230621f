#include "comm/actor/sequence.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr WorkerId kOld{1};
constexpr WorkerId kNew{2};

TEST(SequenceTest, EachReceiverCountsForItself) {
  SequenceSource source(100);
  EXPECT_EQ(source.Next("a"), 101u);
  EXPECT_EQ(source.Next("a"), 102u);
  EXPECT_EQ(source.Next("b"), 101u);
  EXPECT_EQ(SequenceSource().Next("a"), 1u);
}

TEST(SequenceTest, RepeatedAndOvertakenMessagesAreRefused) {
  SequenceFilter filter;
  EXPECT_TRUE(filter.Accept("w", kOld, 1));
  EXPECT_FALSE(filter.Accept("w", kOld, 1));
  EXPECT_TRUE(filter.Accept("w", kOld, 5)) << "gaps are losses";
  EXPECT_FALSE(filter.Accept("w", kOld, 4));
  EXPECT_TRUE(filter.Accept("x", kOld, 1)) << "another peer";
}

TEST(SequenceTest, ARestartedWorkerStartsAtOne) {
  SequenceFilter filter;
  EXPECT_TRUE(filter.Accept("w", kOld, 50));
  EXPECT_TRUE(filter.Accept("w", kNew, 1));
  EXPECT_FALSE(filter.Accept("w", kOld, 50)) << "a late echo of the old one";
  EXPECT_FALSE(filter.Accept("w", kNew, 1)) << "which did not make the filter forget";
  EXPECT_TRUE(filter.Accept("w", kNew, 2));
}

TEST(SequenceTest, OldIncarnationsAreForgotten) {
  SequenceFilter filter;
  for (uint64_t worker = 1; worker <= 100; ++worker) {
    EXPECT_TRUE(filter.Accept("w", WorkerId{worker}, 9));
    EXPECT_FALSE(filter.Accept("w", WorkerId{worker}, 9));
  }
}

TEST(SequenceTest, ManyNamesDoNotGrowWithoutBound) {
  SequenceFilter filter;
  for (int i = 0; i < 70000; ++i) EXPECT_TRUE(filter.Accept(absl::StrCat("w", i), kOld, 1));
}

}  // namespace
}  // namespace conclave
