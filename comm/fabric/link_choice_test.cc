// The table of choices, and what holds for any facts.
#include "comm/fabric/link_choice.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/rng.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// A rank with a GPU of its own, NCCL, shared memory and TCP.
LinkFacts GpuRank(int host, int gpu) {
  LinkFacts facts;
  facts.node = host == 0 ? "node-a" : host == 1 ? "node-b" : "node-c";
  facts.memory_domain = 100 + host;
  facts.gpu = GpuFacts{absl::StrCat("GPU-", host, "-", gpu), absl::StrCat("0000:", gpu), {}};
  facts.nccl_version = 22809;
  facts.ucx_transports = {"posix", "tcp"};
  return facts;
}

LinkFacts CpuRank(int host) {
  LinkFacts facts = GpuRank(host, 0);
  facts.gpu.reset();
  facts.nccl_version = 0;
  return facts;
}

void JoinByNvlink(LinkFacts& a, LinkFacts& b) {
  a.gpu->nvlink_peers.push_back(b.gpu->uuid);
  b.gpu->nvlink_peers.push_back(a.gpu->uuid);
}

void GiveRdma(LinkFacts& facts, const char* transport = "rc") {
  facts.has_rdma = true;
  facts.ucx_transports.push_back(transport);
}

struct Case {
  const char* name;
  std::function<void(LinkFacts& a, LinkFacts& b)> change;  // of the two ranks of `base`
  bool one_host;
  bool gpus;
  LinkKind kind;
  const char* reason;
  LinkOptions options = {};
};

void Nothing(LinkFacts&, LinkFacts&) {}
void Nvlink(LinkFacts& a, LinkFacts& b) { JoinByNvlink(a, b); }
void ShareGpu(LinkFacts& a, LinkFacts& b) { b.gpu = a.gpu; }
void Rdma(LinkFacts& a, LinkFacts& b) { GiveRdma(a), GiveRdma(b); }

std::vector<Case> GpuTable() {
  using K = LinkKind;
  return {
      {"OneGpu", ShareGpu, true, true, K::kCudaIpc,
       "one GPU: direct stores into each other's memory"},
      {"Nvlink", Nvlink, true, true, K::kCudaIpc,
       "GPUs of one host joined by NVLink: direct stores"},
      {"NvlinkOneWay", [](LinkFacts& a, LinkFacts& b) { a.gpu->nvlink_peers = {b.gpu->uuid}; },
       true, true, K::kNccl, "GPUs of one host"},
      {"NoNvlink", Nothing, true, true, K::kNccl, "GPUs of one host"},
      {"IpcOff", Nvlink, true, true, K::kNccl, "GPUs of one host", {false, true}},
      {"NvlinkOfAnotherSpace",
       [](LinkFacts& a, LinkFacts& b) {
         JoinByNvlink(a, b);
         b.memory_domain = 7;  // a container with an ipc space of its own
       },
       true, true, K::kNccl, "GPUs of different hosts, over sockets"},
      {"Hosts", Nothing, false, true, K::kNccl, "GPUs of different hosts, over sockets"},
      {"HostsRdma", Rdma, false, true, K::kNccl, "GPUs of different hosts, both with RDMA"},
      {"NcclOff",
       Nothing,
       true,
       true,
       K::kSharedMemory,
       "one host, through pinned host memory, as NCCL is switched off",
       {true, false}},
      {"OneGpuIpcOff",
       ShareGpu,
       true,
       true,
       K::kSharedMemory,
       "one host, through pinned host memory, as rank 0 (node-a) and rank 1 (node-a) share a GPU, "
       "and NCCL takes one rank a GPU",
       {false, true}},
      {"PartsOfAGpu", [](LinkFacts& a, LinkFacts& b) { b.gpu->bus_id = a.gpu->bus_id; }, true, true,
       K::kSharedMemory,
       "one host, through pinned host memory, as rank 0 (node-a) and rank 1 (node-a) share a GPU, "
       "and NCCL takes one rank a GPU"},
      {"NcclAbsent",
       [](LinkFacts&, LinkFacts& b) {
         b.nccl_version = 0;
         b.nccl_absent = "cannot open libnccl.so.2";
       },
       false, true, K::kTcp,
       "different hosts, through pinned host memory, as rank 1 (node-b) has no NCCL: cannot open "
       "libnccl.so.2"},
      {"NcclVersions",
       [](LinkFacts& a, LinkFacts& b) {
         GiveRdma(a), GiveRdma(b);
         b.nccl_version = 22705;
       },
       false, true, K::kRdma,
       "both have RDMA (rc), through pinned host memory, as rank 0 (node-a) has NCCL 2.28.9 and "
       "rank 1 (node-b) 2.27.5"},
      {"NcclPatch", [](LinkFacts&, LinkFacts& b) { b.nccl_version = 22807; }, false, true, K::kNccl,
       "GPUs of different hosts, over sockets"},
  };
}

