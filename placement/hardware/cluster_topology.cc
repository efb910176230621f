#include "placement/hardware/cluster_topology.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "placement/hardware/profile_file.h"

namespace conclave {

absl::string_view LinkClassName(LinkClass link) {
  switch (link) {
    case LinkClass::kFast:
      return "fast";
    case LinkClass::kNode:
      return "node";
    case LinkClass::kNetwork:
      break;
  }
  return "network";
}

void ClusterTopology::IndexDevices() {
  index.first.assign(1, 0);
  for (const ClusterNode& node : nodes) index.first.push_back(index.first.back() + node.devices);
}

int ClusterTopology::DeviceCount() const {
  if (index.first.size() == nodes.size() + 1) return index.first.back();
  int devices = 0;
  for (const ClusterNode& node : nodes) devices += node.devices;
  return devices;
}

int ClusterTopology::NodeOf(int device) const {
  CHECK(device >= 0 && !nodes.empty()) << "device " << device << " of " << name;
  const std::vector<int>& first = index.first;
  if (first.size() != nodes.size() + 1) {
    int end = 0;
    for (size_t n = 0; n < nodes.size(); ++n) {
      end += nodes[n].devices;
      if (device < end) return static_cast<int>(n);
    }
    LOG(FATAL) << "device " << device << " of " << name << ", which has " << end;
  }
  CHECK_LT(device, first.back()) << "device of " << name;
  const size_t guess = std::min<size_t>(device / std::max(1, nodes[0].devices), nodes.size() - 1);
  if (first[guess] <= device && device < first[guess + 1]) return static_cast<int>(guess);
  return static_cast<int>(std::upper_bound(first.begin(), first.end(), device) - first.begin()) - 1;
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
  const LinkClass link = LinkBetween(a, b);
  const auto end = [&](int device) -> const LinkCost& {
    const ClusterNode& node = nodes[NodeOf(device)];
    if (link == LinkClass::kNetwork) return node.network;
    return link == LinkClass::kFast ? node.fast : node.host;
  };
  const LinkCost& from = end(a);
  const LinkCost& to = end(b);
  return {std::max(from.alpha, to.alpha), std::min(from.bandwidth, to.bandwidth)};
}

absl::StatusOr<MeasuredHardware> ParseMeasuredHardware(absl::string_view text,
                                                       absl::string_view file) {
  ASSIGN_OR_RETURN(const YamlFields fields, YamlFields::Parse(text, file));
  ASSIGN_OR_RETURN(ProfileFile parsed, ParseProfileFile(fields, ""));
  MeasuredHardware measured = {std::move(parsed.profile), {}};
  if (!fields.Has("node")) return measured;
  ASSIGN_OR_RETURN(const YamlFields node, fields.Map("node"));
  if (node.Has("host")) measured.host = parsed.node.host;
  return measured;
}

absl::Status ReplaceProfile(const MeasuredHardware& measured, ClusterTopology* cluster) {
  bool found = false;
  std::vector<std::string> names;
  for (size_t p = 0; p < cluster->profiles.size(); ++p) {
    HardwareProfile& profile = cluster->profiles[p];
    names.push_back(absl::StrCat("'", profile.name, "'"));
    if (profile.name != measured.profile.name) continue;
    found = true;
    // All nodes of one shared profile have as many devices: their shares would differ otherwise.
    const auto user =
        std::find_if(cluster->nodes.begin(), cluster->nodes.end(),
                     [p](const ClusterNode& node) { return node.profile == static_cast<int>(p); });
    profile = ShareOfNode(measured.profile, user == cluster->nodes.end() ? 1 : user->devices);
    if (measured.host.bandwidth <= 0) continue;
    for (ClusterNode& node : cluster->nodes) {
      if (node.profile == static_cast<int>(p)) node.host = measured.host;
    }
  }
  if (found) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("profile '", measured.profile.name, "' is none of the cluster's, which has ",
                   absl::StrJoin(names, ", "), "; correct its name or the cluster"));
}

}  // namespace conclave
