// Every collective against a scalar reference, for 1 to 8 ranks and random sizes, on each
// transport.
#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "comm/base/reduction.h"
#include "comm/base/rng.h"
#include "comm/fabric/fabric_test_kit.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr FabricOp kOp = {"test_op", 3, absl::Seconds(20)};

// xorshift64: millions of numbers a test.
uint64_t NextRandom(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

// Values whose sum depends on the order of additions.
std::vector<float> RandomFloats(size_t count, uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  std::vector<float> values(count);
  for (float& v : values) {
    const uint64_t bits = NextRandom(state);
    v = static_cast<float>(static_cast<int32_t>(bits)) * static_cast<float>(1 << (bits >> 60));
  }
  return values;
}

std::vector<uint8_t> RandomBytes(size_t count, uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  std::vector<uint8_t> values(count);
  for (uint8_t& v : values) v = static_cast<uint8_t>(NextRandom(state) >> 32);
  return values;
}

// The tree of comm/base/reduction.h, element by element.
std::vector<float> ReferenceSum(int ranks, size_t count, uint64_t seed) {
  std::vector<std::vector<float>> all;
  for (int rank = 0; rank < ranks; ++rank) all.push_back(RandomFloats(count, seed + rank));
  std::vector<float> sum(count);
  for (size_t i = 0; i < count; ++i) {
    float values[8] = {};
    for (int rank = 0; rank < ranks; ++rank) values[rank] = all[rank][i];
    sum[i] = TreeSum(values, ranks);
  }
  return sum;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Empty, tiny, around the limits of the algorithms and of UCX's protocols, and large.
std::vector<size_t> Counts(uint64_t seed) {
  Rng rng(seed);
  return {0, 1, 7, 1 + rng.Below(500), 4096, 4097, 5000 + rng.Below(60000), 300001};
}

class CollectivesTest : public testing::TestWithParam<std::tuple<FabricKind, int>> {
 protected:
  void Run(const std::function<void(int rank, Fabric& fabric)>& body) {
    auto fabrics = MakeFabrics(std::get<0>(GetParam()), ranks());
    RunRanks(fabrics, body);
  }
  int ranks() const { return std::get<1>(GetParam()); }
};

TEST_P(CollectivesTest, AllReduceSumsInTheFixedTree) {
  Run([&](int rank, Fabric& fabric) {
    for (const size_t count : Counts(ranks())) {
      std::vector<float> data = RandomFloats(count, count * 10 + rank);
      ASSERT_EQ(fabric.AllReduceSum(WholeGroup(ranks(), rank), absl::MakeSpan(data), kOp),
                absl::OkStatus());
      EXPECT_TRUE(SameBits(data, ReferenceSum(ranks(), count, count * 10))) << count;
    }
  });
}

TEST_P(CollectivesTest, ReduceScatterGivesEachItsPart) {
  Run([&](int rank, Fabric& fabric) {
    for (const size_t part : Counts(50 + ranks())) {
      if (part > 100000) continue;
      const size_t count = part * ranks();
      const std::vector<float> data = RandomFloats(count, part * 10 + rank);
      std::vector<float> out(part);
      ASSERT_EQ(fabric.ReduceScatterSum(WholeGroup(ranks(), rank), data, absl::MakeSpan(out), kOp),
                absl::OkStatus());
      const std::vector<float> sum = ReferenceSum(ranks(), count, part * 10);
      EXPECT_TRUE(SameBits(out, {sum.begin() + part * rank, sum.begin() + part * (rank + 1)}));
    }
  });
}

TEST_P(CollectivesTest, AllGatherTakesPartsOfAnySize) {
  Run([&](int rank, Fabric& fabric) {
    for (uint64_t round = 0; round < 6; ++round) {
      std::vector<size_t> sizes;
      Rng rng(round + 100);
      for (int i = 0; i < ranks(); ++i) sizes.push_back(rng.Below(uint64_t{1} << (4 * round)));
      std::vector<std::vector<uint8_t>> out;
      std::vector<absl::Span<uint8_t>> spans;
      for (const size_t size : sizes) out.emplace_back(size);
      for (auto& part : out) spans.push_back(absl::MakeSpan(part));
      const std::vector<uint8_t> part = RandomBytes(sizes[rank], round * 8 + rank);
      ASSERT_EQ(fabric.AllGatherV(WholeGroup(ranks(), rank), part, spans, kOp), absl::OkStatus());
      for (int i = 0; i < ranks(); ++i) EXPECT_EQ(out[i], RandomBytes(sizes[i], round * 8 + i));
    }
  });
}

TEST_P(CollectivesTest, BroadcastFromEveryRoot) {
  Run([&](int rank, Fabric& fabric) {
    for (int root = 0; root < ranks(); ++root) {
      for (const size_t size : {size_t{0}, size_t{5}, size_t{100000}}) {
        std::vector<uint8_t> data = RandomBytes(size, root * 10 + rank);
        ASSERT_EQ(fabric.Broadcast(WholeGroup(ranks(), rank), root, absl::MakeSpan(data), kOp),
                  absl::OkStatus());
        EXPECT_EQ(data, RandomBytes(size, root * 10 + root));
      }
    }
  });
}

TEST_P(CollectivesTest, AllToAllTellsTheSizesReceived) {
  const auto size_of = [](int from, int to) { return static_cast<size_t>(from * 977 + to * 31); };
  Run([&](int rank, Fabric& fabric) {
    std::vector<std::vector<uint8_t>> in, out;
    std::vector<absl::Span<const uint8_t>> sends;
    std::vector<RecvBuffer> recvs(ranks());
    for (int i = 0; i < ranks(); ++i) {
      in.push_back(RandomBytes(size_of(rank, i), rank * 8 + i));
      out.emplace_back(20000);
    }
    for (int i = 0; i < ranks(); ++i) {
      sends.push_back(in[i]);
      recvs[i].bytes = absl::MakeSpan(out[i]);
    }
    ASSERT_EQ(AllToAllV(fabric, WholeGroup(ranks(), rank), sends, absl::MakeSpan(recvs), kOp),
              absl::OkStatus());
    for (int i = 0; i < ranks(); ++i) {
      ASSERT_EQ(recvs[i].received, size_of(i, rank));
      out[i].resize(recvs[i].received);
      EXPECT_EQ(out[i], RandomBytes(size_of(i, rank), i * 8 + rank));
    }
  });
}

TEST_P(CollectivesTest, MessagesOfAPairMatchInOrder) {
  Run([&](int rank, Fabric& fabric) {
    const int next = (rank + 1) % ranks();
    const int previous = (rank + ranks() - 1) % ranks();
    for (int round = 0; round < 2; ++round) {
      // More than a local queue holds, of sizes that take different protocols of UCX.
      std::vector<std::vector<uint8_t>> in, out;
      std::vector<SendBuffer> sends;
      std::vector<RecvBuffer> recvs;
      for (int i = 0; i < 100; ++i) {
        const size_t size = i % 10 == 0 ? 0 : i % 7 == 0 ? 70000 : 100 + i;
        in.push_back(RandomBytes(size, rank * 1000 + i));
        out.emplace_back(size);
      }
      for (int i = 0; i < 100; ++i) {
        sends.push_back({next, in[i]});
        recvs.push_back({previous, absl::MakeSpan(out[i])});
      }
      ASSERT_EQ(fabric.Exchange(sends, absl::MakeSpan(recvs), kOp), absl::OkStatus());
      for (int i = 0; i < 100; ++i) {
        ASSERT_EQ(recvs[i].received, out[i].size());
        ASSERT_EQ(out[i], RandomBytes(out[i].size(), previous * 1000 + i)) << i;
      }
    }
  });
}

TEST_P(CollectivesTest, GroupsOfARankDoNotMix) {
  if (ranks() != 8 && ranks() != 4) GTEST_SKIP();
  // A grid of two rows: sums over the row, then over the column.
  Run([&](int rank, Fabric& fabric) {
    const int width = ranks() / 2;
    FabricGroup row, column;
    for (int i = 0; i < width; ++i) row.ranks.push_back(rank / width * width + i);
    row.index = rank % width;
    column.ranks = {rank % width, rank % width + width};
    column.index = rank / width;
    for (int round = 0; round < 20; ++round) {
      std::vector<float> data(10, static_cast<float>(rank + round));
      ASSERT_EQ(fabric.AllReduceSum(row, absl::MakeSpan(data), kOp), absl::OkStatus());
      ASSERT_EQ(fabric.AllReduceSum(column, absl::MakeSpan(data), kOp), absl::OkStatus());
      EXPECT_EQ(data[9], ranks() * (ranks() - 1) / 2 + round * ranks());
    }
  });
}

TEST_P(CollectivesTest, CountsWhatLeavesTheRank) {
  Run([&](int rank, Fabric& fabric) {
    std::vector<std::vector<uint8_t>> out(ranks(), std::vector<uint8_t>(100));
    std::vector<absl::Span<uint8_t>> spans;
    for (auto& part : out) spans.push_back(absl::MakeSpan(part));
    const std::vector<uint8_t> part(100);
    ASSERT_TRUE(fabric.AllGatherV(WholeGroup(ranks(), rank), part, spans, kOp).ok());
    EXPECT_EQ(fabric.counters().messages_sent, ranks() - 1);
    EXPECT_EQ(fabric.counters().bytes_sent, 100 * (ranks() - 1));
  });
}

std::string CaseName(const testing::TestParamInfo<std::tuple<FabricKind, int>>& info) {
  return FabricKindName(std::get<0>(info.param)) + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Memory, CollectivesTest,
                         testing::Combine(testing::Values(FabricKind::kLocal,
                                                          FabricKind::kUcxShared),
                                          testing::Range(1, 9)),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Tcp, CollectivesTest,
                         testing::Combine(testing::Values(FabricKind::kUcxTcp),
                                          testing::Values(2, 3, 4, 8)),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Nccl, CollectivesTest,
                         testing::Combine(testing::Values(FabricKind::kNcclFake),
                                          testing::Range(1, 9)),
                         CaseName);

}  // namespace
}  // namespace conclave
