// Arithmetic on regions of tensors, shared by the weight sources. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/weights/weight_source.h"

namespace conclave {

// Elements from one row to the next: 1 for a vector.
int64_t RowElements(const std::vector<int64_t>& dims);

// Ok when `region` lies inside a tensor of `dims` (one or two of them); else InvalidArgument that
// names it.
absl::Status CheckRegion(absl::string_view name, const std::vector<int64_t>& dims,
                         const TensorRegion& region);

}  // namespace conclave