std::vector<Case> HostTable() {
  using K = LinkKind;
  return {
      {"GpuAndCpu", [](LinkFacts&, LinkFacts& b) { b.gpu.reset(); }, true, true, K::kSharedMemory,
       "one host"},
      {"CpuHost", Nothing, true, false, K::kSharedMemory, "one host"},
      {"CpuNoShm", [](LinkFacts&, LinkFacts& b) { b.ucx_transports = {"tcp"}; }, true, false,
       K::kTcp, "one host, without shared memory in UCX"},
      {"CpuHosts", Nothing, false, false, K::kTcp, "different hosts"},
      {"CpuRdma", Rdma, false, false, K::kRdma, "both have RDMA (rc)"},
      {"CpuOneRdma", [](LinkFacts& a, LinkFacts&) { GiveRdma(a); }, false, false, K::kTcp,
       "different hosts, only one with RDMA"},
      {"CpuOtherRdma", [](LinkFacts& a, LinkFacts& b) { GiveRdma(a), GiveRdma(b, "ud"); }, false,
       false, K::kTcp, "different hosts"},
      {"RdmaDown",
       [](LinkFacts& a, LinkFacts& b) {
         GiveRdma(a), GiveRdma(b);
         b.has_rdma = false;
       },
       false, false, K::kTcp, "different hosts, only one with RDMA"},
  };
}

TEST(LinkChoiceTest, Table) {
  std::vector<Case> cases = GpuTable();
  for (Case& c : HostTable()) cases.push_back(std::move(c));
  EXPECT_EQ(cases.size(), 22u);
  for (const Case& c : cases) {
    const int other = c.one_host ? 0 : 1;
    LinkFacts a = c.gpus ? GpuRank(0, 0) : CpuRank(0);
    LinkFacts b = c.gpus ? GpuRank(other, 1) : CpuRank(other);
    c.change(a, b);
    const LinkChooser chooser({a, b}, c.options);
    const auto link = chooser.Choose(0, 1);
    ASSERT_TRUE(link.ok()) << c.name << " " << link.status();
    EXPECT_EQ(*link, (Link{0, 1, c.kind, c.reason})) << c.name << ": " << link->reason;
    EXPECT_EQ(*chooser.Choose(1, 0), *link) << c.name;
  }
}

// A communicator has all ranks: two that share a GPU rule NCCL out for the others too.
TEST(LinkChoiceTest, ASharedGpuRulesNcclOutForAll) {
  std::vector<LinkFacts> ranks = {GpuRank(0, 0), GpuRank(0, 1), GpuRank(1, 0), GpuRank(1, 0)};
  const LinkChooser chooser(ranks, {});
  EXPECT_THAT(chooser.nccl_blocker(),
              StartsWith("rank 2 (node-b) and rank 3 (node-b) share a GPU"));
  EXPECT_EQ(chooser.Choose(2, 3)->kind, LinkKind::kCudaIpc);
  EXPECT_EQ(chooser.Choose(0, 1)->kind, LinkKind::kSharedMemory);
  EXPECT_THAT(chooser.Choose(0, 2)->reason, HasSubstr("as rank 2 (node-b) and rank 3"));
}

