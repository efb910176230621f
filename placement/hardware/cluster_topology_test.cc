#include "placement/hardware/cluster_topology.h"

#include <algorithm>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "placement/hardware/hardware_test_kit.h"

namespace conclave {
namespace {

TEST(ClusterTest, NodesPatternsAndOverrides) {
  const auto cluster = ParseCluster(kCluster, "c.yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_EQ(cluster->name, "lab");
  ASSERT_EQ(cluster->nodes.size(), 5u);
  EXPECT_EQ(cluster->nodes[0].name, "big-08");
  EXPECT_EQ(cluster->nodes[2].name, "big-10");
  EXPECT_EQ(cluster->nodes[3].name, "old-0");
  EXPECT_EQ(cluster->nodes[0].cost_per_hour, 30);
  const ClusterNode& old = cluster->nodes[4];
  EXPECT_EQ(old.name, "old-1");
  EXPECT_EQ(old.devices, 3);
  EXPECT_EQ(old.fast_domain, -1);
  EXPECT_EQ(old.network.bandwidth, 1e9);
  EXPECT_EQ(old.host.bandwidth, 9e9);
  EXPECT_EQ(old.dram_bytes, 64.0 * (1 << 30));
  EXPECT_EQ(cluster->profiles.size(), 2u);
  EXPECT_EQ(cluster->DeviceCount(), 30);
  EXPECT_EQ(cluster->NodeOf(23), 2);
  EXPECT_EQ(cluster->NodeOf(24), 3);
  EXPECT_EQ(cluster->NodeOf(29), 4);
  EXPECT_EQ(cluster->ProfileOf(29).name, "small");
  EXPECT_EQ(cluster->LinkBetween(0, 7), LinkClass::kFast);
  EXPECT_EQ(cluster->LinkBetween(7, 8), LinkClass::kNetwork);
  EXPECT_EQ(cluster->LinkBetween(24, 26), LinkClass::kNode);
  const LinkCost mixed = cluster->CostBetween(0, 24);
  EXPECT_EQ(mixed.bandwidth, 1e9);
  EXPECT_EQ(mixed.alpha, std::max(cluster->nodes[0].network.alpha, old.network.alpha));
}

TEST(ClusterTest, BadFilesNameLineKeyValueAndRemedy) {
  struct Case {
    const char* entries;
    std::vector<std::string> parts;
  };
  for (const Case& c : std::vector<Case>{
           {"  - {profile: h201}", {"c.yaml:2", "profile", "h201", "h200"}},
           {"  - {name: a}", {"c.yaml:2", "profile"}},
           {"  - {profile: h200, devices: 0}", {"devices", "'0'"}},
           {"  - {profile: h200, devices: 2.5}", {"devices", "2.5", "whole"}},
           {"  - {profile: h200, devices: 99999999}", {"devices"}},
           {"  - {profile: h200, count: -1}", {"count", "'-1'"}},
           {"  - {profile: h200, count: 1e9}", {"count"}},
           {"  - {profile: h200, nvlink: 1}", {"nvlink", "known"}},
           {"  - {profile: h200, name: 'n-[3-1]'}", {"name", "n-[3-1]", "node-[00-15]"}},
           {"  - {profile: h200, name: 'n-[0-99999999]'}", {"name"}},
           {"  - {profile: h200, name: 'n-[a]'}", {"name"}},
           {"  - {profile: h200, name: 'n-[0-1][2-3]'}", {"name"}},
           {"  - {profile: h200, name: 'n-[0-3]', count: 2}", {"count", "4"}},
           {"  - {profile: h200, name: a}\n  - {profile: h200, name: a}", {"c.yaml:3", "'a'"}},
           {"  - {profile: h200, host: {alpha: -1us}}", {"alpha", "-1us"}},
           {"  - {profile: h200, host: {latency: 1us}}", {"latency", "alpha"}},
           {"  - {profile: h200, network: fast}", {"network", "fast"}},
           {"  - {profile: a6000, nvlink_domain: rack}", {"nvlink_domain", "bandwidth"}},
           {"  - {profile: h200, count: 65536}", {"65536"}},
           {"  - {profile: {name: x}}", {"memory"}},
           {"  - {profile: {memory: 1GB}}", {"name", "missing"}},
           {"  - {profile: h200, name: a, names: b}", {"names", "not both"}},
           {"  - just text", {"c.yaml:2"}},
       }) {
    const std::string message = ClusterError(absl::StrCat("nodes:\n", c.entries, "\n"));
    std::vector<std::string> parts = c.parts;
    if (parts.back() == "known") parts.back() = "keys";
    ExpectHas(message, parts);
  }
  ExpectHas(ClusterError("name: x\n"), {"nodes"});
  ExpectHas(ClusterError("nodes: []\n"), {"nodes"});
  ExpectHas(ClusterError("nodes: h200:8\n"), {"nodes"});
  ExpectHas(ClusterError("nods: []\n"), {"nods", "nodes"});
  ExpectHas(ClusterError("nodes: [{profile: h200}]\nnodes: [{profile: h200}]\n"), {"twice"});
}

TEST(ClusterTest, TheExampleOfTheReadmeIsRead) {
  std::ifstream file("placement/hardware/README.md");
  const std::string readme((std::istreambuf_iterator<char>(file)), {});
  const size_t begin = readme.find("```yaml\n") + 8;
  const size_t end = readme.find("```", begin);
  ASSERT_NE(end, std::string::npos);
  const auto cluster = ParseCluster(readme.substr(begin, end - begin), "README.md");
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  ASSERT_EQ(cluster->nodes.size(), 7u);
  EXPECT_EQ(cluster->nodes[4].name, "gpu-07");
  EXPECT_EQ(cluster->LinkBetween(0, 39), LinkClass::kFast);
  EXPECT_EQ(cluster->nodes[0].network.bandwidth, 50e9);
  EXPECT_EQ(cluster->nodes[6].devices, 4);
  EXPECT_EQ(cluster->ProfileOf(40).name, "mine");
}

TEST(ClusterTest, AProfileOfTheFileKeepsTheNameItStandsUnder) {
  ExpectHas(ClusterError("profiles: {a: {name: b, memory: 1GB, memory_bandwidth: 1GB/s, "
                         "flops: {bf16: 1TFLOPS}}}\nnodes: [{profile: a}]\n"),
            {"c.yaml:1", "name", "'b'", "'a'"});
}

TEST(ClusterTest, BuiltinNodesAreTheUsualOnesAndTheLastMayBeSmaller) {
  const ClusterTopology cluster = *BuiltinCluster("h200:12,a100-80g:8");
  ASSERT_EQ(cluster.nodes.size(), 3u);
  EXPECT_EQ(cluster.nodes[0].devices, 8);
  EXPECT_EQ(cluster.nodes[1].devices, 4);
  EXPECT_EQ(cluster.nodes[1].network, cluster.nodes[0].network);
  EXPECT_EQ(cluster.nodes[1].dram_bytes, cluster.nodes[0].dram_bytes / 2);
  EXPECT_EQ(cluster.ProfileOf(12).name, "a100-80g");
  EXPECT_EQ(cluster.LinkBetween(8, 11), LinkClass::kFast);
  EXPECT_EQ(cluster.LinkBetween(0, 8), LinkClass::kNetwork);
  EXPECT_EQ(cluster.CostBetween(0, 12).bandwidth,
            std::min(cluster.nodes[0].network.bandwidth, cluster.nodes[2].network.bandwidth));
}

TEST(ClusterTest, AFastDomainSpansEighteenNodesOfAnNvl72) {
  const ClusterTopology cluster = *BuiltinCluster("gb200-nvl72:144");
  ASSERT_EQ(cluster.nodes.size(), 36u);
  EXPECT_EQ(cluster.LinkBetween(0, 71), LinkClass::kFast);
  EXPECT_EQ(cluster.LinkBetween(71, 72), LinkClass::kNetwork);
  EXPECT_EQ(cluster.LinkBetween(72, 143), LinkClass::kFast);
  std::string text = "nodes:\n";
  for (int i = 0; i < 36; ++i)
    absl::StrAppend(&text, "  - {profile: gb200-nvl72, name: n", i, "}\n");
  const auto listed = ParseCluster(text, "c.yaml");
  ASSERT_TRUE(listed.ok()) << listed.status();
  EXPECT_EQ(listed->nodes[17].fast_domain, listed->nodes[0].fast_domain);
  EXPECT_NE(listed->nodes[18].fast_domain, listed->nodes[0].fast_domain);
}

TEST(ClusterTest, NamedAndAbsentDomains) {
  const auto cluster = ParseCluster(
      "nodes:\n  - {name: 'a[0-1]', profile: h200, nvlink_domain: x}\n"
      "  - {name: b, profile: h200}\n  - {name: c, profile: h200, nvlink_domain: none}\n"
      "  - {name: d, profile: h200, nvlink_domain: x}\n",
      "c.yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_EQ(cluster->LinkBetween(0, 15), LinkClass::kFast);
  EXPECT_EQ(cluster->LinkBetween(0, 32), LinkClass::kFast);
  EXPECT_EQ(cluster->LinkBetween(0, 16), LinkClass::kNetwork);
  EXPECT_EQ(cluster->LinkBetween(24, 25), LinkClass::kNode);
  EXPECT_EQ(cluster->nodes[3].fast_domain, -1);
}

TEST(ClusterTest, CpuWorkersShareOneNode) {
  const HardwareProfile whole = *BuiltinProfile("cpu");
  const ClusterTopology cluster = *BuiltinCluster("cpu:4");
  ASSERT_EQ(cluster.nodes.size(), 1u);
  EXPECT_EQ(cluster.nodes[0].devices, 4);
  const HardwareProfile& share = cluster.ProfileOf(3);
  EXPECT_EQ(share.memory_bandwidth, whole.memory_bandwidth / 4);
  EXPECT_EQ(share.memory_bytes, whole.memory_bytes / 4);
  EXPECT_EQ(share.flops.at(NumberFormat::kBf16), whole.flops.at(NumberFormat::kBf16) / 4);
  EXPECT_EQ(cluster.LinkBetween(0, 3), LinkClass::kNode);
}

TEST(ClusterTest, AMeasuredProfileReplacesTheOneOfItsName) {
  ClusterTopology cluster = *BuiltinCluster("cpu:4,cpu:2,h200:8");
  MeasuredHardware measured = {*BuiltinProfile("cpu"), {}};
  measured.profile.memory_bandwidth = 100e9;
  ASSERT_TRUE(ReplaceProfile(measured, &cluster).ok());
  EXPECT_EQ(cluster.ProfileOf(0).memory_bandwidth, 25e9);
  EXPECT_EQ(cluster.ProfileOf(4).memory_bandwidth, 50e9);
  EXPECT_EQ(cluster.ProfileOf(6), *BuiltinProfile("h200"));
  EXPECT_EQ(cluster.nodes, BuiltinCluster("cpu:4,cpu:2,h200:8")->nodes);
  measured.host = {7e-6, 5e9};
  ASSERT_TRUE(ReplaceProfile(measured, &cluster).ok());
  EXPECT_EQ(cluster.CostBetween(0, 3), (LinkCost{7e-6, 5e9}));
  EXPECT_NE(cluster.nodes[2].host, (LinkCost{7e-6, 5e9}));
  measured.profile.name = "abacus";
  const absl::Status refused = ReplaceProfile(measured, &cluster);
  ExpectHas(std::string(refused.message()), {"'abacus'", "'cpu'", "'h200'"});
}

TEST(ClusterTest, AMeasuredFileHasItsNodesLink) {
  const std::string text = WriteHardwareProfile(*BuiltinProfile("cpu")) +
                           "node:\n  host: {alpha: 3us, bandwidth: 2GB/s}\n";
  const auto measured = ParseMeasuredHardware(text, "cpu.yaml");
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->profile, *BuiltinProfile("cpu"));
  EXPECT_EQ(measured->host, (LinkCost{3e-6, 2e9}));
  const auto bare = ParseMeasuredHardware(WriteHardwareProfile(measured->profile), "cpu.yaml");
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_EQ(bare->host.bandwidth, 0);
}

TEST(ClusterTest, BadSpecsAreRefused) {
  for (const char* spec : {"", "h200", "h200:", "h200:0", "h200:-8", "h200:8.5", "h200:65537",
                           "h200:1e3", "h200:99999999999999999999", ":8", "h201:8", "h200:8,",
                           "h200:8:8", "h200 :8", "h200:65536,h200:1"}) {
    const auto cluster = BuiltinCluster(spec);
    ASSERT_FALSE(cluster.ok()) << spec;
    EXPECT_EQ(cluster.status().code(), absl::StatusCode::kInvalidArgument) << spec;
    EXPECT_GT(cluster.status().message().size(), 20u) << spec;
  }
  EXPECT_EQ(BuiltinCluster("cpu:65536")->DeviceCount(), 65536);
  EXPECT_EQ(BuiltinCluster("h200:1")->DeviceCount(), 1);
}

TEST(ClusterTest, NodeOfIsTheSameWithAndWithoutTheIndex) {
  ClusterTopology cluster = *BuiltinCluster("h200:12,gb200-nvl72:7,cpu:3,a6000:9");
  ClusterTopology bare = cluster;
  bare.index.first.clear();
  EXPECT_EQ(bare, cluster);
  EXPECT_EQ(bare.DeviceCount(), cluster.DeviceCount());
  int device = 0;
  for (int node = 0; node < static_cast<int>(cluster.nodes.size()); ++node) {
    for (int i = 0; i < cluster.nodes[node].devices; ++i, ++device) {
      EXPECT_EQ(cluster.NodeOf(device), node);
      EXPECT_EQ(bare.NodeOf(device), node);
    }
  }
  EXPECT_DEATH(cluster.NodeOf(device), "device");
  EXPECT_DEATH(bare.NodeOf(-1), "device");
}

TEST(ClusterTest, AThousandListedNodesAreReadInATenthOfASecond) {
  std::string text = "name: wide\nnodes:\n";
  for (int i = 0; i < 1024; ++i) {
    absl::StrAppend(&text, "  - {name: n", i, ", profile: h200, devices: ", 1 + i % 8,
                    ", cost_per_hour: ", i, "}\n");
  }
  const std::clock_t start = std::clock();
  const auto cluster = ParseCluster(text, "c.yaml");
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_EQ(cluster->nodes.size(), 1024u);
  EXPECT_EQ(cluster->DeviceCount(), 128 * 36);
  std::cout << "1024 nodes: " << seconds * 1e3 << " ms of processor time\n";
  EXPECT_LT(seconds, 0.5);  // some times what it takes, for builds with sanitizers
}

}  // namespace
}  // namespace conclave
