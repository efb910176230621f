// Launching kernels: one call that checks the launch, raises the shared-memory limit, and can mark
// the launch as programmatic dependent (PDL): such a kernel may start while the one before it in
// the stream still runs, and must call GridDependencyWait (ptx.cuh) before it touches what that one
// wrote. Included by .cu files only; any thread, on its current device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  int shared_bytes = 0;
  CudaStream stream = nullptr;
  bool dependent = false;  // programmatic dependent launch
  int cluster = 1;         // thread blocks of a cluster, along x
};

inline absl::Status CudaStatus(cudaError_t error, const char* attempt) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(attempt, " failed: ", cudaGetErrorString(error), " (",
                                          cudaGetErrorName(error), ")"));
}

// Lets a kernel have all the shared memory of a processor. Always all of it: several threads may
// launch one kernel with different sizes, and the last leave given counts for all of them.
inline absl::Status AllowSharedMemory(const char* what, const void* kernel) {
  constexpr int kBlockBytesMax = 227 * 1024;
  cudaFuncAttributes attributes = {};
  const cudaError_t read = cudaFuncGetAttributes(&attributes, kernel);
  if (read != cudaSuccess) return CudaStatus(read, what);
  const int bytes = kBlockBytesMax - static_cast<int>(attributes.sharedSizeBytes);
  if (attributes.maxDynamicSharedSizeBytes >= bytes) return absl::OkStatus();
  return CudaStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), what);
}

// Launches `kernel` and reports a refused launch under the name `what`. Errors of the run itself
// show at the next synchronisation.
template <typename... Parameters, typename... Arguments>
absl::Status Launch(const char* what, const LaunchShape& shape, void (*kernel)(Parameters...),
                    Arguments&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return absl::OkStatus();
  // Without leave a block has 48 KB, what the kernel declares itself included.
  if (shape.shared_bytes > 16 * 1024) {
    const absl::Status raised = AllowSharedMemory(what, reinterpret_cast<const void*>(kernel));
    if (!raised.ok()) return raised;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute attributes[2];
  int count = 0;
  if (shape.dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = shape.cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  return CudaStatus(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
                    what);
}

}  // namespace conclave
