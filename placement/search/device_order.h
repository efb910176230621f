// Device orders: which device becomes which rank. Tp groups stay inside a fast domain (or a node)
// while they can, stages take whole nodes in turn, and on a cluster of several device kinds a stage
// is either of one kind or holds its part of every kind. Pure functions; any thread.
#pragma once

#include <vector>

#include "comm/types/parallel_spec.h"
#include "placement/hardware/cluster_topology.h"

namespace conclave {

// [devices] index of the device's kind: devices of equal profile and links are of one kind. Kinds
// are numbered by speed, the fastest memory first.
std::vector<int> DeviceKinds(const ClusterTopology& cluster);

// Groups of `tp` devices in the order in which stages take them.
struct DeviceOrder {
  std::vector<std::vector<int>> groups;
  std::vector<int> kinds;  // [groups] of the group's slowest device
  bool operator==(const DeviceOrder&) const = default;
};

// The orders worth pricing for `tp`: nodes by kind, once with each of the fastest kinds in front.
// Each holds as many groups as the devices make; groups that cross nodes come last.
std::vector<DeviceOrder> DeviceOrders(const ClusterTopology& cluster, const std::vector<int>& kinds,
                                      int tp);

// Devices by rank for `spec`: the order's first groups. [WorkerCount]. The order has enough groups.
std::vector<int> RankDevices(const DeviceOrder& order, const ParallelSpec& spec);

// The same groups with every kind spread evenly over the stages; empty when some kind's groups do
// not divide by pp, or there is one kind or one stage only.
std::vector<int> MixedRankDevices(const DeviceOrder& order, const ParallelSpec& spec);

}  // namespace conclave
