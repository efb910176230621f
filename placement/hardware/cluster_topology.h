// ClusterTopology: nodes, their devices, and the links between them, as a cluster file or
// PROFILE:COUNT describes it. Devices have flat indices 0..DeviceCount(), node by node. A value;
// any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "placement/hardware/hardware_profile.h"

namespace conclave {

// A message of b bytes takes `alpha` + b / `bandwidth`.
struct LinkCost {
  double alpha = 0;      // seconds: latency and the sender's work for one message
  double bandwidth = 0;  // bytes/s of one device, one direction
  bool operator==(const LinkCost&) const = default;
};

enum class LinkClass : uint8_t { kFast = 0, kNode = 1, kNetwork = 2 };
absl::string_view LinkClassName(LinkClass link);  // "fast", "node", "network"

struct ClusterNode {
  std::string name;
  int profile = 0;  // index into ClusterTopology::profiles, of all its devices
  int devices = 0;
  // Devices with one fast_domain reach each other over the fast links (NVLink). A domain may span
  // nodes (NVL72). -1: the node has none.
  int fast_domain = -1;
  LinkCost fast;     // within the fast domain
  LinkCost host;     // within the node, without fast links: PCIe, shared memory
  LinkCost network;  // of one device to another node: the node's NICs shared evenly by its devices
  double dram_bytes = 0;
  double nvme_bytes = 0;
  double nvme_bandwidth = 0;  // bytes/s of reads
  double cost_per_hour = 0;   // of the node, in the user's currency; 0: unknown
  bool operator==(const ClusterNode&) const = default;
};

// Where each node's devices begin, so that NodeOf need not count them. It follows from the nodes
// and takes no part in comparing.
struct DeviceIndex {
  std::vector<int> first;  // [nodes + 1]; empty: not made
  bool operator==(const DeviceIndex&) const { return true; }
};

struct ClusterTopology {
  std::string name;
  std::vector<HardwareProfile> profiles;
  std::vector<ClusterNode> nodes;
  DeviceIndex index;

  // Makes the index. ParseCluster and BuiltinCluster have called it; who changes the number of
  // nodes or of their devices calls it again. Without an index, or with one of another number of
  // nodes, DeviceCount and NodeOf count.
  void IndexDevices();

  int DeviceCount() const;
  // A few steps with the index: a guess that is right where nodes are alike, else a binary search.
  int NodeOf(int device) const;
  const HardwareProfile& ProfileOf(int device) const;
  // Of a message from device `a` to another device `b`; the slower of the two ends.
  LinkClass LinkBetween(int a, int b) const;
  LinkCost CostBetween(int a, int b) const;
  bool operator==(const ClusterTopology&) const = default;
};

// `text` is a YAML cluster file (cluster_topology.cc documents the keys; docs in
// placement/hardware/README.md). InvalidArgument names file, line, key, value and remedy.
absl::StatusOr<ClusterTopology> ParseCluster(absl::string_view text, absl::string_view file);

// "h200:16", "h200:8,a100-80g:8": whole nodes of the profile's usual size and links (8 devices;
// gb200-nvl72: 4 a node, 72 a fast domain; cpu: one); the last node may be smaller.
// InvalidArgument names the profile or count and the remedy.
absl::StatusOr<ClusterTopology> BuiltinCluster(absl::string_view spec);

// What `bench calibrate` has measured.
struct MeasuredHardware {
  HardwareProfile profile;
  LinkCost host;  // within the node; bandwidth 0: not measured
};
// `text` is a profile's YAML, whose `node` may have the link. InvalidArgument as of profiles.
absl::StatusOr<MeasuredHardware> ParseMeasuredHardware(absl::string_view text,
                                                       absl::string_view file);

// Puts what was measured in the place of the cluster's profiles of that name and their nodes' host
// links, each node's devices getting their share. InvalidArgument lists the cluster's names when
// none is measured.profile.name.
absl::Status ReplaceProfile(const MeasuredHardware& measured, ClusterTopology* cluster);

}  // namespace conclave
