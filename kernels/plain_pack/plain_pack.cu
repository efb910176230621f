#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/plain_pack/plain_pack.h"

namespace conclave {
namespace {

__global__ void Pack(PackRowsArgs a) {
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= a.count * a.columns) return;
  const int64_t row = a.first + i / a.columns, col = i % a.columns;
  float v;
  if (a.dtype == Dtype::kF32) v = static_cast<const float*>(a.source)[i];
  else if (a.dtype == Dtype::kF16) v = __half2float(static_cast<const __half*>(a.source)[i]);
  else v = __bfloat162float(static_cast<const __nv_bfloat16*>(a.source)[i]);
  const int64_t n = a.placement == RowPlacement::kPlain ? row
                    : a.placement == RowPlacement::kGate ? GateOutput(row) : UpOutput(row);
  char* base = static_cast<char*>(const_cast<void*>(a.out.data)) + a.matrix * a.out.matrix_bytes;
  const int bytes = a.out.format == WeightFormat::kF32 ? 4 : 2;
  const int64_t at = TiledIndex(n, col, a.out.input_tiles(), bytes);
  if (bytes == 4) reinterpret_cast<float*>(base)[at] = v;
  else if (a.out.format == WeightFormat::kF16) reinterpret_cast<__half*>(base)[at] = __float2half(v);
  else reinterpret_cast<__nv_bfloat16*>(base)[at] = __float2bfloat16(v);
}

}  // namespace

absl::Status PackRows(const PackRowsArgs& a) {
  LaunchShape s;
  s.grid = dim3((a.count * a.columns + 255) / 256);
  s.block = dim3(256);
  s.stream = a.stream;
  return Launch("pack_rows", s, Pack, a);
}

}  // namespace conclave
