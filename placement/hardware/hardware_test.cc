#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "placement/hardware/cluster_topology.h"
#include "placement/hardware/hardware_profile.h"

namespace conclave {
namespace {

constexpr char kProfile[] =
    "name: mine\nsource: \"said \\\"so\\\"\"\nmemory: 40GiB\nmemory_bandwidth: 2 TB/s\n"
    "flops: {bf16: 312TFLOPS, fp8: 0.6e15}\nstream_efficiency: 0.9\nkernel_seconds: 3us\n"
    "host_bandwidth: 400Gbit/s\n";

constexpr char kCluster[] =
    "name: lab\n"
    "profiles:\n"
    "  small:\n"
    "    name: small\n"
    "    memory: 16GiB\n"
    "    memory_bandwidth: 300GB/s\n"
    "    flops: {bf16: 65TFLOPS}\n"
    "nodes:\n"
    "  - name: big-[08-10]\n"
    "    profile: h200\n"
    "    cost_per_hour: 30\n"
    "  - name: old\n"
    "    count: 2\n"
    "    profile: small\n"
    "    devices: 3\n"
    "    nics: 1\n"
    "    nic_bandwidth: 24Gbit/s\n"
    "    host: {alpha: 7us, bandwidth: 9GB/s}\n"
    "    dram: 64GiB\n";

std::string ProfileError(const std::string& text) {
  const auto profile = ParseHardwareProfile(text, "p.yaml");
  if (profile.ok()) return "accepted";
  EXPECT_EQ(profile.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StartsWith(profile.status().message(), "p.yaml"));
  return std::string(profile.status().message());
}

std::string ClusterError(const std::string& text) {
  const auto cluster = ParseCluster(text, "c.yaml");
  if (cluster.ok()) return "accepted";
  EXPECT_EQ(cluster.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StartsWith(cluster.status().message(), "c.yaml"));
  return std::string(cluster.status().message());
}

// kProfile with the line of `key` replaced; appended when there is none.
std::string With(const std::string& key, const std::string& line) {
  std::string text = kProfile;
  const size_t begin = text.find(key + ":");
  if (begin == std::string::npos) return text + line + "\n";
  return text.replace(begin, text.find('\n', begin) - begin, line);
}

void ExpectHas(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(message, part)) << "'" << part << "' in: " << message;
  }
}

TEST(ProfileTest, EveryBuiltinHasItsFiguresAndSource) {
  const std::vector<std::string> expected = {"a100-40g-dgx", "a100-80g",    "a6000", "b200",
                                             "cpu",          "gb200-nvl72", "h100",  "h200"};
  EXPECT_EQ(BuiltinProfileNames(), expected);
  for (const std::string& name : expected) {
    const auto profile = BuiltinProfile(name);
    ASSERT_TRUE(profile.ok()) << profile.status();
    EXPECT_EQ(profile->name, name);
    EXPECT_FALSE(profile->source.empty()) << name;
    EXPECT_GE(profile->memory_bytes, 1e9) << name;
    EXPECT_GE(profile->memory_bandwidth, 1e10) << name;
    EXPECT_GT(profile->flops.at(WeightFormat::kBf16), 1e10) << name;
    EXPECT_GT(profile->host_bandwidth, 1e9) << name;
    EXPECT_GT(profile->kernel_seconds, 0) << name;
    for (const double share :
         {profile->stream_efficiency, profile->gemm_efficiency, profile->attention_efficiency}) {
      EXPECT_GT(share, 0.2) << name;
      EXPECT_LE(share, 1) << name;
    }
    const auto again = ParseHardwareProfile(WriteHardwareProfile(*profile), "again.yaml");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, *profile) << name;
  }
}

TEST(ProfileTest, FiguresOfTheDataSheets) {
  const HardwareProfile a100 = *BuiltinProfile("a100-40g-dgx");
  EXPECT_EQ(a100.memory_bandwidth, 1555e9);
  EXPECT_EQ(a100.flops.at(WeightFormat::kBf16), 312e12);
  EXPECT_EQ(BuiltinProfile("a100-80g")->memory_bandwidth, 2039e9);
  EXPECT_EQ(BuiltinProfile("h200")->memory_bandwidth, 4.8e12);
  EXPECT_EQ(BuiltinProfile("h100")->memory_bandwidth, 3.35e12);
  EXPECT_EQ(BuiltinProfile("h100")->flops.at(WeightFormat::kFp8), 1979e12);
  EXPECT_EQ(BuiltinProfile("b200")->flops.at(WeightFormat::kMxfp4), 9000e12);
  EXPECT_EQ(BuiltinProfile("a6000")->memory_bandwidth, 768e9);
  EXPECT_EQ(BuiltinCluster("a100-40g-dgx:8")->nodes[0].network.bandwidth, 25e9);
  EXPECT_EQ(BuiltinCluster("h200:8")->nodes[0].network.bandwidth, 50e9);
  EXPECT_EQ(BuiltinCluster("h200:8")->nodes[0].fast.bandwidth, 450e9);
}

