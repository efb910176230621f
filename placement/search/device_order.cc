#include "placement/search/device_order.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr int kFrontKindsMax = 4;  // the slower kinds beyond are never in front

using Groups = std::vector<std::vector<int>>;

bool SameKind(const ClusterTopology& cluster, const ClusterNode& a, const ClusterNode& b) {
  return cluster.profiles[a.profile] == cluster.profiles[b.profile] && a.fast == b.fast &&
         a.host == b.host && a.network == b.network && (a.fast_domain < 0) == (b.fast_domain < 0);
}

// The devices of one fast domain, or of one node without one, ascending.
struct Island {
  int kind = 0;
  std::vector<int> devices;
};

std::vector<Island> IslandsOf(const ClusterTopology& cluster, const std::vector<int>& kinds) {
  // Keyed by (kind, first node, domain): islands in node order within a kind.
  std::map<std::pair<int, int>, int> first_node;  // (kind, domain) -> node
  std::map<std::tuple<int, int>, Island> islands;
  int device = 0;
  for (int n = 0; n < static_cast<int>(cluster.nodes.size()); ++n) {
    const ClusterNode& node = cluster.nodes[n];
    if (node.devices <= 0) continue;
    const int kind = kinds[device];
    const int start =
        node.fast_domain < 0
            ? n
            : first_node.emplace(std::make_pair(kind, node.fast_domain), n).first->second;
    Island& island = islands[{kind, start}];
    island.kind = kind;
    for (int i = 0; i < node.devices; ++i) island.devices.push_back(device++);
  }
  std::vector<Island> list;
  for (auto& [key, island] : islands) list.push_back(std::move(island));
  return list;
}

void AppendGroups(const std::vector<int>& devices, int tp, Groups* groups, std::vector<int>* rest) {
  size_t begin = 0;
  for (; begin + tp <= devices.size(); begin += tp) {
    groups->emplace_back(devices.begin() + begin, devices.begin() + begin + tp);
  }
  if (rest != nullptr) rest->insert(rest->end(), devices.begin() + begin, devices.end());
}

DeviceOrder OrderOf(const std::vector<Island>& islands, const std::vector<int>& kinds, int tp,
                    int front) {
  DeviceOrder order;
  std::vector<int> rest;
  const auto append = [&](bool of_front) {
    for (const Island& island : islands) {
      if ((island.kind == front) != of_front) continue;
      AppendGroups(island.devices, tp, &order.groups, &rest);
    }
  };
  append(true);
  append(false);
  AppendGroups(rest, tp, &order.groups, nullptr);
  for (const std::vector<int>& group : order.groups) {
    int slowest = 0;
    for (const int device : group) slowest = std::max(slowest, kinds[device]);
    order.kinds.push_back(slowest);
  }
  return order;
}

}  // namespace

std::vector<int> DeviceKinds(const ClusterTopology& cluster) {
  std::vector<int> firsts;  // first node of each kind
  std::vector<int> kind_of_node;
  for (int n = 0; n < static_cast<int>(cluster.nodes.size()); ++n) {
    size_t kind = 0;
    while (kind < firsts.size() &&
           !SameKind(cluster, cluster.nodes[n], cluster.nodes[firsts[kind]])) {
      ++kind;
    }
    if (kind == firsts.size()) firsts.push_back(n);
    kind_of_node.push_back(static_cast<int>(kind));
  }
  std::vector<int> by_speed(firsts.size());
  for (size_t k = 0; k < by_speed.size(); ++k) by_speed[k] = static_cast<int>(k);
  std::stable_sort(by_speed.begin(), by_speed.end(), [&](int a, int b) {
    const ClusterNode& node_a = cluster.nodes[firsts[a]];
    const ClusterNode& node_b = cluster.nodes[firsts[b]];
    const double speed_a = cluster.profiles[node_a.profile].memory_bandwidth;
    const double speed_b = cluster.profiles[node_b.profile].memory_bandwidth;
    if (speed_a != speed_b) return speed_a > speed_b;
    return node_a.network.bandwidth > node_b.network.bandwidth;
  });
  std::vector<int> rank(firsts.size());
  for (size_t i = 0; i < by_speed.size(); ++i) rank[by_speed[i]] = static_cast<int>(i);
  std::vector<int> kinds;
  for (size_t n = 0; n < cluster.nodes.size(); ++n) {
    kinds.insert(kinds.end(), std::max(0, cluster.nodes[n].devices), rank[kind_of_node[n]]);
  }
  return kinds;
}

std::vector<DeviceOrder> DeviceOrders(const ClusterTopology& cluster, const std::vector<int>& kinds,
                                      int tp) {
  const std::vector<Island> islands = IslandsOf(cluster, kinds);
  std::vector<DeviceOrder> orders;
  const int kind_count = 1 + *std::max_element(kinds.begin(), kinds.end());
  for (int front = 0; front < std::min(kind_count, kFrontKindsMax); ++front) {
    DeviceOrder order = OrderOf(islands, kinds, tp, front);
    if (!order.groups.empty() && std::find(orders.begin(), orders.end(), order) == orders.end()) {
      orders.push_back(std::move(order));
    }
  }
  return orders;
}

std::vector<int> RankDevices(const DeviceOrder& order, const ParallelSpec& spec) {
  const int groups = spec.dp * spec.pp;
  CHECK_LE(groups, static_cast<int>(order.groups.size()));
  std::vector<int> devices;
  devices.reserve(spec.WorkerCount());
  for (int g = 0; g < groups; ++g) {
    devices.insert(devices.end(), order.groups[g].begin(), order.groups[g].end());
  }
  return devices;
}

std::vector<int> MixedRankDevices(const DeviceOrder& order, const ParallelSpec& spec) {
  const int count = spec.dp * spec.pp;
  CHECK_LE(count, static_cast<int>(order.groups.size()));
  if (spec.pp == 1) return {};
  std::map<int, std::vector<int>> groups_of_kind;
  for (int g = 0; g < count; ++g) groups_of_kind[order.kinds[g]].push_back(g);
  if (groups_of_kind.size() == 1) return {};
  for (const auto& [kind, groups] : groups_of_kind) {
    if (groups.size() % spec.pp != 0) return {};
  }
  std::vector<int> devices;
  for (int stage = 0; stage < spec.pp; ++stage) {
    for (const auto& [kind, groups] : groups_of_kind) {
      const size_t part = groups.size() / spec.pp;
      for (size_t i = stage * part; i < (stage + 1) * part; ++i) {
        const std::vector<int>& group = order.groups[groups[i]];
        devices.insert(devices.end(), group.begin(), group.end());
      }
    }
  }
  return devices;
}

}  // namespace conclave
