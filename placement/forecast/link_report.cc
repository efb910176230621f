#include "placement/forecast/link_report.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

constexpr size_t kLinksMax = 32;

class Report {
 public:
  explicit Report(const ClusterTopology& cluster) : cluster_(cluster) {
    int next = 0;
    for (const ClusterNode& node : cluster.nodes) {
      first_.push_back(next);
      next += node.devices;
    }
  }

  void Add(int from, int to, double bytes_per_step) {
    if (bytes_per_step <= 0 || from == to) return;
    const LinkClass link = cluster_.LinkBetween(from, to);
    const bool network = link == LinkClass::kNetwork;
    const std::tuple key(link, network ? cluster_.NodeOf(from) : from,
                         network ? cluster_.NodeOf(to) : to);
    Sum& sum = sums_[key];
    sum.bytes += bytes_per_step;
    sum.bandwidth = cluster_.CostBetween(from, to).bandwidth;
  }

  std::vector<LinkUse> Busiest(double step_seconds) const {
    std::vector<LinkUse> uses;
    for (const auto& [key, sum] : sums_) {
      const auto [link, from, to] = key;
      LinkUse use;
      use.link = link;
      double bandwidth = sum.bandwidth;
      if (link == LinkClass::kNetwork) {
        const ClusterNode& a = cluster_.nodes[from];
        const ClusterNode& b = cluster_.nodes[to];
        use.from = absl::StrCat(a.name, " network");
        use.to = absl::StrCat(b.name, " network");
        bandwidth = std::min(a.network.bandwidth * a.devices, b.network.bandwidth * b.devices);
      } else {
        use.from = DeviceName(from);
        use.to = DeviceName(to);
      }
      use.bytes_per_step = sum.bytes;
      use.busy_share = sum.bytes / bandwidth / step_seconds;
      uses.push_back(std::move(use));
    }
    const size_t most = std::min(kLinksMax, uses.size());
    std::partial_sort(uses.begin(), uses.begin() + static_cast<ptrdiff_t>(most), uses.end(),
                      [](const LinkUse& a, const LinkUse& b) {
                        if (a.busy_share != b.busy_share) return a.busy_share > b.busy_share;
                        return std::tie(a.from, a.to) < std::tie(b.from, b.to);
                      });
    uses.resize(most);
    return uses;
  }

 private:
  struct Sum {
    double bytes = 0;
    double bandwidth = 0;  // of one device
  };

  std::string DeviceName(int device) const {
    const int node = cluster_.NodeOf(device);
    return absl::StrCat(cluster_.nodes[node].name, "/gpu-", device - first_[node]);
  }

  const ClusterTopology& cluster_;
  std::vector<int> first_;  // [nodes] flat index of its first device
  std::map<std::tuple<LinkClass, int, int>, Sum> sums_;
};

double GroupBytes(const SimulateInput& input, int stage_rank) {
  const double share = input.candidate.token_shares[stage_rank / input.candidate.spec.tp];
  return input.load.tokens * share * input.model.hidden * NumberFormatBytes(input.model.activation);
}

// Rank t of a ring sends 2 (tp - 1) / tp of the tensor to its neighbour in each all-reduce.
void AddRings(const SimulateInput& input, const StageClock& stage, Report* report) {
  const ParallelSpec& spec = input.candidate.spec;
  if (spec.tp < 2) return;
  const AllReduceCounts counts = AllReducesOf(input.model, input.candidate.schedule);
  double rings = 0;
  for (int layer = stage.layers().begin; layer < stage.layers().end; ++layer) {
    const auto& moe = input.model.moe_layers;
    const bool is_moe = layer < static_cast<int>(moe.size()) && moe[layer];
    rings += is_moe ? counts.moe_layer : counts.dense_layer;
  }
  for (int r = 0; r < spec.StageSize(); ++r) {
    const int next = r - r % spec.tp + (r + 1) % spec.tp;
    const int* devices = input.candidate.devices.data() + stage.first_rank();
    report->Add(devices[r], devices[next],
                rings * 2 * (spec.tp - 1) / spec.tp * GroupBytes(input, r));
  }
}

}  // namespace

double HandOverBytes(const SimulateInput& input, int stage_rank) {
  return GroupBytes(input, stage_rank);
}

std::vector<LinkUse> ReportLinks(const SimulateInput& input, const std::vector<StageClock>& stages,
                                 const ReportTime& time) {
  Report report(input.cluster);
  const int size = input.candidate.spec.StageSize();
  for (const StageClock& stage : stages) {
    const int* devices = input.candidate.devices.data() + stage.first_rank();
    const std::vector<double>& bytes = stage.queues().pair_bytes();
    for (int from = 0; from < size; ++from) {
      for (int to = 0; to < size; ++to) {
        report.Add(devices[from], devices[to],
                   bytes[static_cast<size_t>(from) * size + to] / time.steps);
      }
    }
    AddRings(input, stage, &report);
    if (stage.first_rank() + size >= input.candidate.spec.WorkerCount()) continue;
    for (int r = 0; r < size; ++r) {
      report.Add(devices[r], devices[r + size], HandOverBytes(input, r));
    }
  }
  return report.Busiest(time.step_seconds);
}

}  // namespace conclave
