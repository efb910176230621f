// The fabric over the real NCCL, on as many GPUs as the machine has (at most eight), one thread
// each; with one GPU it is a world of one rank. Skips, with the reason, without a GPU or without
// NCCL. Takes no file: the binary can be carried alone, with CONCLAVE_NCCL_LIBRARY naming NCCL.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/base/reduction.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "comm/fabric/nccl/cuda_nccl_device.h"
#include "comm/fabric/nccl/nccl_endpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr FabricOp kOp = {"gpu_test", 3, absl::Seconds(60)};
constexpr int kRanksMax = 8;

WireOp Op(absl::Duration timeout = absl::Seconds(60)) {
  return {{"gpu_test", 3, timeout},
          std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout)};
}

// Integers as floats: their sums are exact in every order.
std::vector<float> Values(size_t count, int rank) {
  std::vector<float> values(count);
  for (size_t k = 0; k < count; ++k) values[k] = static_cast<float>((k * 7 + rank * 13) % 1000);
  return values;
}

std::vector<float> SumOfValues(size_t count, int ranks) {
  std::vector<float> sum(count);
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<float> values = Values(count, rank);
    for (size_t k = 0; k < count; ++k) sum[k] += values[k];
  }
  return sum;
}

class NcclGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto devices = ListCudaDevices();
    if (!devices.ok()) GTEST_SKIP() << "no GPU: " << devices.status().message();
    auto api = LoadNccl(NcclLoadOptionsFromEnvironment());
    if (!api.ok()) GTEST_SKIP() << "no NCCL: " << api.status().message();
    api_ = *std::move(api);
    ranks_ = std::min<int>(kRanksMax, static_cast<int>(devices->size()));
    std::printf("%s; %d rank(s) on %s\n", DescribeNccl(*api_).c_str(), ranks_,
                devices->front().name.c_str());
  }

  static void EachRank(int ranks, const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(body, rank);
    for (std::thread& thread : threads) thread.join();
  }

  // Runs body(rank, fabric) for every rank, each connected on its own thread and GPU.
  void RunFabrics(const NcclFabricOptions& options,
                  const std::function<void(int rank, NcclFabric& fabric)>& body) {
    std::vector<std::unique_ptr<FabricEndpoint>> endpoints;
    FabricEndpoint::Peers peers;
    peers.epoch = 9;
    for (int rank = 0; rank < ranks_; ++rank) {
      auto device = CreateCudaNcclDevice(rank);
      ASSERT_TRUE(device.ok()) << device.status();
      NcclEndpointOptions endpoint_options;
      endpoint_options.rank = rank;
      endpoint_options.fabric = options;
      auto endpoint = CreateNcclEndpoint(api_, *std::move(device), endpoint_options);
      ASSERT_TRUE(endpoint.ok()) << endpoint.status();
      peers.addresses.push_back((*endpoint)->Address());
      peers.nodes.push_back("this");
      endpoints.push_back(*std::move(endpoint));
    }
    EachRank(ranks_, [&](int rank) {
      FabricEndpoint::Peers own = peers;
      own.rank = rank;
      auto fabric = endpoints[rank]->Connect(own);
      ASSERT_TRUE(fabric.ok()) << fabric.status();
      body(rank, static_cast<NcclFabric&>(**fabric));
    });
  }

  FabricGroup Whole(int rank) const {
    FabricGroup group;
    for (int r = 0; r < ranks_; ++r) group.ranks.push_back(r);
    group.index = rank;
    return group;
  }

  // Device memory that holds `values`.
  template <typename T>
  static DeviceBuffer OnDevice(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    DeviceBuffer buffer = DeviceBuffer::Create(bytes).value();
    EXPECT_EQ(CopyToDevice(buffer.data(), values.data(), bytes, nullptr), absl::OkStatus());
    EXPECT_EQ(SynchronizeCudaDevice(), absl::OkStatus());
    return buffer;
  }
  template <typename T>
  static std::vector<T> FromDevice(const DeviceBuffer& buffer) {
    std::vector<T> values(buffer.bytes() / sizeof(T));
    EXPECT_EQ(CopyToHost(values.data(), buffer.data(), buffer.bytes(), nullptr), absl::OkStatus());
    EXPECT_EQ(SynchronizeCudaDevice(), absl::OkStatus());
    return values;
  }
  template <typename T>
  static absl::Span<T> SpanOf(const DeviceBuffer& buffer) {
    return {buffer.as<T>(), buffer.bytes() / sizeof(T)};
  }

  // A communicator of all ranks for rank `rank`, on its GPU.
  struct Member {
    std::unique_ptr<NcclDevice> device;
    NcclCancel cancel;
    std::unique_ptr<NcclCommunicator> communicator;
  };
  std::unique_ptr<Member> Join(int rank, const NcclUniqueId& id, bool shrink_on_fault) {
    auto member = std::make_unique<Member>();
    member->device = CreateCudaNcclDevice(rank).value();
    NcclCommunicatorOptions options;
    options.api = api_;
    options.device = member->device.get();
    options.cancel = &member->cancel;
    for (int r = 0; r < ranks_; ++r) options.ranks.push_back(r);
    options.index = rank;
    options.shrink_on_fault = shrink_on_fault;
    auto made = NcclCommunicator::Init(options, id, Op());
    EXPECT_TRUE(made.ok()) << made.status();
    if (made.ok()) member->communicator = *std::move(made);
    return member;
  }

  std::shared_ptr<const NcclApi> api_;
  int ranks_ = 0;
};

