#include "worker/weights/tensor_region.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace conclave {

int64_t RowElements(const std::vector<int64_t>& dims) { return dims.size() == 2 ? dims[1] : 1; }

absl::Status CheckRegion(absl::string_view name, const std::vector<int64_t>& dims,
                         const TensorRegion& region) {
  const bool inside = (dims.size() == 1 || dims.size() == 2) && region.row_begin >= 0 &&
                      region.row_begin <= region.row_end && region.row_end <= dims[0] &&
                      region.col_begin >= 0 && region.col_begin <= region.col_end &&
                      region.col_end <= RowElements(dims);
  if (inside) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "rows [%d, %d) and columns [%d, %d) do not lie in tensor '%s' of shape [%s]; the checkpoint "
      "does not fit its config.json",
      region.row_begin, region.row_end, region.col_begin, region.col_end, std::string(name),
      absl::StrJoin(dims, ", ")));
}

}  // namespace conclave
