#include <cuda_runtime.h>

#include <algorithm>

#include "comm/base/status.h"
#include "comm/device/cuda_memory.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/stream_read.h"

namespace conclave {
namespace {

constexpr int kThreads = 512;
constexpr int kLoads = 8;
constexpr int kPasses = 12;

// data: [count], a multiple of kLoads * kThreads.
__global__ void __launch_bounds__(kThreads)
    StreamRead(const uint4* data, int64_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const int64_t block = static_cast<int64_t>(kThreads) * kLoads;
  for (int64_t base = blockIdx.x * block; base < count; base += gridDim.x * block) {
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) v[i] = __ldcs(data + base + i * kThreads + threadIdx.x);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  // Never true: keeps the loads.
  if (sum == 0x9e3779b9u && count < 0) *sink = sum;
}

}  // namespace

absl::StatusOr<double> MeasureDeviceReadBandwidth(int64_t bytes) {
  constexpr int64_t kUnit = static_cast<int64_t>(kThreads) * kLoads * 16;
  bytes = std::max(bytes / kUnit * kUnit, kUnit);
  ASSIGN_OR_RETURN(const DeviceBuffer data, DeviceBuffer::Create(bytes));
  ASSIGN_OR_RETURN(const CudaStreamOwner stream, CudaStreamOwner::Create());
  ASSIGN_OR_RETURN(const CudaEvent start, CudaEvent::Create());
  ASSIGN_OR_RETURN(const CudaEvent end, CudaEvent::Create());
  RETURN_IF_ERROR(FillDevice(data.data(), 0x5a, bytes, stream.get()));
  int device = 0, processors = 0;
  RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&device), "reading the current device"));
  RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                 "counting processors"));
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    RETURN_IF_ERROR(start.Record(stream.get()));
    const LaunchShape shape = {dim3(processors * 4), dim3(kThreads), 0, stream.get()};
    RETURN_IF_ERROR(Launch("stream_read", shape, StreamRead, data.as<const uint4>(), bytes / 16,
                           data.as<uint32_t>()));
    RETURN_IF_ERROR(end.Record(stream.get()));
    RETURN_IF_ERROR(end.Synchronize());
    ASSIGN_OR_RETURN(const double us, end.MicrosecondsSince(start));
    best = std::max(best, bytes / us * 1e6);
  }
  return best;
}

}  // namespace conclave