TEST_F(NcclGpuTest, EverySumOnDeviceAndHostSpans) {
  for (const NcclSums sums : {NcclSums::kFixedTree, NcclSums::kNccl}) {
    NcclFabricOptions options;
    options.sums = sums;
    RunFabrics(options, [&](int rank, NcclFabric& fabric) {
      for (const size_t count : {size_t{1}, size_t{1000}, size_t{4097}, size_t{300000}}) {
        const std::vector<float> sum = SumOfValues(count, ranks_);
        const DeviceBuffer data = OnDevice(Values(count, rank));
        ASSERT_EQ(fabric.AllReduceSum(Whole(rank), SpanOf<float>(data), kOp), absl::OkStatus());
        EXPECT_EQ(FromDevice<float>(data), sum);
        std::vector<float> host = Values(count, rank);
        ASSERT_EQ(fabric.AllReduceSum(Whole(rank), absl::MakeSpan(host), kOp), absl::OkStatus());
        EXPECT_EQ(host, sum);
      }
      const size_t part = 1234;
      const DeviceBuffer in = OnDevice(Values(part * ranks_, rank));
      const DeviceBuffer out = OnDevice(std::vector<float>(part));
      ASSERT_EQ(fabric.ReduceScatterSum(Whole(rank), SpanOf<float>(in), SpanOf<float>(out), kOp),
                absl::OkStatus());
      const std::vector<float> sum = SumOfValues(part * ranks_, ranks_);
      EXPECT_EQ(FromDevice<float>(out),
                std::vector<float>(sum.begin() + part * rank, sum.begin() + part * (rank + 1)));
      EXPECT_EQ(fabric.Finalize(kOp), absl::OkStatus());
    });
  }
}

TEST_F(NcclGpuTest, GatherBroadcastAndExchange) {
  RunFabrics({}, [&](int rank, NcclFabric& fabric) {
    const auto bytes_of = [](int from, size_t size) {
      return std::vector<uint8_t>(size, static_cast<uint8_t>(from + 1));
    };
    for (const bool equal : {true, false}) {
      std::vector<DeviceBuffer> out;
      std::vector<absl::Span<uint8_t>> spans;
      const auto size_of = [&](int r) { return static_cast<size_t>(equal ? 5000 : 100 + 77 * r); };
      for (int r = 0; r < ranks_; ++r) out.push_back(OnDevice(bytes_of(90, size_of(r))));
      for (const DeviceBuffer& buffer : out) spans.push_back(SpanOf<uint8_t>(buffer));
      const DeviceBuffer part = OnDevice(bytes_of(rank, size_of(rank)));
      ASSERT_EQ(fabric.AllGatherV(Whole(rank), SpanOf<uint8_t>(part), spans, kOp),
                absl::OkStatus());
      for (int r = 0; r < ranks_; ++r) {
        EXPECT_EQ(FromDevice<uint8_t>(out[r]), bytes_of(r, size_of(r)));
      }
    }
    const DeviceBuffer data = OnDevice(bytes_of(rank, 70000));
    ASSERT_EQ(fabric.Broadcast(Whole(rank), ranks_ - 1, SpanOf<uint8_t>(data), kOp),
              absl::OkStatus());
    EXPECT_EQ(FromDevice<uint8_t>(data), bytes_of(ranks_ - 1, 70000));
    std::vector<DeviceBuffer> out, in;
    std::vector<SendBuffer> sends;
    std::vector<RecvBuffer> recvs;
    for (int r = 0; r < ranks_; ++r) {
      out.push_back(OnDevice(bytes_of(rank, 1000 * (rank + 1) + r)));
      in.push_back(OnDevice(bytes_of(90, 20000)));
      sends.push_back({r, SpanOf<uint8_t>(out[r])});
      recvs.push_back({r, SpanOf<uint8_t>(in[r])});
    }
    ASSERT_EQ(fabric.Exchange(sends, absl::MakeSpan(recvs), kOp), absl::OkStatus());
    for (int r = 0; r < ranks_; ++r) {
      ASSERT_EQ(recvs[r].received, static_cast<size_t>(1000 * (r + 1) + rank));
      std::vector<uint8_t> came = FromDevice<uint8_t>(in[r]);
      came.resize(recvs[r].received);
      EXPECT_EQ(came, bytes_of(r, recvs[r].received));
    }
  });
}

