#include <limits>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/exchange/transfers.h"

namespace conclave {
namespace {

constexpr int kRanksMax = 1 << 16;

absl::Status CheckShape(const TransferOptions& options, const ParallelSpec& spec,
                        const RankNodes& nodes) {
  if (spec.tp < 1 || spec.dp < 1 || static_cast<int64_t>(spec.tp) * spec.dp > kRanksMax) {
    return absl::InvalidArgumentError(absl::StrCat("grid tp=", spec.tp, ",dp=", spec.dp,
                                                   ": a stage has 1 to ", kRanksMax, " ranks"));
  }
  if (static_cast<int>(nodes.size()) != spec.StageSize()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "nodes: ", nodes.size(), " for ", spec.StageSize(), " stage ranks; name the node of each"));
  }
  if (options.hidden < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("hidden: ", options.hidden, "; give the width of an activation"));
  }
  if (!(options.element_bytes > 0) || options.element_bytes > 16) {
    return absl::InvalidArgumentError(absl::StrCat("element_bytes: ", options.element_bytes,
                                                   "; give the bytes of an element, e.g. 2"));
  }
  return absl::OkStatus();
}

absl::Status CheckMap(const LayerExperts& layer, int stage_size) {
  const std::vector<int32_t>& first = layer.first();
  if (layer.slices() < 1 || first.size() < 2 || (first.size() - 1) % layer.slices() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("expert map: ", first.size() - 1, " units of ",
                                                   layer.slices(),
                                                   " slices; a layer has whole experts"));
  }
  for (size_t unit = 0; unit + 1 < first.size(); ++unit) {
    if (first[unit] >= first[unit + 1]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "expert map: unit ", unit, " has no owner; every slice of every expert needs one"));
    }
  }
  for (const int32_t rank : layer.ranks()) {
    if (rank < 0 || rank >= stage_size) {
      return absl::InvalidArgumentError(absl::StrCat("expert map: owner ", rank, " in a stage of ",
                                                     stage_size, " ranks; use 0 to ",
                                                     stage_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRouting(const ExchangeRouting& routing, int dp, const LayerExperts& layer) {
  if (static_cast<int>(routing.experts_by_dp.size()) != dp || routing.top_k < 1) {
    return absl::InvalidArgumentError(absl::StrCat("routing: ", routing.experts_by_dp.size(),
                                                   " dp groups, top_k ", routing.top_k, "; need ",
                                                   dp, " groups and a top_k of at least 1"));
  }
  double entries = 0;
  for (const std::vector<int32_t>& experts : routing.experts_by_dp) {
    entries += static_cast<double>(experts.size()) * layer.slices();
    if (experts.size() % routing.top_k != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "routing: ", experts.size(), " choices are no multiple of top_k ", routing.top_k));
    }
    for (const int32_t expert : experts) {
      if (expert < 0 || expert >= layer.experts()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "routing: expert ", expert, " of ", layer.experts(), "; use the ids of the map"));
      }
    }
  }
  if (entries > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("routing: ", entries, " entries; cut the step into smaller ones"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LayerTransfers> BuildTransfers(const TransferOptions& options,
                                              const ParallelSpec& spec, const RankNodes& nodes,
                                              const LayerExperts& layer,
                                              const ExchangeRouting& routing) {
  RETURN_IF_ERROR(CheckShape(options, spec, nodes));
  RETURN_IF_ERROR(CheckMap(layer, spec.StageSize()));
  RETURN_IF_ERROR(CheckRouting(routing, spec.dp, layer));
  TransferBuilder builder(options, spec, nodes);
  LayerTransfers out;
  builder.BuildInto(layer, routing, out);
  return out;
}

}  // namespace conclave
