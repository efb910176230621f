#include "placement/hardware/cluster_topology.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "placement/hardware/profile_file.h"

namespace conclave {
namespace {

constexpr int kDevicesMax = 65536;

// Nodes of `file` for `count` devices; the last may be smaller.
void AppendNodes(const ProfileFile& file, int count, ClusterTopology* cluster) {
  const int whole = std::max(1, file.profile.shared_by_node != 0 ? count : file.node.devices);
  cluster->profiles.push_back(ShareOfNode(file.profile, whole));
  int domain_left = 0;
  int domain = 0;
  for (int left = count; left > 0; left -= whole) {
    ClusterNode node = file.node;
    node.name = absl::StrFormat("node-%02d", cluster->nodes.size());
    node.profile = static_cast<int>(cluster->profiles.size()) - 1;
    node.devices = std::min(left, whole);
    if (node.fast_domain >= 0) {
      if (domain_left <= 0) {
        domain = static_cast<int>(cluster->nodes.size());
        domain_left = std::max(whole, file.domain_devices);
      }
      node.fast_domain = domain;
      domain_left -= whole;
    }
    cluster->nodes.push_back(std::move(node));
  }
}

}  // namespace

absl::string_view LinkClassName(LinkClass link) {
  switch (link) {
    case LinkClass::kFast:
      return "fast";
    case LinkClass::kNode:
      return "node";
    case LinkClass::kNetwork:
      return "network";
  }
  return "?";
}

int ClusterTopology::DeviceCount() const {
  int count = 0;
  for (const ClusterNode& node : nodes) count += node.devices;
  return count;
}

int ClusterTopology::NodeOf(int device) const {
  CHECK_GE(device, 0);
  int node = 0;
  for (const ClusterNode& each : nodes) {
    if (device < each.devices) return node;
    device -= each.devices;
    ++node;
  }
  LOG(FATAL) << "device beyond the cluster's " << DeviceCount();
}

const HardwareProfile& ClusterTopology::ProfileOf(int device) const {
  return profiles[nodes[NodeOf(device)].profile];
}

LinkClass ClusterTopology::LinkBetween(int a, int b) const {
  const int node_a = NodeOf(a);
  const int node_b = NodeOf(b);
  const int domain = nodes[node_a].fast_domain;
  if (domain >= 0 && domain == nodes[node_b].fast_domain) return LinkClass::kFast;
  return node_a == node_b ? LinkClass::kNode : LinkClass::kNetwork;
}

LinkCost ClusterTopology::CostBetween(int a, int b) const {
  const ClusterNode& from = nodes[NodeOf(a)];
  const ClusterNode& to = nodes[NodeOf(b)];
  const auto slower = [](const LinkCost& x, const LinkCost& y) {
    return LinkCost{std::max(x.alpha, y.alpha), std::min(x.bandwidth, y.bandwidth)};
  };
  switch (LinkBetween(a, b)) {
    case LinkClass::kFast:
      return slower(from.fast, to.fast);
    case LinkClass::kNode:
      return slower(from.host, to.host);
    case LinkClass::kNetwork:
      return slower(from.network, to.network);
  }
  return {};
}

absl::StatusOr<ClusterTopology> BuiltinCluster(absl::string_view spec) {
  ClusterTopology cluster;
  cluster.name = std::string(spec);
  for (const absl::string_view part : absl::StrSplit(spec, ',')) {
    const std::vector<absl::string_view> words = absl::StrSplit(part, ':');
    int count = 0;
    if (words.size() != 2 || !absl::SimpleAtoi(words[1], &count) || count < 1 ||
        count > kDevicesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("cluster '", part, "' is not PROFILE:COUNT with a count from 1 to ",
                       kDevicesMax, "; write h200:16, or give a cluster file"));
    }
    ASSIGN_OR_RETURN(const ProfileFile file, BuiltinProfileFile(words[0]));
    AppendNodes(file, count, &cluster);
  }
  if (cluster.DeviceCount() > kDevicesMax) {
    return absl::InvalidArgumentError(absl::StrCat("cluster '", spec, "' has ",
                                                   cluster.DeviceCount(), " devices, at most ",
                                                   kDevicesMax, "; plan for fewer"));
  }
  return cluster;
}

}  // namespace conclave
