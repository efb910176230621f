// What sbi_gemm_bench measures with: a pool of weights, graphs of kernels timed by events, and
// cuBLASLt beside ours. One thread; every CUDA error ends the program.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "comm/device/cuda_stream.h"
#include "kernels/sbi_gemm/sbi_gemm.h"
#include "kernels/sbi_gemm/sbi_test_kit.h"

namespace conclave {

// Median microseconds of one run of what `record` puts into a stream, as a graph.
double MeasureGraph(const std::function<void(CudaStream)>& record, int runs);

// Weight memory, handed out round and round, so that matrices in a row are distinct.
class WeightPool {
 public:
  explicit WeightPool(int64_t bytes);
  WeightView Take(int outputs, int inputs, int matrices, WeightFormat format, int32_t group);
  // Bytes a second of a plain read of all of it.
  double MeasureRead();

 private:
  DeviceBytes pool_;
  int64_t next_ = 0;
};

// bf16 [tokens, inputs] times [outputs, inputs] row-major weights by cuBLASLt's first heuristic, or
// null where the library cannot be loaded.
class LtGemm {
 public:
  virtual ~LtGemm() = default;
  // Records y [tokens, outputs] bf16 = x w^T. False when the library has no kernel for the shape.
  struct Operands {
    const void* weights;
    const void* x;
    void* y;
    int tokens, outputs, inputs;
  };
  virtual bool Record(const Operands& operands, CudaStream stream) = 0;
  static std::unique_ptr<LtGemm> Load();
};

}  // namespace conclave
