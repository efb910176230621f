#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "placement/hardware/cluster_topology.h"

namespace conclave {
namespace {

constexpr char kCluster[] = R"(name: mixed
profiles:
  - name: mine
    memory: 24GiB
    memory_bandwidth: 900 GB/s
    flops: {bf16: 100TFLOPS}
    host_bandwidth: 25GB/s
nodes:
  - names: big-[08-11]
    profile: h200
    nvlink_domain: rack
    nics: 4
    nic_bandwidth: 400Gbit/s
  - profile: mine
    count: 2
    devices: 3
    network: {alpha: 7us, bandwidth: 12.5GB/s}
    cost_per_hour: 1.5
)";

// The message of the error that `text` gives.
std::string ErrorOf(const std::string& text) {
  const absl::StatusOr<ClusterTopology> cluster = ParseCluster(text, "c.yaml");
  EXPECT_EQ(cluster.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(cluster.status().message());
}

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(HardwareTest, EveryBuiltinProfileParsesAndRoundTrips) {
  EXPECT_EQ(BuiltinProfileNames().size(), 8u);
  for (const std::string& name : BuiltinProfileNames()) {
    const absl::StatusOr<HardwareProfile> profile = BuiltinProfile(name);
    ASSERT_TRUE(profile.ok()) << profile.status().message();
    EXPECT_EQ(profile->name, name);
    EXPECT_FALSE(profile->source.empty());
    const auto again = ParseHardwareProfile(WriteHardwareProfile(*profile), "again.yaml");
    ASSERT_TRUE(again.ok()) << again.status().message();
    EXPECT_EQ(*again, *profile);
  }
  EXPECT_TRUE(Has(std::string(BuiltinProfile("h300").status().message()), "gb200-nvl72"));
}

TEST(HardwareTest, BuiltinClustersAreWholeNodes) {
  const ClusterTopology cluster = *BuiltinCluster("h200:20,a100-80g:8");
  EXPECT_EQ(cluster.nodes.size(), 4u);
  EXPECT_EQ(cluster.nodes[2].devices, 4);
  EXPECT_EQ(cluster.DeviceCount(), 28);
  EXPECT_EQ(cluster.NodeOf(19), 2);
  EXPECT_EQ(cluster.NodeOf(20), 3);
  EXPECT_EQ(cluster.ProfileOf(27).name, "a100-80g");
  EXPECT_EQ(cluster.LinkBetween(0, 7), LinkClass::kFast);
  EXPECT_EQ(cluster.LinkBetween(7, 8), LinkClass::kNetwork);
  EXPECT_EQ(cluster.CostBetween(0, 20).bandwidth, 25e9);  // the slower end
  const ClusterTopology rack = *BuiltinCluster("gb200-nvl72:144");
  EXPECT_EQ(rack.nodes.size(), 36u);
  EXPECT_EQ(rack.LinkBetween(0, 71), LinkClass::kFast);
  EXPECT_EQ(rack.LinkBetween(71, 72), LinkClass::kNetwork);
}

TEST(HardwareTest, WorkersOfOneProcessorShareIt) {
  const ClusterTopology one = *BuiltinCluster("cpu:1");
  const ClusterTopology four = *BuiltinCluster("cpu:4");
  EXPECT_EQ(four.nodes.size(), 1u);
  EXPECT_EQ(four.ProfileOf(3).memory_bandwidth, one.ProfileOf(0).memory_bandwidth / 4);
  EXPECT_EQ(four.LinkBetween(0, 3), LinkClass::kNode);
}

TEST(HardwareTest, BadClusterWordsSayWhatIsWrong) {
  for (const char* spec : {"", "h200", "h200:0", "h200:x", "h200:70000", "h200:8,", "h200:8:8"}) {
    const auto cluster = BuiltinCluster(spec);
    ASSERT_FALSE(cluster.ok()) << spec;
    EXPECT_TRUE(Has(std::string(cluster.status().message()), "write h200:16")) << spec;
  }
  EXPECT_TRUE(Has(std::string(BuiltinCluster("h2:8").status().message()), "profiles are"));
}

TEST(HardwareTest, AClusterFileSaysEverything) {
  const absl::StatusOr<ClusterTopology> cluster = ParseCluster(kCluster, "c.yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  EXPECT_EQ(cluster->name, "mixed");
  ASSERT_EQ(cluster->nodes.size(), 6u);
  EXPECT_EQ(cluster->nodes[0].name, "big-08");
  EXPECT_EQ(cluster->nodes[3].name, "big-11");
  EXPECT_EQ(cluster->LinkBetween(0, 31), LinkClass::kFast);  // one domain over four nodes
  EXPECT_EQ(cluster->nodes[0].network.bandwidth, 4 * 50e9 / 8);
  EXPECT_EQ(cluster->nodes[4].devices, 3);
  EXPECT_EQ(cluster->nodes[4].network, (LinkCost{7e-6, 12.5e9}));
  EXPECT_EQ(cluster->nodes[4].cost_per_hour, 1.5);
  EXPECT_EQ(cluster->ProfileOf(32).memory_bytes, 24.0 * (1 << 30));
  EXPECT_EQ(cluster->LinkBetween(32, 34), LinkClass::kNode);
}

TEST(HardwareTest, ErrorsNameLineKeyValueAndRemedy) {
  const std::string head = "name: x\nnodes:\n  - profile: h200\n";
  EXPECT_TRUE(Has(ErrorOf(""), "c.yaml:1: the file must be one map"));
  EXPECT_TRUE(Has(ErrorOf("- a\n- b\n"), "must be one map"));
  EXPECT_TRUE(Has(ErrorOf("name: [\n"), "no YAML"));
  EXPECT_TRUE(Has(ErrorOf("name: x\n"), "key 'nodes' is missing"));
  EXPECT_TRUE(Has(ErrorOf("nodes: 3\n"), "c.yaml:1: key 'nodes' is '3'; give a list of maps"));
  EXPECT_TRUE(Has(ErrorOf("nodes: [4]\n"), "an element of 'nodes' is '4'"));
  EXPECT_TRUE(Has(ErrorOf("nodez: []\n"), "unknown key 'nodez'; did you mean 'nodes'?"));
  EXPECT_TRUE(Has(ErrorOf(head + "    device: 4\n"),
                  "c.yaml:4: unknown key 'device'; did you mean 'devices'?"));
  EXPECT_TRUE(Has(ErrorOf(head + "    devices: 0\n"),
                  "c.yaml:4: key 'devices' is '0'; give a number from 1 to 1024"));
  for (const char* bad : {"-3", "nan", "1e99", "4.5", "many", "[1]", "{a: 1}", "~x"}) {
    EXPECT_TRUE(
        Has(ErrorOf(absl::StrCat(head, "    devices: ", bad, "\n")), "c.yaml:4: key 'devic"))
        << bad;
  }
  EXPECT_TRUE(Has(ErrorOf(head + "    dram: 3XB\n"), "key 'dram' is '3XB'"));
  EXPECT_TRUE(Has(ErrorOf(head + "    names: n-[5-2]\n"), "range such as node-[00-15]"));
  EXPECT_TRUE(Has(ErrorOf(head + "    devices: 4\n    devices: 5\n"), "stands twice"));
  EXPECT_TRUE(Has(ErrorOf("nodes:\n  - profile: h2000\n"), "key 'profile' is 'h2000'"));
  EXPECT_TRUE(Has(ErrorOf("nodes:\n  - {profile: a6000, nvlink_domain: r}\n"), "nvlink_domain"));
  EXPECT_TRUE(Has(ErrorOf("nodes:\n  - {names: a, profile: h200}\n  - {names: a, profile: h200}\n"),
                  "names that are not taken; 'a' is"));
  EXPECT_TRUE(Has(ErrorOf(std::string(40, '[')), "nested deeper"));
  EXPECT_TRUE(Has(ErrorOf("name: &a [*a]\nnodes: *a\n"), "c.yaml"));
}

TEST(HardwareTest, AProfileNeedsItsFigures) {
  const auto error = [](const std::string& text) {
    return std::string(ParseHardwareProfile(text, "p.yaml").status().message());
  };
  EXPECT_TRUE(Has(error("name: x\n"), "key 'memory' is missing"));
  EXPECT_TRUE(Has(error("name: x\nmemory: 1GB\nmemory_bandwidth: 1GB/s\nflops: {bf17: 1}\n"),
                  "the formats are f32"));
  EXPECT_TRUE(Has(error("name: x\nmemory: 1GB\nmemory_bandwidth: 1GB/s\nflops: {bf16: 1e12}\n"
                        "stream_efficiency: 1.2\n"),
                  "p.yaml:5: key 'stream_efficiency' is '1.2'"));
}

TEST(HardwareTest, AThousandNodesParse) {
  const auto cluster = ParseCluster("nodes:\n  - {names: 'n-[0000-1023]', profile: h200}\n", "c");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  EXPECT_EQ(cluster->DeviceCount(), 8192);
}

}  // namespace
}  // namespace conclave
