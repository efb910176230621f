#include "placement/hardware/hardware_profile.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "placement/hardware/hardware_test_kit.h"

namespace conclave {
namespace {

// kProfile with the line of `key` replaced; appended when there is none.
std::string With(const std::string& key, const std::string& line) {
  std::string text = kProfile;
  const size_t begin = text.find(key + ":");
  if (begin == std::string::npos) return text + line + "\n";
  return text.replace(begin, text.find('\n', begin) - begin, line);
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
    EXPECT_GT(profile->flops.at(NumberFormat::kBf16), 1e10) << name;
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
  EXPECT_EQ(a100.flops.at(NumberFormat::kBf16), 312e12);
  EXPECT_EQ(BuiltinProfile("a100-80g")->memory_bandwidth, 2039e9);
  EXPECT_EQ(BuiltinProfile("h200")->memory_bandwidth, 4.8e12);
  EXPECT_EQ(BuiltinProfile("h100")->memory_bandwidth, 3.35e12);
  EXPECT_EQ(BuiltinProfile("h100")->flops.at(NumberFormat::kFp8), 1979e12);
  EXPECT_EQ(BuiltinProfile("b200")->flops.at(NumberFormat::kMxfp4), 9000e12);
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
  EXPECT_EQ(profile->flops.at(NumberFormat::kFp8), 0.6e15);
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
           {"overlap", "overlap: 2", {"overlap", "'2'"}},
           {"cores", "cores: 1.5", {"cores", "'1.5'", "whole"}},
           {"crowded_seconds", "crowded_seconds: fast", {"crowded_seconds", "fast"}},
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
  for (const auto format : {NumberFormat::kF32, NumberFormat::kBf16, NumberFormat::kFp8,
                            NumberFormat::kInt8, NumberFormat::kInt4, NumberFormat::kMxfp4}) {
    EXPECT_EQ(*ParseNumberFormat(NumberFormatName(format)), format);
  }
  EXPECT_EQ(NumberFormatBytes(NumberFormat::kMxfp4), 0.53125);
  EXPECT_EQ(NumberFormatBytes(NumberFormat::kInt4), 0.515625);
  EXPECT_FALSE(ParseNumberFormat("fp32").ok());
}

}  // namespace
}  // namespace conclave
