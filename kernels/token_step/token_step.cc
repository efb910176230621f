#include "kernels/token_step/token_step.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "kernels/token_step/token_launch.h"
#include "kernels/token_step/token_plan.h"
#include "kernels/weight_pack/quant_tiles.h"
#if CONCLAVE_CUDA
#include <cuda_runtime.h>
#endif

namespace conclave {
namespace {

struct Matrix {
  const char* name;
  const WeightView* view;
  int64_t outputs, inputs;
  int32_t matrices;
  WeightFormat format;
  int32_t group;
};

absl::Status CheckMatrix(int layer, const Matrix& m) {
  const WeightView& v = *m.view;
  if (v.data == nullptr || reinterpret_cast<uintptr_t>(v.data) % 128 != 0 ||
      v.outputs != m.outputs || v.inputs != m.inputs || v.matrices < m.matrices ||
      v.format != m.format || v.group != m.group ||
      (m.matrices > 1 && v.matrix_bytes < MatrixBytes(v))) {
    return absl::InvalidArgumentError(
        absl::StrCat("token_step: layer ", layer, "'s ", m.name, " is ", v.matrices, " x [",
                     v.outputs, ", ", v.inputs, "], format ", static_cast<int>(v.format), "/",
                     v.group, ", but should be ", m.matrices, " x [", m.outputs, ", ", m.inputs,
                     "], format ", static_cast<int>(m.format), "/", m.group, ", 128-byte aligned"));
  }
  return absl::OkStatus();
}

absl::Status CheckPointer(const char* name, const void* pointer, uintptr_t alignment) {
  if (pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % alignment == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("token_step: ", name, " is null or not ", alignment, "-byte aligned"));
}

absl::Status CheckLayer(const TokenShape& s, int index, const TokenLayer& layer) {
  const bool routed = layer.router.data != nullptr;
  const int64_t head_dim = s.head_dim, heads = s.heads * head_dim;
  const int64_t ffn = routed ? s.ffn : s.dense_ffn;
  const int32_t experts = routed ? s.experts : 1;
  const Matrix matrices[] = {
      {"qkv", &layer.qkv, heads + 2 * s.kv_heads * head_dim, s.hidden, 1, s.format, s.group},
      {"output", &layer.output, s.hidden, heads, 1, s.format, s.group},
      {"gate_up", &layer.gate_up, 2 * ffn, s.hidden, experts, s.format, s.group},
      {"down", &layer.down, s.hidden, ffn, experts, s.format, s.group},
      {"router", &layer.router, s.experts, s.hidden, 1, WeightFormat::kBf16, 0}};
  for (const Matrix& matrix : matrices) {
    if (matrix.view == &layer.router && !routed) continue;
    RETURN_IF_ERROR(CheckMatrix(index, matrix));
  }
  RETURN_IF_ERROR(CheckPointer("input_norm", layer.input_norm, 16));
  RETURN_IF_ERROR(CheckPointer("ffn_norm", layer.ffn_norm, 16));
  if (s.qk_norm != TokenQkNorm::kNone) {
    RETURN_IF_ERROR(CheckPointer("q_norm", layer.q_norm, 4));
    RETURN_IF_ERROR(CheckPointer("k_norm", layer.k_norm, 4));
  }
  const GpuKvLayer& cache = layer.cache;
  RETURN_IF_ERROR(CheckPointer("the cache", cache.data, 128));
  if (cache.kv_heads != s.kv_heads || cache.head_dim != s.head_dim ||
      cache.page_tokens != s.page_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("token_step: layer ", index, "'s cache has pages of [2, ", cache.kv_heads,
                     ", ", cache.page_tokens, ", ", cache.head_dim, "], not [2, ", s.kv_heads, ", ",
                     s.page_tokens, ", ", s.head_dim, "]"));
  }
  return absl::OkStatus();
}

#if CONCLAVE_CUDA
absl::StatusOr<TokenPlan> PlanHere(const TokenShape& shape) {
  int device = 0;
  TokenChip chip;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&chip.blocks, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&chip.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess) {
    return absl::UnavailableError("token_step: no CUDA device");
  }
  return PlanTokenStep(shape, chip);
}

absl::Status LaunchFormat(const TokenLaunch& launch) {
  switch (launch.args.shape.format) {
    case WeightFormat::kFp8:
      return LaunchTokenFp8(launch);
    case WeightFormat::kInt8:
      return LaunchTokenInt8(launch);
    case WeightFormat::kInt4:
      return LaunchTokenInt4(launch);
    default:
      return LaunchTokenBf16(launch);
  }
}
#else
absl::StatusOr<TokenPlan> PlanHere(const TokenShape&) {
  return absl::UnavailableError("token_step: this binary was built without CUDA");
}

absl::Status LaunchFormat(const TokenLaunch&) {
  return absl::UnavailableError("token_step: this binary was built without CUDA");
}
#endif

}  // namespace

bool TokenStepRuns(const TokenShape& shape) { return PlanHere(shape).ok(); }

int64_t TokenStepWorkspaceBytes(const TokenShape& shape) {
  const absl::StatusOr<TokenPlan> plan = PlanHere(shape);
  return plan.ok() ? plan->workspace_bytes : 0;
}

absl::Status CheckTokenLayers(const TokenShape& shape, absl::Span<const TokenLayer> layers) {
  int moe_layers = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    RETURN_IF_ERROR(CheckLayer(shape, static_cast<int>(i), layers[i]));
    moe_layers += layers[i].router.data != nullptr ? 1 : 0;
  }
  if (static_cast<int>(layers.size()) != shape.layers || moe_layers != shape.moe_layers) {
    return absl::InvalidArgumentError(absl::StrCat("token_step: ", layers.size(), " layers, ",
                                                   moe_layers, " with a router, for a shape of ",
                                                   shape.layers, " and ", shape.moe_layers));
  }
  return absl::OkStatus();
}

absl::Status TokenStep(const TokenStepArgs& args) {
  TokenLaunch launch = {args, {}};
  ASSIGN_OR_RETURN(launch.plan, PlanHere(args.shape));
  RETURN_IF_ERROR(CheckPointer("layers", args.layers, 8));
  RETURN_IF_ERROR(CheckPointer("residual", args.residual, 16));
  RETURN_IF_ERROR(CheckPointer("position", args.position, 4));
  RETURN_IF_ERROR(CheckPointer("page_table", args.page_table, 4));
  RETURN_IF_ERROR(CheckPointer("rope", args.rope, 8));
  RETURN_IF_ERROR(CheckPointer("workspace", args.workspace, 256));
  return LaunchFormat(launch);
}

}  // namespace conclave
