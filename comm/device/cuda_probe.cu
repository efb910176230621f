#include <cuda_runtime.h>

#include "comm/device/cuda_probe.h"

namespace conclave {
namespace {

// sum: [1], zero before the launch.
__global__ void SumLanes(int* sum) { atomicAdd(sum, static_cast<int>(threadIdx.x)); }

cudaError_t Probe(int* device_sum, int* sum) {
  cudaError_t error = cudaMemset(device_sum, 0, sizeof(int));
  if (error != cudaSuccess) return error;
  SumLanes<<<1, 32>>>(device_sum);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  return cudaMemcpy(sum, device_sum, sizeof(int), cudaMemcpyDeviceToHost);
}

}  // namespace

int RunCudaProbe(int index, int* sum) {
  cudaError_t error = cudaSetDevice(index);
  if (error != cudaSuccess) return error;
  int* device_sum = nullptr;
  error = cudaMalloc(&device_sum, sizeof(int));
  if (error != cudaSuccess) return error;
  error = Probe(device_sum, sum);
  const cudaError_t freed = cudaFree(device_sum);
  return error != cudaSuccess ? error : freed;
}

}  // namespace conclave
