// What the fabric over NCCL adds to the contract that comm/fabric's tests check for all: device
// spans, sums in NCCL's own order, faults, and its switches. On the fake.
#include "comm/fabric/nccl/nccl_fabric.h"

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "comm/base/reduction.h"
#include "comm/base/rng.h"
#include "comm/fabric/fabric_test_kit.h"
#include "comm/fabric/nccl/fake_nccl.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr FabricOp kOp = {"test_op", 3, absl::Seconds(20)};

std::vector<float> Floats(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>((rng.Uniform() - 0.5) * (1 << rng.Below(20)));
  return values;
}

class NcclFabricTest : public testing::Test {
 protected:
  ~NcclFabricTest() override {
    fabrics_.clear();
    EXPECT_THAT(nccl_->Misuse(), IsEmpty());
    EXPECT_EQ(nccl_->OpenCommunicators(), 0);
    EXPECT_EQ(nccl_->OpenWindows(), 0);
  }

  std::vector<absl::Status> Connect(int ranks, NcclFabricOptions options = {}) {
    options.spin = absl::ZeroDuration();
    NcclFabric::World world;
    world.size = ranks;
    const auto api = nccl_->Api();
    EXPECT_EQ(api->get_unique_id(&world.id), NcclResult::kSuccess);
    std::vector<absl::Status> statuses(ranks);
    fabrics_.resize(ranks);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank, own = world]() mutable {
        own.rank = rank;
        auto made = NcclFabric::Connect(api, nccl_->CreateDevice(rank), own, options);
        statuses[rank] = made.status();
        if (made.ok()) fabrics_[rank] = *std::move(made);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return statuses;
  }

  NcclFabric& Rank(int rank) { return static_cast<NcclFabric&>(*fabrics_[rank]); }

  // A span of GPU `gpu`'s memory that holds `bytes`; lives as long as the test.
  template <typename T>
  absl::Span<T> OnDevice(int gpu, const std::vector<T>& values) {
    NcclMemory memory = nccl_->CreateDevice(gpu)
                            ->Allocate(values.size() * sizeof(T), NcclDevice::Sides::kDevice)
                            .value();
    auto* data = reinterpret_cast<T*>(memory.device);
    std::memcpy(data, values.data(), values.size() * sizeof(T));
    absl::MutexLock lock(&mutex_);
    memory_.push_back(std::move(memory));
    return {data, values.size()};
  }

  std::shared_ptr<FakeNccl> nccl_ = FakeNccl::Create();
  std::vector<std::unique_ptr<Fabric>> fabrics_;
  absl::Mutex mutex_;
  std::vector<NcclMemory> memory_ ABSL_GUARDED_BY(mutex_);
};

std::vector<float> TreeReference(int ranks, size_t count) {
  std::vector<std::vector<float>> all;
  for (int rank = 0; rank < ranks; ++rank) all.push_back(Floats(count, rank));
  std::vector<float> sum(count);
  for (size_t k = 0; k < count; ++k) {
    std::vector<float> values;
    for (int rank = 0; rank < ranks; ++rank) values.push_back(all[rank][k]);
    sum[k] = TreeSum(values.data(), ranks);
  }
  return sum;
}

TEST_F(NcclFabricTest, DeviceSpansSumInTheFixedTree) {
  for (const int ranks : {2, 3, 5, 8}) {
    fabrics_.clear();
    ASSERT_THAT(Connect(ranks), testing::Each(absl::OkStatus()));
    RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
      EXPECT_TRUE(Rank(rank).deterministic());
      for (const size_t count : {size_t{1}, size_t{500}, size_t{4097}, size_t{4800}}) {
        const auto data = OnDevice(rank, Floats(count, rank));
        ASSERT_EQ(fabric.AllReduceSum(WholeGroup(ranks, rank), data, kOp), absl::OkStatus());
        EXPECT_EQ(std::vector<float>(data.begin(), data.end()), TreeReference(ranks, count));
      }
      const size_t part = 777;
      const auto data = OnDevice(rank, Floats(part * ranks, rank));
      const auto out = OnDevice(rank, std::vector<float>(part));
      ASSERT_EQ(fabric.ReduceScatterSum(WholeGroup(ranks, rank), data, out, kOp), absl::OkStatus());
      const std::vector<float> sum = TreeReference(ranks, part * ranks);
      EXPECT_EQ(std::vector<float>(out.begin(), out.end()),
                std::vector<float>(sum.begin() + part * rank, sum.begin() + part * (rank + 1)));
    });
  }
}

