// TensorLoader: reads checked regions of a source into the layouts of kernels, a few MiB at a time,
// so that loading takes little memory beyond the weights themselves. Borrowed by LoadModelWeights;
// several threads may call it.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/expert_ffn/expert_ffn.h"
#include "kernels/gemm/packed_matrix.h"
#include "worker/weights/rank_slices.h"
#include "worker/weights/tensor_names.h"
#include "worker/weights/weight_source.h"

namespace conclave {

class TensorLoader {
 public:
  TensorLoader(WeightSource& source, std::atomic<uint64_t>& progress,
               const std::atomic<bool>& cancelled)
      : source_(source), progress_(progress), cancelled_(cancelled) {}

  // The dtype of a tensor that is there, has the expected shape and is of floats; InvalidArgument
  // or NotFound otherwise.
  absl::StatusOr<Dtype> CheckedDtype(const NamedTensor& tensor) const;

  // Elements `range` of a vector, as floats.
  absl::StatusOr<std::vector<float>> ReadVector(const NamedTensor& tensor, IndexRange range);

  // Rows `rows` of a matrix become rows of `matrix` from `first` on; the dtypes must agree.
  absl::Status ReadRows(const NamedTensor& tensor, IndexRange rows, PackedMatrix& matrix,
                        int64_t first);

  // Columns `columns` of all rows, as a matrix that holds `slices` reduction slices.
  absl::StatusOr<PackedMatrix> ReadColumns(const NamedTensor& tensor, IndexRange columns,
                                           int slices);

  // The piece `ffn` of a SwiGLU block; `slices` as above.
  struct FfnTensors {
    NamedTensor gate;
    NamedTensor up;
    NamedTensor down;
  };
  absl::StatusOr<FfnWeights> ReadFfn(const FfnTensors& tensors, IndexRange ffn, int slices);

  // Calls sink(row, count, data) for blocks of the region, of a few MiB and whole panels of rows;
  // rows count from the region's first. Stops at the sink's first error.
  using Sink = absl::FunctionRef<absl::Status(int64_t row, int64_t count, const void* data)>;
  absl::Status ReadBlocks(const NamedTensor& tensor, const TensorRegion& region, Dtype dtype,
                          Sink sink);

 private:
  WeightSource& source_;
  std::atomic<uint64_t>& progress_;
  const std::atomic<bool>& cancelled_;
};

}  // namespace conclave
