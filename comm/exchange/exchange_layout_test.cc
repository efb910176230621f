#include "comm/exchange/exchange_layout.h"

#include <cstring>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr int kHidden = 4;
constexpr DispatchLimits kLimits = {3, 6, 5, kHidden};

// Words of 8 bytes keep the alignment that messages need.
struct Message {
  std::vector<uint64_t> words = std::vector<uint64_t>(32);
  size_t size = 0;
  absl::Span<uint8_t> all() { return {reinterpret_cast<uint8_t*>(words.data()), words.size() * 8}; }
  absl::Span<const uint8_t> bytes() { return all().first(size); }
};

Message Sample() {
  const std::vector<float> data = {0, 1, 2, 3, -1, 10, 11, 12, 13, -1, 20, 21, 22, 23, -1};
  DispatchToPeer to;
  to.tokens = {0, 2};
  to.entries = {{0, 1, 0, 0, 0}, {1, 1, 2, 1, 0}, {1, 4, 2, 0, 0}};
  Message message;
  std::vector<const uint8_t*> rows;
  for (int i = 0; i < 3; ++i) rows.push_back(reinterpret_cast<const uint8_t*>(&data[i * 5]));
  message.size = EncodeDispatch(to, rows, kHidden, message.all());
  return message;
}

TEST(ExchangeLayoutTest, RoundTrip) {
  Message message = Sample();
  EXPECT_EQ(static_cast<int64_t>(message.size), DispatchBytes(2, 3, kHidden));
  const auto view = ParseDispatch(message.bytes(), kLimits);
  ASSERT_TRUE(view.ok()) << view.status();
  ASSERT_EQ(view->row_count, 2);
  std::vector<float> rows(8);
  std::memcpy(rows.data(), view->rows, sizeof(float) * rows.size());
  EXPECT_EQ(rows, (std::vector<float>{0, 1, 2, 3, 20, 21, 22, 23}));
  ASSERT_EQ(view->entries.size(), 3u);
  EXPECT_EQ(view->entries[2].row, 1);
  EXPECT_EQ(view->entries[2].slot, 4);
}

TEST(ExchangeLayoutTest, EmptyMessage) {
  Message message;
  message.size = EncodeDispatch({}, {}, kHidden, message.all());
  EXPECT_EQ(message.size, sizeof(DispatchHeader));
  const auto view = ParseDispatch(message.bytes(), kLimits);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->row_count, 0);
}

std::string ErrorOf(const Message& changed, DispatchLimits limits = kLimits) {
  Message message = changed;
  const auto view = ParseDispatch(message.bytes(), limits);
  EXPECT_EQ(view.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(view.status().message());
}

Message WithWord(size_t at, int32_t value) {
  Message message = Sample();
  std::memcpy(message.all().data() + at, &value, sizeof(value));
  return message;
}

TEST(ExchangeLayoutTest, GarbageIsRefusedByName) {
  EXPECT_THAT(ErrorOf(WithWord(0, 7)), HasSubstr("magic is 7"));
  EXPECT_THAT(ErrorOf(WithWord(4, 4)), HasSubstr("rows is 4, above 3"));
  EXPECT_THAT(ErrorOf(WithWord(4, 1)), HasSubstr("length is"));
  EXPECT_THAT(ErrorOf(WithWord(4, -1)), HasSubstr("rows is 4294967295"));
  EXPECT_THAT(ErrorOf(WithWord(8, 7)), HasSubstr("entries is 7, above 6"));
  EXPECT_THAT(ErrorOf(WithWord(12, 5)), HasSubstr("hidden is 5, not 4"));
  EXPECT_THAT(ErrorOf(WithWord(16, 2)), HasSubstr("an entry's row is 2"));
  EXPECT_THAT(ErrorOf(WithWord(16, -1)), HasSubstr("an entry's row is -1"));
  EXPECT_THAT(ErrorOf(WithWord(20, 5)), HasSubstr("an entry's slot is 5, outside the slots 5"));
  EXPECT_THAT(ErrorOf(WithWord(20, -9)), HasSubstr("an entry's slot is -9"));
  Message message = Sample();
  message.size -= 1;
  EXPECT_THAT(ErrorOf(message), HasSubstr("length is"));
  message.size = 15;
  EXPECT_THAT(ErrorOf(message), HasSubstr("less than the header's"));
  message.size = 0;
  EXPECT_THAT(ErrorOf(message), HasSubstr("length is 0"));
}

TEST(ExchangeLayoutTest, RandomBytesNeverPassTheBounds) {
  Rng rng(5);
  for (int round = 0; round < 20000; ++round) {
    Message message = Sample();
    for (int change = 0; change < 3; ++change) {
      message.all()[rng.Below(40)] = static_cast<uint8_t>(rng.Below(4) ? rng.Below(6) : rng.Next());
    }
    message.size = rng.Below(4) ? message.size : rng.Below(200);
    const auto view = ParseDispatch(message.bytes(), kLimits);
    if (!view.ok()) continue;
    EXPECT_LE(view->row_count, kLimits.rows_max);
    for (const WireEntry& entry : view->entries) {
      EXPECT_TRUE(entry.row >= 0 && entry.row < view->row_count);
      EXPECT_TRUE(entry.slot >= 0 && entry.slot < kLimits.slots);
    }
  }
}

TEST(ExchangeLayoutTest, CombineIsCheckedByItsLength) {
  EXPECT_TRUE(CheckCombine(3 * 16, 3, kHidden).ok());
  EXPECT_TRUE(CheckCombine(0, 0, kHidden).ok());
  EXPECT_THAT(std::string(CheckCombine(47, 3, kHidden).message()),
              HasSubstr("length is 47, not 48 for 3 entries"));
}

}  // namespace
}  // namespace conclave