TEST(ProfileTest, UnknownBuiltinListsTheNames) {
  const auto profile = BuiltinProfile("h300");
  ASSERT_FALSE(profile.ok());
  ExpectHas(std::string(profile.status().message()), {"'h300'", "a100-80g", "cpu"});
}

TEST(ProfileTest, UnitsAndPlainNumbers) {
  const auto profile = ParseHardwareProfile(kProfile, "p.yaml");
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->source, "said \"so\"");
  EXPECT_EQ(profile->memory_bytes, 40.0 * (1 << 30));
  EXPECT_EQ(profile->memory_bandwidth, 2e12);
  EXPECT_EQ(profile->flops.at(WeightFormat::kFp8), 0.6e15);
  EXPECT_EQ(profile->host_bandwidth, 50e9);
  EXPECT_NEAR(profile->kernel_seconds, 3e-6, 1e-18);
  EXPECT_EQ(ParseHardwareProfile(WriteHardwareProfile(*profile), "p")->kernel_seconds,
            profile->kernel_seconds);
}

TEST(ProfileTest, BadValuesNameLineKeyValueAndRemedy) {
  struct Case {
    std::string key, line;
    std::vector<std::string> parts;
  };
  for (const Case& c : std::vector<Case>{
           {"memory", "memory: 40 parsecs", {"p.yaml:3", "memory", "40 parsecs", "GiB"}},
           {"memory", "memory: -40GiB", {"p.yaml:3", "-40GiB"}},
           {"memory", "memory: .nan", {"p.yaml:3", ".nan"}},
           {"memory", "memory: .inf", {".inf"}},
           {"memory", "memory: 1e999", {"1e999"}},
           {"memory", "memory: [1, 2]", {"a list"}},
           {"memory", "memory: {a: 1}", {"a map"}},
           {"memory", "memory:", {"memory"}},
           {"memory", "memory: 40GiB/s", {"40GiB/s"}},
           {"memory_bandwidth", "memory_bandwidth: 2TB", {"p.yaml:4", "2TB", "TB/s"}},
           {"memory_bandwidth", "memory_bandwidth: 1e30", {"1e30"}},
           {"stream_efficiency", "stream_efficiency: 1.5", {"1.5", "1"}},
           {"stream_efficiency", "stream_efficiency: 0", {"'0'"}},
           {"kernel_seconds", "kernel_seconds: 1h", {"1h", "us"}},
           {"flops", "flops: {bf17: 1TFLOPS}", {"p.yaml:5", "bf17", "bf16"}},
           {"flops", "flops: {}", {"flops"}},
           {"flops", "flops: fast", {"flops", "fast"}},
           {"shared_by_node", "shared_by_node: 3", {"shared_by_node", "'3'"}},
           {"memry", "memry: 3", {"p.yaml:9", "memry", "memory"}},
           {"extra", "memory: 3GB\nmemory: 4GB", {"memory", "twice"}},
       }) {
    ExpectHas(ProfileError(c.key == "extra" ? kProfile + c.line : With(c.key, c.line)), c.parts);
  }
  std::string nameless = kProfile;
  nameless.erase(0, nameless.find('\n') + 1);
  ExpectHas(ProfileError(nameless), {"name", "missing"});
}

TEST(ProfileTest, WhatIsNoProfileIsRefused) {
  EXPECT_NE(ProfileError(""), "accepted");
  EXPECT_NE(ProfileError("# only a comment\n"), "accepted");
  EXPECT_NE(ProfileError("- a\n- b\n"), "accepted");
  EXPECT_NE(ProfileError("text"), "accepted");
  EXPECT_NE(ProfileError("name: [unclosed\n"), "accepted");
  EXPECT_NE(ProfileError("a: 1\n---\nb: 2\n"), "accepted");
  EXPECT_NE(ProfileError("? [a]\n: 1\n"), "accepted");
  EXPECT_NE(ProfileError("name: *nowhere\n"), "accepted");
  EXPECT_NE(ProfileError(std::string("name: a\0b\n", 10)), "accepted");
  EXPECT_NE(ProfileError(std::string(100000, '[')), "accepted");
  EXPECT_NE(ProfileError("name: " + std::string(100000, '{')), "accepted");
  EXPECT_NE(ProfileError(std::string(5 << 20, ' ')), "accepted");
  std::string nested;
  for (int depth = 0; depth < 3000; ++depth) {
    nested += std::string(depth, ' ') + "a:\n";
  }
  EXPECT_NE(ProfileError(nested), "accepted");
  std::string dashes;
  for (int depth = 0; depth < 3000; ++depth) dashes += "- ";
  EXPECT_NE(ProfileError(dashes), "accepted");
}

