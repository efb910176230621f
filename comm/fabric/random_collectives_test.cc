// Random operations of every kind on local fabrics and on UCX between processes: each against a
// plain computation, and the whole run against the local fabric's.
#include "comm/fabric/random_collectives.h"

#include <string>
#include <tuple>
#include <vector>

#include "comm/fabric/collectives_soak.h"
#include "comm/fabric/fabric_test_kit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

// By rank, of `operations` random ones after the largest.
std::vector<uint64_t> LocalDigests(int ranks, uint64_t seed, int operations, size_t bytes_max) {
  auto fabrics = MakeFabrics(FabricKind::kLocal, ranks);
  std::vector<uint64_t> digests(ranks);
  RunRanks(fabrics, [&](int rank, Fabric& fabric) {
    RandomCollectives run(fabric, {.ranks = ranks, .seed = seed, .bytes_max = bytes_max});
    ASSERT_EQ(run.RunLargest(), absl::OkStatus());
    for (int i = 0; i < operations; ++i) ASSERT_EQ(run.RunNext(), absl::OkStatus());
    for (int kind = 0; kind < kCollectiveKinds; ++kind) {
      EXPECT_GE(run.count(static_cast<CollectiveKind>(kind)), 1);
    }
    digests[rank] = run.digest();
  });
  return digests;
}

class LocalRunTest : public testing::TestWithParam<int> {};

TEST_P(LocalRunTest, EveryResultIsRight) {
  for (const uint64_t seed : {11, 12, 13}) {
    const std::vector<uint64_t> digests = LocalDigests(GetParam(), seed, 300, 1 << 18);
    EXPECT_NE(digests[0], LocalDigests(GetParam(), seed + 100, 300, 1 << 18)[0]);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalRunTest, testing::Range(1, 9));

class ProcessRunTest : public testing::TestWithParam<std::tuple<bool, int>> {};

TEST_P(ProcessRunTest, EveryResultIsThatOfTheLocalFabric) {
  const auto [one_node, ranks] = GetParam();
  const SoakOptions options = {.ranks = ranks,
                               .one_node = one_node,
                               .operations = 300,
                               .seed = static_cast<uint64_t>(40 + ranks),
                               .bytes_max = 600'000};
  const auto report = RunSoak(options, [](const SoakSample&) {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->digests, LocalDigests(ranks, options.seed, 300, options.bytes_max));
}

INSTANTIATE_TEST_SUITE_P(Nodes, ProcessRunTest,
                         testing::Combine(testing::Bool(), testing::Values(2, 3, 8)),
                         [](const auto& info) {
                           return (std::get<0>(info.param) ? "OneNode" : "ManyNodes") +
                                  std::to_string(std::get<1>(info.param));
                         });

class SoakTest : public testing::TestWithParam<bool> {};

TEST_P(SoakTest, NothingGrows) {
  const SoakOptions options = {
      .ranks = 3, .one_node = GetParam(), .operations = 3000, .bytes_max = 1 << 16};
  int samples = 0;
  const auto report = RunSoak(options, [&](const SoakSample& sample) {
    ++samples;
    EXPECT_EQ(sample.ranks.size(), 3u);
    EXPECT_GT(sample.ranks[0].resident_bytes, 1 << 20);
    EXPECT_GT(sample.ranks[0].open_files, 3);
  });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(samples, 10);
  EXPECT_EQ(CheckNoGrowth(*report, {}), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(Nodes, SoakTest, testing::Bool());

TEST(CheckNoGrowthTest, NamesWhatGrew) {
  SoakReport report;
  report.samples = {{.operations = 1, .ranks = {{}, {}}}, {.operations = 2, .ranks = {{}, {}}}};
  EXPECT_EQ(CheckNoGrowth(report, {}), absl::OkStatus());
  ResourceUse& last = report.samples[1].ranks[1];
  last.heap_bytes = 2 << 20;
  EXPECT_EQ(CheckNoGrowth(report, {}), absl::OkStatus());
  last.heap_bytes += 1;
  EXPECT_THAT(CheckNoGrowth(report, {}).ToString(), HasSubstr("rank 1: heap bytes grew from 0"));
  last = {.open_files = 1};
  EXPECT_THAT(CheckNoGrowth(report, {}).ToString(), HasSubstr("open files"));
  last = {.shared_bytes = 4096};
  EXPECT_THAT(CheckNoGrowth(report, {}).ToString(), HasSubstr("shared memory"));
  last = {.resident_bytes = 17 << 20};
  EXPECT_THAT(CheckNoGrowth(report, {}).ToString(), HasSubstr("resident bytes"));
  EXPECT_FALSE(CheckNoGrowth({}, {}).ok());
}

// Gives the results of another fabric with one bit wrong.
class WrongFabric final : public Fabric {
 public:
  explicit WrongFabric(Fabric& fabric) : fabric_(fabric) {}
  int rank() const override { return fabric_.rank(); }
  absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                        const FabricOp& op) override {
    const absl::Status status = fabric_.Exchange(sends, recvs, op);
    if (!recvs.empty()) Spoil(recvs[0].bytes.first(recvs[0].received));
    return status;
  }
  absl::Status AllReduceSum(const FabricGroup& group, absl::Span<float> data,
                            const FabricOp& op) override {
    const absl::Status status = fabric_.AllReduceSum(group, data, op);
    SpoilFloats(data);
    return status;
  }
  absl::Status AllGatherV(const FabricGroup& group, absl::Span<const uint8_t> part,
                          absl::Span<const absl::Span<uint8_t>> out, const FabricOp& op) override {
    const absl::Status status = fabric_.AllGatherV(group, part, out, op);
    Spoil(out[0]);
    return status;
  }
  absl::Status ReduceScatterSum(const FabricGroup& group, absl::Span<const float> data,
                                absl::Span<float> out, const FabricOp& op) override {
    const absl::Status status = fabric_.ReduceScatterSum(group, data, out, op);
    SpoilFloats(out);
    return status;
  }
  absl::Status Broadcast(const FabricGroup& group, int root, absl::Span<uint8_t> data,
                         const FabricOp& op) override {
    const absl::Status status = fabric_.Broadcast(group, root, data, op);
    Spoil(data);
    return status;
  }
  void Cancel(absl::Status reason) override { fabric_.Cancel(std::move(reason)); }
  FabricCounters counters() const override { return fabric_.counters(); }

  int spoilt() const { return spoilt_; }

 private:
  void Spoil(absl::Span<uint8_t> bytes) {
    if (bytes.empty()) return;
    bytes.back() ^= 1;
    ++spoilt_;
  }
  void SpoilFloats(absl::Span<float> floats) {
    Spoil({reinterpret_cast<uint8_t*>(floats.data()), floats.size() * sizeof(float)});
  }

  Fabric& fabric_;
  int spoilt_ = 0;
};

TEST(RandomCollectivesTest, AWrongBitIsFoundInEveryKind) {
  auto fabrics = MakeFabrics(FabricKind::kLocal, 1);
  WrongFabric wrong(*fabrics[0]);
  RandomCollectives run(wrong, {.ranks = 1, .seed = 5, .bytes_max = 4096});
  std::string found;
  for (int i = 0; i < 200; ++i) {
    const int before = wrong.spoilt();
    const absl::Status status = run.RunNext();
    EXPECT_EQ(status.ok(), wrong.spoilt() == before) << status;
    found += std::string(status.message());
  }
  for (const char* kind : {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all",
                           "exchange"}) {
    EXPECT_THAT(found, HasSubstr(kind));
  }
}

}  // namespace
}  // namespace conclave