TEST_F(NcclFabricTest, AllToAllIsUsedWhereTheLibraryHasIt) {
  const auto reduce = [&](int ranks) {
    RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
      std::vector<float> data = Floats(6000, rank);
      ASSERT_EQ(fabric.AllReduceSum(WholeGroup(ranks, rank), absl::MakeSpan(data), kOp),
                absl::OkStatus());
      EXPECT_EQ(data, TreeReference(ranks, 6000));
    });
  };
  ASSERT_THAT(Connect(3), testing::Each(absl::OkStatus()));
  reduce(3);
  EXPECT_EQ(nccl_->CallCount("ncclAlltoAll"), 3);
  EXPECT_EQ(nccl_->CallCount("ncclSend"), 0);
  fabrics_.clear();
  NcclFabricOptions off;
  off.all_to_all = false;
  ASSERT_THAT(Connect(3, off), testing::Each(absl::OkStatus()));
  reduce(3);
  EXPECT_EQ(nccl_->CallCount("ncclAlltoAll"), 3);
  EXPECT_EQ(nccl_->CallCount("ncclSend"), 9);
  fabrics_.clear();
  FakeNcclOptions older;
  older.version = 22705;
  older.missing = {"ncclAlltoAll"};
  nccl_ = FakeNccl::Create(older);
  ASSERT_THAT(Connect(3), testing::Each(absl::OkStatus()));
  reduce(3);
  EXPECT_EQ(nccl_->CallCount("ncclAlltoAll"), 0);
}

TEST_F(NcclFabricTest, SumsOfNcclAreCloseAndSaidNotToBeTheTrees) {
  NcclFabricOptions options;
  options.sums = NcclSums::kNccl;
  ASSERT_THAT(Connect(5, options), testing::Each(absl::OkStatus()));
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    EXPECT_FALSE(Rank(rank).deterministic());
    std::vector<float> data = Floats(5000, rank);
    ASSERT_EQ(fabric.AllReduceSum(WholeGroup(5, rank), absl::MakeSpan(data), kOp),
              absl::OkStatus());
    const std::vector<float> tree = TreeReference(5, 5000);
    EXPECT_NE(data, tree);
    for (size_t k = 0; k < data.size(); ++k) ASSERT_NEAR(data[k], tree[k], 1.0) << k;
    std::vector<float> out(1000);
    const std::vector<float> in = Floats(5000, rank);
    ASSERT_EQ(fabric.ReduceScatterSum(WholeGroup(5, rank), in, absl::MakeSpan(out), kOp),
              absl::OkStatus());
    for (size_t k = 0; k < 1000; ++k) ASSERT_EQ(out[k], data[1000 * rank + k]);
  });
  EXPECT_EQ(nccl_->CallCount("ncclAllReduce"), 5);
  EXPECT_EQ(nccl_->CallCount("ncclReduceScatter"), 5);
}

// Host and device spans, own messages among them, in one exchange and in a gather.
TEST_F(NcclFabricTest, SpansOfBothKindsMix) {
  ASSERT_THAT(Connect(3), testing::Each(absl::OkStatus()));
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    const auto text = [](int from, int to) {
      return std::vector<uint8_t>(10 + 5 * from + to, static_cast<uint8_t>(16 * from + to + 1));
    };
    std::vector<std::vector<uint8_t>> out, in;
    std::vector<SendBuffer> sends;
    std::vector<RecvBuffer> recvs;
    for (int peer = 0; peer < 3; ++peer) {
      out.push_back(text(rank, peer));
      in.emplace_back(64);
    }
    for (int peer = 0; peer < 3; ++peer) {
      const bool device_out = (rank + peer) % 2 == 0;
      sends.push_back({peer, device_out ? OnDevice(rank, out[peer]) : absl::MakeSpan(out[peer])});
      recvs.push_back({peer, peer == 1 ? OnDevice(rank, in[peer]) : absl::MakeSpan(in[peer])});
    }
    ASSERT_EQ(fabric.Exchange(sends, absl::MakeSpan(recvs), kOp), absl::OkStatus());
    for (int peer = 0; peer < 3; ++peer) {
      const std::vector<uint8_t> due = text(peer, rank);
      ASSERT_EQ(recvs[peer].received, due.size());
      EXPECT_EQ(std::memcmp(recvs[peer].bytes.data(), due.data(), due.size()), 0);
    }
    std::vector<std::vector<uint8_t>> gathered(3, std::vector<uint8_t>(24));
    std::vector<absl::Span<uint8_t>> spans;
    for (int i = 0; i < 3; ++i) {
      spans.push_back(i == 2 ? OnDevice(rank, gathered[i]) : absl::MakeSpan(gathered[i]));
    }
    const std::vector<uint8_t> part(24, static_cast<uint8_t>(rank + 7));
    ASSERT_EQ(fabric.AllGatherV(WholeGroup(3, rank), part, spans, kOp), absl::OkStatus());
    for (int i = 0; i < 3; ++i) EXPECT_EQ(spans[i][23], i + 7);
  });
}

