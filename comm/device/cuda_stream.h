// CudaStream: the name of a CUDA stream in headers that host code without a toolkit includes. The
// same type as the runtime's cudaStream_t. A borrowed handle; the owner is CudaStreamOwner of
// comm/device/cuda_memory.h. Any thread.
#pragma once

struct CUstream_st;

namespace conclave {

using CudaStream = CUstream_st*;

}  // namespace conclave
