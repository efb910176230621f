// cuBLASLt as a measure for benchmarks: the library of the machine, loaded at run time, timed on
// the same product. One thread; on the current device. Without the library or its header it answers
// Unavailable.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

// out bf16 [rows, outputs] = x bf16 [rows, inputs] W^T, W bf16 [outputs, inputs], all row-major.
struct CublasProduct {
  int64_t rows = 0;
  int64_t outputs = 0;
  int64_t inputs = 0;
  const void* x = nullptr;
  const void* w = nullptr;
  void* out = nullptr;
};

class CublasLt {
 public:
  virtual ~CublasLt() = default;
  static absl::StatusOr<std::unique_ptr<CublasLt>> Create();
  // By the library's first choice of algorithm, with 64 MiB of workspace.
  virtual absl::Status Multiply(const CublasProduct& product, CudaStream stream) = 0;
};

}  // namespace conclave
