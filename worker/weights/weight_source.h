// WeightSource: tensors by their checkpoint names, read by region, so that a worker reads only the
// byte ranges of its slices and the source counts them. Implementations: safetensors_source (a
// Hugging Face folder), dummy_source (random weights). Read may be called from several threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/base/dtype.h"

namespace conclave {

struct TensorInfo {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> dims;  // [rows] or [rows, cols]
};

// Rows [row_begin, row_end) and columns [col_begin, col_end) of a matrix; a vector has rows only
// (cols 0..1).
struct TensorRegion {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t col_begin = 0;
  int64_t col_end = 1;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // NotFound names the tensor and the folder.
  virtual absl::StatusOr<TensorInfo> Find(absl::string_view name) const = 0;

  // Copies the region, row-major and dense, in the tensor's own dtype, to `out`.
  virtual absl::Status Read(absl::string_view name, const TensorRegion& region, void* out) = 0;

  // Bytes copied by Read so far.
  virtual int64_t bytes_read() const = 0;
};

}  // namespace conclave
