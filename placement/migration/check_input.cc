#include "placement/migration/check_input.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("migration: ", parts...));
}

absl::Status CheckBandwidth(size_t rank, absl::string_view field, double bandwidth) {
  if (std::isfinite(bandwidth) && bandwidth >= 0) return absl::OkStatus();
  return Invalid("ranks[", rank, "].", field, " is ", bandwidth,
                 "; give bytes/s, 0 for a link that it does not have");
}

absl::Status CheckRanks(const MigrationInput& input) {
  for (size_t r = 0; r < input.ranks.size(); ++r) {
    const MigrationRank& rank = input.ranks[r];
    if (rank.free_bytes < 0) {
      return Invalid("ranks[", r, "].free_bytes is ", rank.free_bytes,
                     "; give the bytes beyond its old units, 0 or more");
    }
    RETURN_IF_ERROR(CheckBandwidth(r, "peer_bandwidth", rank.peer_bandwidth));
    RETURN_IF_ERROR(CheckBandwidth(r, "network_bandwidth", rank.network_bandwidth));
    RETURN_IF_ERROR(CheckBandwidth(r, "store_bandwidth", rank.store_bandwidth));
  }
  for (const int rank : input.lost) {
    if (rank < 0 || static_cast<size_t>(rank) >= input.ranks.size()) {
      return Invalid("lost has rank ", rank, ", but there are ", input.ranks.size(),
                     " ranks; number it as in `from`");
    }
  }
  return absl::OkStatus();
}

// The owners of one unit: some, known, ascending.
absl::Status CheckRow(const LayerExperts& layer, size_t row, size_t ranks, absl::string_view name) {
  const int32_t begin = layer.first()[row];
  const int32_t end = layer.first()[row + 1];
  const std::string where =
      absl::StrCat(name, ": expert ", row / layer.slices(), " slice ", row % layer.slices());
  if (begin == end) return Invalid(where, " has no owner; give every unit one");
  for (int32_t i = begin; i < end; ++i) {
    const int32_t rank = layer.ranks()[i];
    if (rank < 0 || static_cast<size_t>(rank) >= ranks) {
      return Invalid(where, " is owned by rank ", rank, ", but ranks has ", ranks,
                     "; describe every rank of both maps");
    }
    if (i > begin && layer.ranks()[i - 1] >= rank) {
      return Invalid(where, " lists rank ", rank, " after rank ", layer.ranks()[i - 1],
                     "; list owners once, ascending");
    }
  }
  return absl::OkStatus();
}

// The row table of a layer, which a codec or another module may have made.
absl::Status CheckTable(const LayerExperts& layer, size_t ranks, absl::string_view name) {
  const std::vector<int32_t>& first = layer.first();
  if (layer.slices() < 1 || first.empty() || first.front() != 0 ||
      static_cast<size_t>(first.back()) != layer.ranks().size() ||
      !std::is_sorted(first.begin(), first.end()) || (first.size() - 1) % layer.slices() != 0) {
    return Invalid(name, " is no row table (", first.size(), " row starts, ", layer.ranks().size(),
                   " owners, ", layer.slices(), " slices); build it with LayerExperts");
  }
  for (size_t row = 0; row + 1 < first.size(); ++row) {
    RETURN_IF_ERROR(CheckRow(layer, row, ranks, name));
  }
  return absl::OkStatus();
}

absl::Status CheckLayer(const MigrationInput& input, size_t layer) {
  const LayerExperts& from = input.from.layers[layer];
  const LayerExperts& to = input.to.layers[layer];
  RETURN_IF_ERROR(CheckTable(from, input.ranks.size(), absl::StrCat("from, layer ", layer)));
  RETURN_IF_ERROR(CheckTable(to, input.ranks.size(), absl::StrCat("to, layer ", layer)));
  const bool same_slices = to.experts() == 0 || from.slices() == to.slices();
  if (from.experts() != to.experts() || !same_slices) {
    return Invalid("layer ", layer, " has ", from.experts(), " experts of ", from.slices(),
                   " slices in `from` and ", to.experts(), " of ", to.slices(),
                   " in `to`; only maps of one shape can be moved between");
  }
  const int64_t bytes = input.unit_bytes[layer];
  if (bytes < 0 || (bytes == 0 && to.experts() > 0)) {
    return Invalid("unit_bytes[", layer, "] is ", bytes, " and the layer has ", to.experts(),
                   " experts; give the bytes of one unit");
  }
  return absl::OkStatus();
}

absl::Status CheckUnit(const MigrationInput& input, const std::vector<char>& lost, bool any_store,
                       int layer, ExpertUnit unit) {
  for (const int32_t rank : input.to.layers[layer].Owners(unit)) {
    if (lost[rank]) {
      return Invalid("to, layer ", layer, " gives expert ", unit.expert, " slice ", unit.slice,
                     " to rank ", rank, ", which is lost; give it to a live rank");
    }
  }
  const auto owners = input.from.layers[layer].Owners(unit);
  const bool live =
      std::any_of(owners.begin(), owners.end(), [&](int32_t rank) { return !lost[rank]; });
  if (live || any_store) return absl::OkStatus();
  return Invalid("layer ", layer, " expert ", unit.expert, " slice ", unit.slice,
                 " was only on lost ranks (", owners.size(),
                 "), and no live rank has a store (store_bandwidth > 0); keep "
                 "one of its ranks "
                 "or add a rank with a store");
}

// So that sums of bytes stay within int64.
absl::Status CheckSums(const MigrationInput& input) {
  constexpr double kBytesMax = 1e18;
  double bytes = 0;
  for (size_t layer = 0; layer < input.to.layers.size(); ++layer) {
    const size_t held =
        input.from.layers[layer].ranks().size() + input.to.layers[layer].ranks().size();
    bytes += static_cast<double>(held) * static_cast<double>(input.unit_bytes[layer]);
  }
  if (bytes <= kBytesMax) return absl::OkStatus();
  return Invalid("unit_bytes of all owners of both maps sum up to ", bytes,
                 "; give bytes, of no more than 1e18 in all");
}

}  // namespace

absl::Status CheckMigrationInput(const MigrationInput& input) {
  RETURN_IF_ERROR(CheckRanks(input));
  const size_t layers = input.to.layers.size();
  if (input.from.layers.size() != layers || input.unit_bytes.size() != layers) {
    return Invalid("`from` has ", input.from.layers.size(), " layers, `to` ", layers,
                   ", unit_bytes ", input.unit_bytes.size(), "; give the same number of each");
  }
  std::vector<char> lost(input.ranks.size());
  for (const int rank : input.lost) lost[rank] = true;
  bool any_store = false;
  for (size_t r = 0; r < input.ranks.size(); ++r) {
    any_store = any_store || (!lost[r] && input.ranks[r].store_bandwidth > 0);
  }
  for (size_t layer = 0; layer < layers; ++layer) {
    RETURN_IF_ERROR(CheckLayer(input, layer));
    const LayerExperts& experts = input.to.layers[layer];
    for (int row = 0; row < experts.experts() * experts.slices(); ++row) {
      RETURN_IF_ERROR(CheckUnit(input, lost, any_store, static_cast<int>(layer),
                                {row / experts.slices(), row % experts.slices()}));
    }
  }
  return CheckSums(input);
}

}  // namespace conclave