// Aliases that double at each level: 2^25 values if they were copied.
TEST(ProfileTest, AnAliasBombEndsSoon) {
  std::string text = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 25; ++i) {
    absl::StrAppend(&text, "a", i, ": &a", i, " [*a", i - 1, ", *a", i - 1, "]\n");
  }
  EXPECT_NE(ProfileError(text), "accepted");
  EXPECT_NE(ClusterError(text), "accepted");
}

TEST(ProfileTest, MutatedTextsNeverCrash) {
  Rng rng(11);
  const std::string bases[] = {kProfile, kCluster};
  const std::string bytes = "{}[]:,-&*!|>'\"%@#?\n\t \\~09azGiB\x01\xff";
  int accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string text = bases[round % 2];
    for (uint64_t edit = 0; edit <= rng.Below(4); ++edit) {
      const size_t at = rng.Below(text.size());
      const char byte = bytes[rng.Below(bytes.size())];
      switch (rng.Below(4)) {
        case 0:
          text[at] = byte;
          break;
        case 1:
          text.insert(at, 1, byte);
          break;
        case 2:
          text.erase(at, rng.Below(12));
          break;
        default:
          text.insert(at, text.substr(rng.Below(text.size()), rng.Below(30)));
      }
      if (text.empty()) text = "x";
    }
    accepted += ParseHardwareProfile(text, "m").ok() + ParseCluster(text, "m").ok();
  }
  EXPECT_GT(accepted, 100);  // the edits are small enough to reach the readers of values
}

TEST(FormatTest, NamesReadBackAndBytesCountScales) {
  for (const auto format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8,
                            WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kMxfp4}) {
    EXPECT_EQ(*ParseWeightFormat(WeightFormatName(format)), format);
  }
  EXPECT_EQ(WeightFormatBytes(WeightFormat::kMxfp4), 0.53125);
  EXPECT_EQ(WeightFormatBytes(WeightFormat::kInt4), 0.515625);
  EXPECT_FALSE(ParseWeightFormat("fp32").ok());
}

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
           {"  - {profile: a6000, fast_domain: rack}", {"fast_domain", "bandwidth"}},
           {"  - {profile: h200, count: 65536}", {"65536"}},
           {"  - {profile: {name: x}}", {"memory"}},
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
      "nodes:\n  - {name: 'a[0-1]', profile: h200, fast_domain: x}\n"
      "  - {name: b, profile: h200}\n  - {name: c, profile: h200, fast_domain: none}\n"
      "  - {name: d, profile: h200, fast_domain: x}\n",
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
  EXPECT_EQ(share.flops.at(WeightFormat::kBf16), whole.flops.at(WeightFormat::kBf16) / 4);
  EXPECT_EQ(cluster.LinkBetween(0, 3), LinkClass::kNode);
}

TEST(ClusterTest, AMeasuredProfileReplacesTheOneOfItsName) {
  ClusterTopology cluster = *BuiltinCluster("cpu:4,cpu:2,h200:8");
  HardwareProfile measured = *BuiltinProfile("cpu");
  measured.memory_bandwidth = 100e9;
  ASSERT_TRUE(ReplaceProfile(measured, &cluster).ok());
  EXPECT_EQ(cluster.ProfileOf(0).memory_bandwidth, 25e9);
  EXPECT_EQ(cluster.ProfileOf(4).memory_bandwidth, 50e9);
  EXPECT_EQ(cluster.ProfileOf(6), *BuiltinProfile("h200"));
  measured.name = "abacus";
  const absl::Status refused = ReplaceProfile(measured, &cluster);
  ExpectHas(std::string(refused.message()), {"'abacus'", "'cpu'", "'h200'"});
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
  const auto start = std::chrono::steady_clock::now();
  const auto cluster = ParseCluster(text, "c.yaml");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_EQ(cluster->nodes.size(), 1024u);
  EXPECT_EQ(cluster->DeviceCount(), 128 * 36);
  std::cout << "1024 nodes: " << seconds.count() * 1e3 << " ms\n";
  EXPECT_LT(seconds.count(), 1.0);  // ten times what it may take, for a busy machine
}

}  // namespace
}  // namespace conclave
