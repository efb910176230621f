#include "coordinator/scheduler/kv_pages.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(KvPagesTest, GroupsHavePagesOfTheirOwn) {
  KvPages pages({3, 1});
  std::vector<int32_t> a, b;
  ASSERT_TRUE(pages.Allocate(0, RequestId{1}, 2, &a));
  ASSERT_TRUE(pages.Allocate(1, RequestId{2}, 1, &b));
  EXPECT_EQ(a, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(b, (std::vector<int32_t>{0}));
  EXPECT_EQ(pages.free(0), 1);
  EXPECT_EQ(pages.used(1), 1);
  EXPECT_EQ(pages.capacity(0), 3);
}

TEST(KvPagesTest, TooFewFreeChangesNothing) {
  KvPages pages({2});
  std::vector<int32_t> a;
  EXPECT_FALSE(pages.Allocate(0, RequestId{1}, 3, &a));
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(pages.free(0), 2);
  EXPECT_TRUE(pages.Allocate(0, RequestId{1}, 0, &a));
}

TEST(KvPagesTest, ReleasedPagesComeBack) {
  KvPages pages({2});
  std::vector<int32_t> a, b;
  ASSERT_TRUE(pages.Allocate(0, RequestId{1}, 2, &a));
  pages.Release(0, RequestId{1}, &a);
  EXPECT_TRUE(a.empty());
  EXPECT_TRUE(pages.Allocate(0, RequestId{2}, 2, &b));
}

TEST(KvPagesDeathTest, OnlyTheOwnerReleases) {
  KvPages pages({2});
  std::vector<int32_t> a;
  ASSERT_TRUE(pages.Allocate(0, RequestId{1}, 1, &a));
  EXPECT_DEATH(pages.Release(0, RequestId{2}, &a), "page 0 of group 0");
}

}  // namespace
}  // namespace conclave
