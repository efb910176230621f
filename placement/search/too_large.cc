#include "placement/search/too_large.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "placement/search/device_order.h"
#include "placement/search/shares.h"

namespace conclave {
namespace {

constexpr int kTimesMax = 64;  // of the cluster's nodes that are tried
constexpr int kGrownDevicesMax = 4096;

// Every candidate of `grid` that the search starts from.
std::vector<Candidate> StartsOf(const SearchInput& input, const Grid& grid,
                                const std::vector<int>& kinds) {
  std::vector<Candidate> starts;
  for (const int slices : {grid.slices.front(), grid.slices.back()}) {
    const Candidate even = EvenCandidate(WithSlices(grid.spec, input.model, slices),
                                         grid.schedules[0], input.model.layers, grid.devices);
    starts.push_back(even);
    const ShareBuilder builder(input, even, kinds);
    if (!input.uneven || (!builder.Mixed() && grid.spec.pp == 1)) continue;
    for (const Tilt& tilt : builder.Starts()) {
      std::optional<Candidate> candidate = builder.Build(tilt);
      if (candidate.has_value()) starts.push_back(*std::move(candidate));
    }
  }
  return starts;
}

// Most that any rank needs of its device's memory, as a multiple of it.
double Overshoot(const SearchInput& input, const Candidate& candidate) {
  const RequestMix& mix = input.mix;
  const double sequences = std::max<double>(mix.concurrency, candidate.spec.dp);
  const double step_tokens =
      std::max(sequences, candidate.spec.dp * std::min(mix.prompt_tokens, kChunkTokensMax));
  const double kv_tokens = sequences * (mix.prompt_tokens + mix.output_tokens);
  const std::vector<RankBytes> bytes = BytesOfCandidate(input.model, candidate, step_tokens);
  double most = 0;
  for (size_t rank = 0; rank < bytes.size(); ++rank) {
    const int dp = candidate.spec.PositionOf(static_cast<int>(rank)).dp;
    const double need = bytes[rank].weights + bytes[rank].activations +
                        bytes[rank].kv_per_token * kv_tokens * candidate.token_shares[dp];
    most = std::max(most, need / input.cluster.ProfileOf(candidate.devices[rank]).memory_bytes);
  }
  return most;
}

// Of all devices, and of all weights held once: a lower bound that spares trying.
double MemoryOf(const ClusterTopology& cluster, const std::vector<int>& devices) {
  double bytes = 0;
  for (const int device : devices) bytes += cluster.ProfileOf(device).memory_bytes;
  return bytes;
}

double WeightBytes(const ModelDims& model) {
  const double dense = (model.layers - model.MoeLayers()) * model.DenseFfnWeights();
  const double experts =
      model.MoeLayers() * (model.experts * model.ExpertWeights() + model.SharedWeights());
  return (model.layers * model.AttentionWeights() + dense) * NumberFormatBytes(model.format) +
         experts * NumberFormatBytes(model.expert_format);
}

std::string MoreNodes(const SearchInput& input) {
  std::vector<int> all(input.cluster.DeviceCount());
  std::iota(all.begin(), all.end(), 0);
  const double least =
      std::max(2.0, std::ceil(WeightBytes(input.model) / MemoryOf(input.cluster, all)));
  int domains = 0;
  for (const ClusterNode& node : input.cluster.nodes) {
    domains = std::max(domains, node.fast_domain + 1);
  }
  const int most = std::min(kTimesMax, kGrownDevicesMax / input.cluster.DeviceCount());
  // One by one at first, then in larger steps: each is tried, so what is named does fit.
  for (double times = least; times <= most; times = std::ceil(times * 1.2)) {
    SearchInput grown = input;
    for (int copy = 1; copy < times; ++copy) {
      for (ClusterNode node : input.cluster.nodes) {
        if (node.fast_domain >= 0) node.fast_domain += copy * domains;
        grown.cluster.nodes.push_back(std::move(node));
      }
    }
    grown.cluster.IndexDevices();
    if (!AnyFits(grown, EnumerateGrids(grown))) continue;
    return absl::StrFormat("%.0f times the nodes (%.0f devices like these)", times,
                           times * input.cluster.DeviceCount());
  }
  return "";
}

std::string SmallerFormat(const SearchInput& input) {
  for (const NumberFormat format : {NumberFormat::kFp8, NumberFormat::kInt4}) {
    SearchInput smaller = input;
    const double bytes = NumberFormatBytes(format);
    for (NumberFormat* field : {&smaller.model.format, &smaller.model.expert_format}) {
      if (NumberFormatBytes(*field) > bytes) *field = format;
    }
    if (smaller.model == input.model) continue;
    if (AnyFits(smaller, EnumerateGrids(smaller))) {
      return absl::StrCat(NumberFormatName(format), " weights on these devices");
    }
  }
  return "";
}

}  // namespace

bool AnyFits(const SearchInput& input, const std::vector<Grid>& grids) {
  const std::vector<int> kinds = DeviceKinds(input.cluster);
  const Pricer pricer(input);
  // Large grids first: they are the likeliest to fit.
  const double least = WeightBytes(input.model);
  for (auto grid = grids.rbegin(); grid != grids.rend(); ++grid) {
    if (MemoryOf(input.cluster, grid->devices) < least) continue;
    for (const Candidate& candidate : StartsOf(input, *grid, kinds)) {
      if (pricer.Fits(candidate).ok()) return true;
    }
  }
  return false;
}

absl::Status TooLarge(const SearchInput& input, const std::vector<Grid>& grids) {
  const std::vector<int> kinds = DeviceKinds(input.cluster);
  std::optional<Candidate> closest;
  double least = 0;
  for (const Grid& grid : grids) {
    for (Candidate& candidate : StartsOf(input, grid, kinds)) {
      const double overshoot = Overshoot(input, candidate);
      if (closest.has_value() && overshoot >= least) continue;
      least = overshoot;
      closest = std::move(candidate);
    }
  }
  const absl::Status fit = Pricer(input).Fits(*closest);
  std::vector<std::string> remedies;
  for (std::string remedy : {MoreNodes(input), SmallerFormat(input)}) {
    if (!remedy.empty()) remedies.push_back(std::move(remedy));
  }
  const std::string text = absl::StrFormat(
      "plan search: %s does not fit %s (%d devices): the closest grid needs "
      "%.2f times its memory: "
      "%s",
      input.model.name, input.cluster.name, input.cluster.DeviceCount(), least,
      std::string(fit.message()));
  return absl::ResourceExhaustedError(
      remedies.empty()
          ? text
          : absl::StrCat(text, "; what would fit: ", absl::StrJoin(remedies, ", or ")));
}

}  // namespace conclave