// Every function of the table on the device, also in a world of one, where the fabric itself needs
// none: send and receive to oneself, gather, reduce, scatter, broadcast, all-to-all.
TEST_F(NcclGpuTest, EveryOperationOfTheTable) {
  NcclUniqueId id;
  ASSERT_EQ(api_->get_unique_id(&id), NcclResult::kSuccess);
  EachRank(ranks_, [&](int rank) {
    const auto member = Join(rank, id, false);
    ASSERT_NE(member->communicator, nullptr);
    const CudaStream stream = member->device->stream();
    constexpr size_t kCount = 4096;
    const size_t n = ranks_;
    const DeviceBuffer in = OnDevice(Values(kCount * n, rank));
    const DeviceBuffer out = OnDevice(std::vector<float>(kCount * n));
    const auto run = [&](const char* name, std::function<NcclResult(NcclComm)> enqueue) {
      const absl::Status status = member->communicator->Run({std::move(enqueue), {}, {}}, Op());
      EXPECT_EQ(status, absl::OkStatus()) << name;
      return FromDevice<float>(out);
    };
    const std::vector<float> sum = SumOfValues(kCount * n, ranks_);
    const auto head = [](std::vector<float> v) { return v.resize(kCount), v; };
    constexpr NcclType kFloat = NcclType::kFloat32;
    EXPECT_EQ(run("all_reduce",
                  [&](NcclComm comm) {
                    return api_->all_reduce(in.data(), out.data(), kCount * n, kFloat,
                                            NcclReduction::kSum, comm, stream);
                  }),
              sum);
    EXPECT_EQ(head(run("reduce_scatter",
                       [&](NcclComm comm) {
                         return api_->reduce_scatter(in.data(), out.data(), kCount, kFloat,
                                                     NcclReduction::kSum, comm, stream);
                       })),
              std::vector<float>(sum.begin() + kCount * rank, sum.begin() + kCount * (rank + 1)));
    EXPECT_EQ(head(run("all_gather",
                       [&](NcclComm comm) {
                         return api_->all_gather(in.data(), out.data(), kCount, kFloat, comm,
                                                 stream);
                       })),
              Values(kCount, 0));
    EXPECT_EQ(head(run("broadcast",
                       [&](NcclComm comm) {
                         return api_->broadcast(in.data(), out.data(), kCount, kFloat, ranks_ - 1,
                                                comm, stream);
                       })),
              Values(kCount, ranks_ - 1));
    const int next = (rank + 1) % ranks_, previous = (rank + ranks_ - 1) % ranks_;
    EXPECT_EQ(head(run("send and recv",
                       [&](NcclComm comm) {
                         const NcclResult sent =
                             api_->send(in.data(), kCount, kFloat, next, comm, stream);
                         if (sent != NcclResult::kSuccess) return sent;
                         return api_->recv(out.data(), kCount, kFloat, previous, comm, stream);
                       })),
              Values(kCount, previous));
    if (api_->all_to_all != nullptr) {
      const std::vector<float> first = Values(kCount * n, 0);
      EXPECT_EQ(
          head(run("all_to_all",
                   [&](NcclComm comm) {
                     return api_->all_to_all(in.data(), out.data(), kCount, kFloat, comm, stream);
                   })),
          std::vector<float>(first.begin() + kCount * rank, first.begin() + kCount * (rank + 1)));
    }
    EXPECT_EQ(member->communicator->Finalize(Op()), absl::OkStatus());
  });
}

TEST_F(NcclGpuTest, TheTreeSumIsTheHosts) {
  const auto device = CreateCudaNcclDevice(0).value();
  for (const int rows : {1, 2, 3, 5, 8, 9, 13, 32}) {
    const size_t count = 5000;
    std::vector<float> values(rows * count), sum(count);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(1.0 / (1 + i % 977)) * static_cast<float>(1 << (i * 5 % 23));
    }
    for (size_t k = 0; k < count; ++k) {
      std::vector<float> column(rows);
      for (int i = 0; i < rows; ++i) column[i] = values[i * count + k];
      sum[k] = TreeSum(column.data(), rows);
    }
    const DeviceBuffer data = OnDevice(values);
    const DeviceBuffer out = OnDevice(std::vector<float>(count));
    ASSERT_EQ(device->TreeSum({data.as<float>(), rows, count}, out.as<float>()), absl::OkStatus());
    EXPECT_EQ(FromDevice<float>(out), sum) << rows;
  }
}

