#include "worker/weights/tensor_loader.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_join.h"
#include "comm/base/reduction.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr int64_t kBlockBytes = 4 << 20;

int64_t RoundUpToPanel(int64_t rows) {
  return (rows + PackedMatrix::kPanel - 1) / PackedMatrix::kPanel * PackedMatrix::kPanel;
}

float ElementAsFloat(const uint8_t* data, int64_t i, Dtype dtype) {
  if (dtype == Dtype::kF32) {
    float value;
    std::memcpy(&value, data + 4 * i, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, 2);
  return dtype == Dtype::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
}

}  // namespace

absl::StatusOr<Dtype> TensorLoader::CheckedDtype(const NamedTensor& tensor) const {
  ASSIGN_OR_RETURN(const TensorInfo info, source_.Find(tensor.name));
  if (info.dims != tensor.dims) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", tensor.name, "' has shape [", absl::StrJoin(info.dims, ", "), "], expected [",
        absl::StrJoin(tensor.dims, ", "), "] by config.json; the two do not belong together"));
  }
  if (info.dtype != Dtype::kF32 && info.dtype != Dtype::kF16 && info.dtype != Dtype::kBf16) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", tensor.name, "' has dtype ", DtypeName(info.dtype),
        ", expected float32, float16 or bfloat16; convert the checkpoint to one of these"));
  }
  return info.dtype;
}

absl::Status TensorLoader::ReadBlocks(const NamedTensor& tensor, const TensorRegion& region,
                                      Dtype dtype, Sink sink) {
  const int64_t row_bytes =
      (region.col_end - region.col_begin) * static_cast<int64_t>(DtypeBytes(dtype));
  const int64_t rows = region.row_end - region.row_begin;
  // Whole panels, so that packing a block writes whole cache lines.
  const int64_t block_rows = std::min(
      rows,
      std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(1, row_bytes * PackedMatrix::kPanel)) *
          PackedMatrix::kPanel);
  const std::unique_ptr<uint8_t[]> block(new uint8_t[block_rows * row_bytes]);
  for (int64_t row = 0; row < rows; row += block_rows) {
    if (cancelled_.load(std::memory_order_relaxed)) {
      return absl::CancelledError(absl::StrCat("loading stopped at tensor '", tensor.name, "'"));
    }
    const int64_t count = std::min(block_rows, rows - row);
    const TensorRegion part{region.row_begin + row, region.row_begin + row + count,
                            region.col_begin, region.col_end};
    RETURN_IF_ERROR(source_.Read(tensor.name, part, block.get()));
    RETURN_IF_ERROR(sink(row, count, block.get()));
    progress_.fetch_add(1, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> TensorLoader::ReadVector(const NamedTensor& tensor,
                                                            IndexRange range) {
  ASSIGN_OR_RETURN(const Dtype dtype, CheckedDtype(tensor));
  std::vector<float> values(range.size());
  RETURN_IF_ERROR(ReadBlocks(tensor, {range.begin, range.end, 0, 1}, dtype,
                             [&](int64_t row, int64_t count, const void* data) {
                               for (int64_t i = 0; i < count; ++i) {
                                 values[row + i] =
                                     ElementAsFloat(static_cast<const uint8_t*>(data), i, dtype);
                               }
                               return absl::OkStatus();
                             }));
  return values;
}

absl::Status TensorLoader::ReadRows(const NamedTensor& tensor, IndexRange rows,
                                    PackedMatrix& matrix, int64_t first) {
  ASSIGN_OR_RETURN(const Dtype dtype, CheckedDtype(tensor));
  if (dtype != matrix.dtype()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", tensor.name, "' has dtype ", DtypeName(dtype), ", expected ",
        DtypeName(matrix.dtype()),
        " as the tensors it is multiplied together with; convert the checkpoint to one dtype"));
  }
  return ReadBlocks(tensor, {rows.begin, rows.end, 0, tensor.dims[1]}, dtype,
                    [&](int64_t row, int64_t count, const void* data) {
                      matrix.SetRows(first + row, count, data, tensor.dims[1]);
                      return absl::OkStatus();
                    });
}

absl::StatusOr<PackedMatrix> TensorLoader::ReadColumns(const NamedTensor& tensor,
                                                       IndexRange columns, int slices) {
  ASSIGN_OR_RETURN(const Dtype dtype, CheckedDtype(tensor));
  PackedMatrix matrix(tensor.dims[0], columns.size(), dtype, slices);
  RETURN_IF_ERROR(ReadBlocks(tensor, {0, tensor.dims[0], columns.begin, columns.end}, dtype,
                             [&](int64_t row, int64_t count, const void* data) {
                               matrix.SetRows(row, count, data, columns.size());
                               return absl::OkStatus();
                             }));
  return matrix;
}

absl::StatusOr<FfnWeights> TensorLoader::ReadFfn(const FfnTensors& tensors, IndexRange ffn,
                                                 int slices) {
  ASSIGN_OR_RETURN(const Dtype gate_dtype, CheckedDtype(tensors.gate));
  ASSIGN_OR_RETURN(const Dtype up_dtype, CheckedDtype(tensors.up));
  if (gate_dtype != up_dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", tensors.up.name, "' has dtype ", DtypeName(up_dtype),
                     ", expected ", DtypeName(gate_dtype), " as '", tensors.gate.name,
                     "' has; convert the checkpoint to one dtype"));
  }
  const int64_t hidden = tensors.gate.dims[1];
  const TensorRegion rows{ffn.begin, ffn.end, 0, hidden};
  FfnWeights weights;
  weights.ffn = ffn.size();
  weights.gate_up =
      PackedMatrix(2 * RoundUpToPanel(ffn.size()), hidden, gate_dtype, kReductionSlices);
  RETURN_IF_ERROR(
      ReadBlocks(tensors.gate, rows, gate_dtype, [&](int64_t row, int64_t count, const void* data) {
        SetGateRows(weights, row, count, data, hidden);
        return absl::OkStatus();
      }));
  RETURN_IF_ERROR(
      ReadBlocks(tensors.up, rows, up_dtype, [&](int64_t row, int64_t count, const void* data) {
        SetUpRows(weights, row, count, data, hidden);
        return absl::OkStatus();
      }));
  ASSIGN_OR_RETURN(weights.down, ReadColumns(tensors.down, ffn, slices));
  return weights;
}

}  // namespace conclave
