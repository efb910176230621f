#include "worker/kv/kv_pool.h"

#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// 2 * 3 layers * 2 heads * 16 tokens * 8 * 4 bytes = 6 KiB a page.
constexpr KvGeometry kGeometry = {3, 2, 8, 16, Dtype::kF32};

TEST(KvPoolTest, PagesFollowTheBudget) {
  EXPECT_EQ(kGeometry.PageBytes(), 6144);
  CacheOptions cache;
  EXPECT_EQ(*KvPagesFor(kGeometry, cache, 1 << 20, 1 << 19), (1 << 19) / 6144);
  EXPECT_EQ(*KvPagesFor(kGeometry, cache, 0, 1 << 19), kKvPagesUnbounded);
  cache.pages_max = 5;
  EXPECT_EQ(*KvPagesFor(kGeometry, cache, 1 << 20, 1 << 19), 5);
  cache.memory_bytes = 2 * 6144;
  EXPECT_EQ(*KvPagesFor(kGeometry, cache, 1 << 20, 1 << 19), 2);
}

TEST(KvPoolTest, TooSmallABudgetSaysWhatIsNeeded) {
  const auto pages = KvPagesFor(kGeometry, CacheOptions{}, 1 << 20, 2 << 20);
  EXPECT_EQ(pages.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(pages.status().message()), HasSubstr("budget of 1.0 MiB"));
  EXPECT_THAT(std::string(pages.status().message()), HasSubstr("weights take 2.0 MiB"));
  EXPECT_THAT(std::string(pages.status().message()), HasSubstr("raise"));
  CacheOptions cache;
  cache.memory_bytes = 100;
  EXPECT_EQ(KvPagesFor(kGeometry, cache, 0, 0).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(KvPoolTest, BadOptionsAreNamed) {
  CacheOptions cache;
  cache.page_tokens = 0;
  EXPECT_THAT(std::string(KvPagesFor(kGeometry, cache, 0, 0).status().message()),
              HasSubstr("page_tokens 0"));
  cache = {};
  cache.dtype = Dtype::kI64;
  EXPECT_THAT(std::string(KvPagesFor(kGeometry, cache, 0, 0).status().message()),
              HasSubstr("int64"));
  cache = {};
  cache.pages_max = -1;
  EXPECT_EQ(KvPagesFor(kGeometry, cache, 0, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(KvPoolTest, LayersAreApartAndAligned) {
  const auto pool = KvPool::Create(kGeometry, 7);
  ASSERT_TRUE(pool.ok()) << pool.status();
  for (int l = 0; l < 3; ++l) {
    const KvLayer layer = (*pool)->Layer(l);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(layer.data) % 64, 0u);
    EXPECT_EQ(layer.PageBytes() * 3, kGeometry.PageBytes());
    std::memset(layer.data, l + 1, layer.PageBytes() * layer.pages);
  }
  for (int l = 0; l < 3; ++l) {
    const KvLayer layer = (*pool)->Layer(l);
    const auto* bytes = static_cast<const uint8_t*>(layer.data);
    EXPECT_EQ(bytes[0], l + 1);
    EXPECT_EQ(bytes[layer.PageBytes() * layer.pages - 1], l + 1);
  }
}

TEST(KvPoolTest, ALargePoolCostsNothingUntilUsed) {
  KvGeometry large = kGeometry;
  large.head_dim = 128;
  const auto pool = KvPool::Create(large, 1 << 17);  // 12 GiB of address space
  ASSERT_TRUE(pool.ok()) << pool.status();
  const KvLayer layer = (*pool)->Layer(2);
  static_cast<uint8_t*>(layer.data)[layer.PageBytes() * (layer.pages - 1LL)] = 1;
}

}  // namespace
}  // namespace conclave
