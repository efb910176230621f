// A block of threads for each token, which finds its sequence by bisection.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/exact/exact_attention.h"
#include "kernels/exact/exact_math.cuh"

namespace conclave {
namespace {

constexpr int kThreads = 128;

// The sequence with first_token[s] <= token < first_token[s + 1].
__device__ int SequenceOf(const ExactPages& batch, int token) {
  int low = 0, high = batch.sequences - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (batch.first_token[middle + 1] > token) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) WriteKvKernel(const ExactWriteKvArgs a) {
  const int token = static_cast<int>(blockIdx.x);
  const int sequence = SequenceOf(a.batch, token);
  const KvLayer& cache = a.cache;
  const int position = a.batch.position[sequence] + token - a.batch.first_token[sequence];
  const int64_t page =
      a.batch.page_table[a.batch.first_page[sequence] + position / cache.page_tokens];
  const int64_t head_size = static_cast<int64_t>(cache.page_tokens) * cache.head_dim;
  T* data = static_cast<T*>(cache.data) + page * 2 * cache.kv_heads * head_size +
            static_cast<int64_t>(position % cache.page_tokens) * cache.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < cache.kv_heads * cache.head_dim; i += kThreads) {
    T* to = data + i / cache.head_dim * head_size + i % cache.head_dim;
    exact::Narrow(a.k.data[token * a.k.stride + i], to);
    exact::Narrow(a.v.data[token * a.v.stride + i], to + cache.kv_heads * head_size);
  }
}

}  // namespace

absl::Status ExactWriteKv(const ExactWriteKvArgs& args, CudaStream stream) {
  const KvLayer& cache = args.cache;
  const int64_t width = static_cast<int64_t>(cache.kv_heads) * cache.head_dim;
  if (args.k.cols != width || args.v.cols != width || cache.page_tokens <= 0 ||
      args.batch.tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("exact write kv: rows of ", args.k.cols, " and ",
                                                   args.v.cols, " for a cache of ", width));
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(args.batch.tokens));
  shape.block = dim3(kThreads);
  shape.stream = stream;
  switch (cache.dtype) {
    case Dtype::kF32:
      return Launch("exact write kv", shape, WriteKvKernel<float>, args);
    case Dtype::kF16:
      return Launch("exact write kv", shape, WriteKvKernel<exact::F16>, args);
    case Dtype::kBf16:
      return Launch("exact write kv", shape, WriteKvKernel<exact::Bf16>, args);
    default:
      return absl::InvalidArgumentError("exact write kv: a KV cache is f32, f16 or bf16");
  }
}

}  // namespace conclave
