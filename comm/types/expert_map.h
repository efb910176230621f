// ExpertMap: who holds which slice of which expert, for every MoE layer. Owners are stage ranks
// (DESIGN 4: experts are spread over all dp * tp ranks of a stage). The map of a layer is a
// compressed row table, so that 100 layers of 3,000 experts stay one allocation each. A value; any
// thread may read it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace conclave {

// One slice of one expert: what a slot holds.
struct ExpertUnit {
  int expert = 0;
  int slice = 0;
  auto operator<=>(const ExpertUnit&) const = default;
};

// The owners of every unit of one layer.
class LayerExperts {
 public:
  LayerExperts() = default;
  // owners[expert * slices + slice] lists the stage ranks that hold a copy, ascending, at least
  // one.
  LayerExperts(int slices, const std::vector<std::vector<int32_t>>& owners);

  int slices() const { return slices_; }
  int experts() const { return static_cast<int>(first_.size() - 1) / slices_; }
  absl::Span<const int32_t> Owners(ExpertUnit unit) const {
    const size_t i = static_cast<size_t>(unit.expert) * slices_ + unit.slice;
    return absl::MakeConstSpan(ranks_).subspan(first_[i], first_[i + 1] - first_[i]);
  }
  // The units that `stage_rank` holds, in (expert, slice) order: their positions are the rank's
  // slots.
  std::vector<ExpertUnit> UnitsOf(int stage_rank) const;

  bool operator==(const LayerExperts&) const = default;

  // The tables themselves, for the codec.
  const std::vector<int32_t>& first() const { return first_; }
  const std::vector<int32_t>& ranks() const { return ranks_; }
  static LayerExperts FromTables(int slices, std::vector<int32_t> first,
                                 std::vector<int32_t> ranks);

 private:
  int slices_ = 1;
  std::vector<int32_t> first_ = {0};  // [units + 1] into ranks_
  std::vector<int32_t> ranks_;
};

struct ExpertMap {
  std::vector<LayerExperts>
      layers;  // one for each layer of the model; dense layers have no experts

  bool operator==(const ExpertMap&) const = default;
};

}  // namespace conclave