TEST_F(NcclFabricTest, GroupsHaveCommunicatorsOfTheirOwnMadeOnce) {
  ASSERT_THAT(Connect(4), testing::Each(absl::OkStatus()));
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    FabricGroup group;  // the order of its own
    group.ranks = rank % 2 == 0 ? std::vector<int>{2, 0} : std::vector<int>{1, 3};
    group.index = group.ranks[0] == rank ? 0 : 1;
    for (int round = 0; round < 3; ++round) {
      std::vector<uint8_t> data(5, static_cast<uint8_t>(rank + 1));
      ASSERT_EQ(fabric.Broadcast(group, 0, absl::MakeSpan(data), kOp), absl::OkStatus());
      EXPECT_EQ(data[4], group.ranks[0] + 1);
    }
  });
  EXPECT_EQ(nccl_->OpenCommunicators(), 8);
  EXPECT_EQ(nccl_->CallCount("ncclCommInitRankConfig"), 8);
}

TEST_F(NcclFabricTest, GroupsAreBounded) {
  ASSERT_THAT(Connect(6), testing::Each(absl::OkStatus()));
  int made = 0;
  absl::Status last;
  for (int mask = 3; mask < 63 && last.ok(); ++mask) {
    FabricGroup group;
    for (int r = 0; r < 6; ++r) {
      if (mask >> r & 1) group.ranks.push_back(r);
    }
    if (group.size() < 2 || group.ranks[0] != 0) continue;
    std::vector<absl::Status> statuses(6);
    RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
      FabricGroup own = group;
      const auto found = std::find(own.ranks.begin(), own.ranks.end(), rank);
      if (found == own.ranks.end()) return;
      own.index = static_cast<int>(found - own.ranks.begin());
      uint8_t byte = 1;
      const FabricOp op = {"group", -1, absl::Milliseconds(500)};
      statuses[rank] = fabric.Broadcast(own, 0, absl::MakeSpan(&byte, 1), op);
    });
    last = statuses[0];
    if (last.ok()) ++made;
  }
  EXPECT_EQ(made, static_cast<int>(NcclFabric::kGroupsMax));
  EXPECT_EQ(last.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(NcclFabricTest, TheDeadlineOfAnExchangeNamesOnlyWhoIsMissing) {
  ASSERT_THAT(Connect(4), testing::Each(absl::OkStatus()));
  std::vector<absl::Status> statuses(4);
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    if (rank == 2) return;
    std::vector<uint8_t> out(8), in(8 * 4);
    std::vector<SendBuffer> sends;
    std::vector<RecvBuffer> recvs;
    for (int peer = 0; peer < 4; ++peer) {
      if (peer == rank) continue;
      sends.push_back({peer, out});
      recvs.push_back({peer, absl::MakeSpan(in).subspan(8 * peer, 8)});
    }
    statuses[rank] =
        fabric.Exchange(sends, absl::MakeSpan(recvs), {"moe_dispatch", 7, absl::Seconds(1)});
  });
  for (const int rank : {0, 1, 3}) {
    EXPECT_EQ(statuses[rank].code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(statuses[rank].message()),
                HasSubstr("moe_dispatch of layer 7: no message from rank 2 within 1s"));
  }
}

TEST_F(NcclFabricTest, TheDeadlineOfACollectiveNamesTheGroup) {
  ASSERT_THAT(Connect(3), testing::Each(absl::OkStatus()));
  std::vector<float> data(10);
  const absl::Status status = fabrics_[0]->AllReduceSum(WholeGroup(3, 0), absl::MakeSpan(data),
                                                        {"tp_reduce", 5, absl::Milliseconds(60)});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("rank 0: tp_reduce of layer 5: no message from ranks 1, 2 within 60ms"));
  EXPECT_EQ(fabrics_[0]->Broadcast(WholeGroup(3, 0), 0, {}, kOp), status);
}

TEST_F(NcclFabricTest, CountsOfMessagesMustAgree) {
  ASSERT_THAT(Connect(2), testing::Each(absl::OkStatus()));
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    std::vector<uint8_t> bytes(4), more(4);
    const FabricOp op = {"moe_combine", 2, absl::Milliseconds(500)};
    if (rank == 0) {
      const std::vector<SendBuffer> sends = {{1, bytes}, {1, bytes}};
      EXPECT_FALSE(fabric.Exchange(sends, {}, op).ok());  // nobody takes them
      return;
    }
    std::vector<RecvBuffer> recvs = {{0, absl::MakeSpan(more)}};
    const absl::Status status = fabric.Exchange({}, absl::MakeSpan(recvs), op);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("rank 0 sends 2 messages where 1 are due"));
  });
}

