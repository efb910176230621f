#include "kernels/weight_pack/weight_pack.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {
namespace {

absl::Status Check(bool good, const char* field, int64_t value, const char* remedy) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("pack_rows: ", field, " ", value, ": ", remedy));
}

int64_t LastOutput(const PackRowsArgs& args) {
  const int64_t last = args.first + args.count - 1;
  switch (args.placement) {
    case RowPlacement::kGate:
      return GateOutput(last);
    case RowPlacement::kUp:
      return UpOutput(last);
    default:
      return last;
  }
}

}  // namespace

absl::Status CheckPackRows(const PackRowsArgs& args) {
  const WeightView& out = args.out;
  // Before sizes are computed from it.
  if (const absl::Status group =
          Check(IsQuantGroup(out.format, out.group), "out.group", out.group, "use QuantGroup");
      !group.ok()) {
    return group;
  }
  const int64_t unit = std::max<int64_t>(kTileInputs, out.group);
  const int64_t end = args.first_column + args.columns;
  const int64_t stride = args.source_stride == 0 ? args.columns : args.source_stride;
  const bool floats =
      args.dtype == Dtype::kF32 || args.dtype == Dtype::kF16 || args.dtype == Dtype::kBf16;
  const absl::Status checks[] = {
      Check(out.data != nullptr, "out.data", 0, "give memory"),
      Check(out.outputs > 0 && out.inputs > 0, "out.inputs", out.inputs, "give a shape"),
      Check(out.matrix_bytes >= MatrixBytes(out) || out.matrices == 1, "out.matrix_bytes",
            out.matrix_bytes, "use MatrixBytes"),
      Check(args.matrix >= 0 && args.matrix < out.matrices, "matrix", args.matrix,
            "use one of the view"),
      Check(args.first >= 0, "first", args.first, "use a row from 0"),
      Check(args.count >= 0 && (args.count == 0 || LastOutput(args) < out.outputs), "count",
            args.count, "end within the view's outputs"),
      Check(floats, "dtype", static_cast<int>(args.dtype), "use float32, float16 or bfloat16"),
      Check(args.first_column >= 0 && args.first_column % unit == 0, "first_column",
            args.first_column, "begin at a multiple of 64 and of the group"),
      Check(args.columns > 0 && end <= out.inputs && (end == out.inputs || end % unit == 0),
            "columns", args.columns, "end at a multiple of 64 and of the group, or with the rows"),
      Check(stride >= args.columns, "source_stride", stride, "make it the columns or more"),
      Check(args.source != nullptr || args.count == 0, "source", 0, "give memory"),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace conclave
