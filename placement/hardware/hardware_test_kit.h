// Texts and checks that the tests of profiles and of clusters share. Values; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "placement/hardware/cluster_topology.h"
#include "placement/hardware/hardware_profile.h"

namespace conclave {

inline constexpr char kProfile[] =
    "name: mine\nsource: \"said \\\"so\\\"\"\nmemory: 40GiB\nmemory_bandwidth: 2 TB/s\n"
    "flops: {bf16: 312TFLOPS, fp8: 0.6e15}\nstream_efficiency: 0.9\nkernel_seconds: 3us\n"
    "host_bandwidth: 400Gbit/s\n";

inline constexpr char kCluster[] =
    "name: lab\n"
    "profiles:\n"
    "  small:\n"
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

// The message of a refusal, which must name the file; "accepted" when there is none.
inline std::string ProfileError(const std::string& text) {
  const auto profile = ParseHardwareProfile(text, "p.yaml");
  if (profile.ok()) return "accepted";
  EXPECT_EQ(profile.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StartsWith(profile.status().message(), "p.yaml"));
  return std::string(profile.status().message());
}

inline std::string ClusterError(const std::string& text) {
  const auto cluster = ParseCluster(text, "c.yaml");
  if (cluster.ok()) return "accepted";
  EXPECT_EQ(cluster.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StartsWith(cluster.status().message(), "c.yaml"));
  return std::string(cluster.status().message());
}

inline void ExpectHas(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(message, part)) << "'" << part << "' in: " << message;
  }
}

}  // namespace conclave