TEST(LinkChoiceTest, NothingThatConnectsIsAnErrorWithTheRemedy) {
  LinkFacts a = CpuRank(0), b = CpuRank(1);
  b.ucx_transports = {"posix"};
  const LinkChooser chooser({a, b}, {});
  const absl::Status status = chooser.Choose(1, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("nothing connects rank 0 (node-a) with UCX's [posix,tcp] and rank 1 "
                        "(node-b) with [posix]; allow tcp in UCX_TLS on both"));
  EXPECT_EQ(ChooseLinks(chooser).status(), status);
}

TEST(LinkChoiceTest, LinesByKindAndReason) {
  std::vector<LinkFacts> ranks = {GpuRank(0, 0), GpuRank(0, 1), GpuRank(1, 0), GpuRank(1, 1)};
  JoinByNvlink(ranks[0], ranks[1]);
  JoinByNvlink(ranks[2], ranks[3]);
  const auto links = ChooseLinks(LinkChooser(ranks, {}));
  ASSERT_TRUE(links.ok()) << links.status();
  EXPECT_EQ(DescribeLinks(*links),
            "cuda_ipc: 2 pairs (0-1, 2-3): GPUs of one host joined by NVLink: direct stores\n"
            "nccl: 4 pairs (0-2, 0-3, 1-2, ...): GPUs of different hosts, over sockets\n");
  EXPECT_EQ(DescribeLinks({}), "");
}

// Random worlds: the choice does not depend on the order of the pair, and is one that both ends
// can take.
TEST(LinkChoiceTest, BothEndsCanTakeTheChoice) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Rng rng(seed);
    std::vector<LinkFacts> ranks;
    for (int i = 0; i < 6; ++i) {
      LinkFacts facts =
          rng.Chance(2, 3) ? GpuRank(rng.Below(3), rng.Below(8)) : CpuRank(rng.Below(3));
      if (rng.Chance(1, 3)) GiveRdma(facts);
      if (rng.Chance(1, 8)) facts.nccl_version = 0;
      if (rng.Chance(1, 6)) facts.ucx_transports = {"tcp"};
      ranks.push_back(facts);
    }
    for (LinkFacts& a : ranks) {
      for (LinkFacts& b : ranks) {
        if (&a != &b && a.gpu && b.gpu && rng.Chance(1, 4)) JoinByNvlink(a, b);
      }
    }
    const LinkChooser chooser(ranks, {rng.Chance(3, 4), rng.Chance(3, 4)});
    for (int a = 0; a < 6; ++a) {
      for (int b = a + 1; b < 6; ++b) {
        const auto link = chooser.Choose(a, b);
        ASSERT_TRUE(link.ok()) << link.status();
        ASSERT_EQ(*link, *chooser.Choose(b, a));
        const bool one_host = ranks[a].memory_domain == ranks[b].memory_domain;
        const bool gpus = ranks[a].gpu.has_value() && ranks[b].gpu.has_value();
        if (link->kind == LinkKind::kCudaIpc) {
          EXPECT_TRUE(one_host && gpus);
        }
        if (link->kind == LinkKind::kSharedMemory) {
          EXPECT_TRUE(one_host);
        }
        if (link->kind == LinkKind::kRdma) {
          EXPECT_TRUE(ranks[a].has_rdma && ranks[b].has_rdma);
        }
        if (link->kind == LinkKind::kNccl) {
          EXPECT_TRUE(gpus && chooser.nccl_blocker().empty());
          EXPECT_NE(ranks[a].gpu->uuid, ranks[b].gpu->uuid);
        }
        EXPECT_FALSE(link->reason.empty());
      }
    }
  }
}

}  // namespace
}  // namespace conclave
