// The wgmma kernel of flash_attention: a warp loads, two warpgroups compute. Instantiated by
// flash_wgmma_64.cu and flash_wgmma_128.cu. Device code and its launch.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/flash_attention/flash_compute.cuh"
#include "kernels/flash_attention/flash_launch.h"
#include "kernels/flash_attention/flash_load.cuh"

namespace conclave {

template <int kHeadDim>
__global__ void __launch_bounds__(kFlashThreads, 1)
    FlashWgmmaKernel(const FlashAttentionArgs args, const FlashTiling tiling,
                     const __grid_constant__ FlashMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shared = FlashShared<kHeadDim>;
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (-SharedAddress(unaligned) & 1023);
  auto& barriers = *reinterpret_cast<FlashBarriers<kHeadDim>*>(shared + Shared::kBarriers);
  if (threadIdx.x == 0) {
    BarrierInit(&barriers.q_full, 1);
    BarrierInit(&barriers.q_empty, kFlashConsumers / 32);
    for (int stage = 0; stage < Shared::kStages; ++stage) {
      BarrierInit(&barriers.k_full[stage], 1);
      BarrierInit(&barriers.v_full[stage], 1);
      BarrierInit(&barriers.k_empty[stage], kFlashConsumers / 32);
      BarrierInit(&barriers.v_empty[stage], kFlashConsumers / 32);
    }
    BarrierInitFence();
  }
  GridDependencyWait();
  LaunchDependents();
  CountTiles(args.batch, tiling.tile_tokens, reinterpret_cast<int32_t*>(shared + Shared::kTiles));
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x < 32) ProduceTiles<kHeadDim>(args, tiling, maps, shared);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    ConsumeTiles<kHeadDim>(args, tiling, shared);
  }
#else
  __trap();  // wgmma is of sm_90a alone
#endif
}

// ---- launch

// The driver's encoder; null when the driver is older than CUDA 12.
inline decltype(&cuTensorMapEncodeTiled) FindMapEncoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

inline absl::Status EncodeFlashMaps(const FlashAttentionArgs& args, const FlashTiling& tiling,
                                    FlashMaps& maps) {
  static const auto encode = FindMapEncoder();
  if (encode == nullptr) {
    return absl::FailedPreconditionError(
        "flash_attention: the driver has no cuTensorMapEncodeTiled; it needs CUDA 12 or newer");
  }
  const GpuKvLayer& cache = args.cache;
  const cuuint64_t head_dim = cache.head_dim;
  const cuuint64_t q_sizes[3] = {head_dim, static_cast<cuuint64_t>(args.heads),
                                 static_cast<cuuint64_t>(args.batch.tokens)};
  const cuuint64_t q_strides[2] = {head_dim * 2, static_cast<cuuint64_t>(args.q_stride) * 2};
  const cuuint32_t q_box[3] = {64, static_cast<cuuint32_t>(tiling.group),
                               static_cast<cuuint32_t>(tiling.tile_tokens)};
  const cuuint64_t kv_sizes[2] = {
      head_dim, static_cast<cuuint64_t>(2LL * cache.pages * cache.kv_heads * cache.page_tokens)};
  const cuuint64_t kv_strides[1] = {head_dim * 2};
  const cuuint32_t kv_box[2] = {64, static_cast<cuuint32_t>(cache.page_tokens)};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult q_result =
      encode(&maps.q, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(args.q), q_sizes,
             q_strides, q_box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  const CUresult kv_result =
      encode(&maps.kv, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, cache.data, kv_sizes, kv_strides,
             kv_box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (q_result != CUDA_SUCCESS || kv_result != CUDA_SUCCESS) {
    return absl::InvalidArgumentError(absl::StrCat("flash_attention: no tensor map, errors ",
                                                   q_result, " for q and ", kv_result,
                                                   " for the cache"));
  }
  return absl::OkStatus();
}

template <int kHeadDim>
absl::Status LaunchFlashWgmma(const FlashAttentionArgs& args) {
  const FlashTiling tiling = FlashTiling::Of(args, kFlashRows);
  FlashMaps maps;
  const absl::Status encoded = EncodeFlashMaps(args, tiling, maps);
  if (!encoded.ok()) return encoded;
  const int blocks = args.sm_count < tiling.items_max ? args.sm_count : tiling.items_max;
  const LaunchShape shape = {dim3(blocks), dim3(kFlashThreads), FlashShared<kHeadDim>::kTotal,
                             args.stream, args.dependent};
  return Launch("flash_attention", shape, FlashWgmmaKernel<kHeadDim>, args, tiling, maps);
}

}  // namespace conclave
