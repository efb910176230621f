// Damaged frames: whatever the bytes, Decode gives a value or InvalidArgument.
#include <algorithm>
#include <string>
#include <variant>
#include <vector>

#include "comm/base/rng.h"
#include "comm/codec/codec.h"
#include "comm/codec/random_envelope.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr size_t kKinds = std::variant_size_v<Message>;

// Overwrites, flips, duplicates, cuts and grows.
std::string Mutate(Rng& rng, std::string frame) {
  for (uint64_t edits = 1 + rng.Below(4); edits > 0 && !frame.empty(); --edits) {
    const size_t at = rng.Below(frame.size());
    switch (rng.Below(6)) {
      case 0:
        frame[at] = static_cast<char>(rng.Below(256));
        break;
      case 1:
        frame[at] = static_cast<char>(frame[at] ^ (1 << rng.Below(8)));
        break;
      case 2:
        frame[at] = rng.Chance(1, 2) ? '\xff' : '\x7f';
        break;
      case 3: {  // one word over another: pointers that alias or loop
        const size_t words = frame.size() / 8;
        if (words > 0) {
          const std::string word = frame.substr(rng.Below(words) * 8, 8);
          frame.replace(rng.Below(words) * 8, 8, word);
        }
        break;
      }
      case 4:
        frame.resize(frame.size() - rng.Below(std::min<size_t>(frame.size(), 24) + 1));
        break;
      case 5:
        frame.append(rng.Below(3) * 8, static_cast<char>(rng.Below(256)));
        break;
    }
  }
  return frame;
}

TEST(CodecMutationTest, MutatedFramesGiveAValueOrAnError) {
  Rng rng(3);
  std::vector<std::string> frames;
  for (int i = 0; i < 40; ++i) {
    for (size_t kind = 0; kind < kKinds; ++kind) {
      frames.push_back(Encode(RandomEnvelope(rng, kind)));
    }
  }
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 250000; ++i) {
    const std::string frame = Mutate(rng, frames[i % frames.size()]);
    const absl::StatusOr<Envelope> decoded = Decode(frame);
    if (!decoded.ok()) {
      ++refused;
      ASSERT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
      ASSERT_THAT(std::string(decoded.status().message()), HasSubstr("frame: "));
      continue;
    }
    ++accepted;
    // What passes is a proper value: it can be said again and is heard the same (NaN apart).
    if (i % 16 == 0) {
      const std::string again = Encode(*decoded);
      const absl::StatusOr<Envelope> second = Decode(again);
      ASSERT_TRUE(second.ok()) << second.status();
      ASSERT_EQ(Encode(*second), again);
    }
  }
  EXPECT_GT(accepted, 10000);
  EXPECT_GT(refused, 10000);
}

TEST(CodecMutationTest, RandomBytesGiveAValueOrAnError) {
  Rng rng(4);
  for (int i = 0; i < 50000; ++i) {
    std::string frame(8 * (1 + rng.Below(32)), '\0');
    for (char& c : frame) c = static_cast<char>(rng.Chance(1, 2) ? 0 : rng.Below(256));
    // A plausible segment table lets the rest be read.
    frame.replace(0, 8, std::string(8, '\0'));
    frame[4] = static_cast<char>(frame.size() / 8 - 1);
    const auto decoded = Decode(frame);
    if (!decoded.ok()) {
      EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace conclave