TEST_F(NcclGpuTest, AbortAndANewCommunicatorInTheSameProcess) {
  for (int round = 0; round < 3; ++round) {
    NcclUniqueId id;
    ASSERT_EQ(api_->get_unique_id(&id), NcclResult::kSuccess);
    EachRank(ranks_, [&](int rank) {
      const auto member = Join(rank, id, false);
      ASSERT_NE(member->communicator, nullptr);
      EXPECT_EQ(member->communicator->Abort(), absl::OkStatus());
      EXPECT_EQ(member->communicator->state(), NcclState::kClosed);
    });
  }
}

// A receive that nobody answers holds the stream until the deadline; then the abort frees it.
TEST_F(NcclGpuTest, ADeadlineFreesTheStream) {
  if (ranks_ < 2) GTEST_SKIP() << "needs 2 GPUs: with one rank nothing can be missing";
  RunFabrics({}, [&](int rank, NcclFabric& fabric) {
    if (rank != 0) return;  // and its fabric is finalized
    const DeviceBuffer in = OnDevice(std::vector<uint8_t>(100));
    std::vector<RecvBuffer> recvs = {{1, SpanOf<uint8_t>(in)}};
    const absl::Status status =
        fabric.Exchange({}, absl::MakeSpan(recvs), {"moe_dispatch", 7, absl::Seconds(1)});
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr("moe_dispatch of layer 7"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
    EXPECT_EQ(SynchronizeCudaDevice(), absl::OkStatus());
  });
}

TEST_F(NcclGpuTest, TheSurvivorsShrink) {
  if (ranks_ < 2) GTEST_SKIP() << "needs 2 GPUs: a world of one has nobody to lose";
  NcclUniqueId id;
  ASSERT_EQ(api_->get_unique_id(&id), NcclResult::kSuccess);
  EachRank(ranks_, [&](int rank) {
    const auto member = Join(rank, id, true);
    ASSERT_NE(member->communicator, nullptr);
    if (rank == ranks_ - 1) return;  // lost
    auto child = member->communicator->Shrink({ranks_ - 1}, Op());
    ASSERT_TRUE(child.ok()) << child.status();
    const DeviceBuffer data = OnDevice(Values(1000, rank));
    const absl::Status status = (*child)->Run(
        {[&](NcclComm comm) {
           return api_->all_reduce(data.data(), data.data(), 1000, NcclType::kFloat32,
                                   NcclReduction::kSum, comm, member->device->stream());
         },
         {},
         {}},
        Op());
    EXPECT_EQ(status, absl::OkStatus());
    EXPECT_EQ(FromDevice<float>(data), SumOfValues(1000, ranks_ - 1));
    EXPECT_EQ((*child)->Finalize(Op()), absl::OkStatus());
  });
}

TEST_F(NcclGpuTest, SymmetricWindowsWhereTheyExist) {
  NcclFabricOptions options;
  options.symmetric_window_bytes = 2 << 20;
  RunFabrics(options, [&](int rank, NcclFabric& fabric) {
    const absl::Span<uint8_t> window = fabric.symmetric_window();
    if (window.empty()) return;  // the fabric has said so in the log
    const std::vector<float> values = Values(1000, rank);
    ASSERT_EQ(CopyToDevice(window.data(), values.data(), 4000, nullptr), absl::OkStatus());
    ASSERT_EQ(SynchronizeCudaDevice(), absl::OkStatus());
    const absl::Span<float> floats(reinterpret_cast<float*>(window.data()), 1000);
    ASSERT_EQ(fabric.AllReduceSum(Whole(rank), floats, kOp), absl::OkStatus());
    std::vector<float> came(1000);
    ASSERT_EQ(CopyToHost(came.data(), window.data(), 4000, nullptr), absl::OkStatus());
    ASSERT_EQ(SynchronizeCudaDevice(), absl::OkStatus());
    EXPECT_EQ(came, SumOfValues(1000, ranks_));
    EXPECT_EQ(fabric.Finalize(kOp), absl::OkStatus());
  });
}

TEST_F(NcclGpuTest, OneGpuForTwoRanksIsRefusedBeforeInit) {
  std::vector<std::unique_ptr<FabricEndpoint>> endpoints;
  FabricEndpoint::Peers peers;
  for (int rank = 0; rank < 2; ++rank) {
    NcclEndpointOptions options;
    options.rank = rank;
    endpoints.push_back(CreateNcclEndpoint(api_, CreateCudaNcclDevice(0).value(), options).value());
    peers.addresses.push_back(endpoints[rank]->Address());
    peers.nodes.push_back("this");
  }
  const auto fabric = endpoints[0]->Connect(peers);
  EXPECT_EQ(fabric.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(fabric.status().message()),
              HasSubstr("rank 0 (cuda:0 of this) and rank 1 (cuda:0 of this) are on one GPU"));
}

}  // namespace
}  // namespace conclave