TEST_F(NcclFabricTest, AnErrorOfNcclKillsTheFabricWithItsText) {
  ASSERT_THAT(Connect(2), testing::Each(absl::OkStatus()));
  FakeNcclFaults faults;
  faults.launches_until_error = 2;  // one of connecting, one of the first gather
  nccl_->SetFaults(0, faults);
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    std::vector<float> data(10, 1);
    const FabricOp op = {"tp_reduce", 1, absl::Milliseconds(rank == 0 ? 20000 : 500)};
    ASSERT_EQ(fabric.AllReduceSum(WholeGroup(2, rank), absl::MakeSpan(data), op), absl::OkStatus());
    const absl::Status status = fabric.AllReduceSum(WholeGroup(2, rank), absl::MakeSpan(data), op);
    if (rank == 1) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
      return;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("fabric rank 0: tp_reduce of layer 1: "),
                      HasSubstr("NCCL's last error: the fake was told to fail this launch"),
                      HasSubstr("waited for rank 1")));
  });
}

TEST_F(NcclFabricTest, SlowLaunchesAreOnlySlow) {
  FakeNcclFaults slow;
  slow.polls_in_progress = 5;
  for (int gpu = 0; gpu < 3; ++gpu) nccl_->SetFaults(gpu, slow);
  ASSERT_THAT(Connect(3), testing::Each(absl::OkStatus()));
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    std::vector<float> data = Floats(5000, rank);
    ASSERT_EQ(fabric.AllReduceSum(WholeGroup(3, rank), absl::MakeSpan(data), kOp),
              absl::OkStatus());
    EXPECT_EQ(data, TreeReference(3, 5000));
  });
}

TEST_F(NcclFabricTest, FinalizeEndsItInOrder) {
  ASSERT_THAT(Connect(2), testing::Each(absl::OkStatus()));
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    EXPECT_EQ(Rank(rank).Finalize(kOp), absl::OkStatus());
    std::vector<float> data(3);
    const absl::Status after = fabric.AllReduceSum(WholeGroup(2, rank), absl::MakeSpan(data), kOp);
    EXPECT_EQ(after.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(after.message()), HasSubstr("connect a new one"));
  });
  EXPECT_EQ(nccl_->CallCount("ncclCommDestroy"), 2);
  EXPECT_EQ(nccl_->CallCount("ncclCommAbort"), 0);
}

TEST_F(NcclFabricTest, SymmetricWindowsAreRegisteredAndReleased) {
  ASSERT_THAT(Connect(2), testing::Each(absl::OkStatus()));
  EXPECT_TRUE(Rank(0).symmetric_window().empty());
  EXPECT_EQ(nccl_->CallCount("ncclCommWindowRegister"), 0);
  fabrics_.clear();
  NcclFabricOptions options;
  options.symmetric_window_bytes = 8192;
  ASSERT_THAT(Connect(2, options), testing::Each(absl::OkStatus()));
  RunRanks(fabrics_, [&](int rank, Fabric& fabric) {
    const absl::Span<uint8_t> window = Rank(rank).symmetric_window();
    ASSERT_EQ(window.size(), 8192u);
    window[8191] = static_cast<uint8_t>(rank + 1);
    ASSERT_EQ(fabric.Broadcast(WholeGroup(2, rank), 1, window, kOp), absl::OkStatus());
    EXPECT_EQ(window[8191], 2);
  });
  EXPECT_EQ(nccl_->OpenWindows(), 2);
}

TEST_F(NcclFabricTest, SymmetricWindowsThatThereAreNot) {
  NcclFabricOptions options;
  options.symmetric_window_bytes = 4096;
  FakeNcclFaults apart;
  apart.no_symmetric_memory = true;
  for (int gpu = 0; gpu < 2; ++gpu) nccl_->SetFaults(gpu, apart);
  ASSERT_THAT(Connect(2, options), testing::Each(absl::OkStatus()));
  EXPECT_TRUE(Rank(0).symmetric_window().empty());
  fabrics_.clear();
  FakeNcclOptions older;
  older.missing = {"ncclCommWindowRegister"};
  nccl_ = FakeNccl::Create(older);
  for (const absl::Status& status : Connect(2, options)) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("has no ncclCommWindowRegister"));
  }
}

}  // namespace
}  // namespace conclave
