#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/token_embed/token_embed.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float2 WidenPair(uint32_t pair) {
  return {__uint_as_float(pair << 16) + 0.0f, __uint_as_float(pair & 0xffff0000u) + 0.0f};
}

// A thread has eight values of a row, which neighbour each other in a tile.
__global__ void __launch_bounds__(kThreads)
    TokenEmbedKernel(const __grid_constant__ TokenEmbedArgs args) {
  GridDependencyWait();
  LaunchDependents();
  const int chunks = args.table.inputs / 8;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= int64_t{args.tokens} * chunks) return;
  const int token = static_cast<int>(i / chunks);
  const int chunk = static_cast<int>(i - int64_t{token} * chunks);
  const int source = args.token_source == nullptr ? -1 : __ldcg(args.token_source + token);
  const int id = __ldcg(source < 0 ? args.token_id + token : args.last_tokens + source);
  const int64_t row = int64_t{id} - args.first_row;
  uint4 v = {0, 0, 0, 0};
  if (row >= 0 && row < args.table.outputs) {
    v = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(args.table.data) +
                                        TiledIndex(row, chunk * 8, args.table.input_tiles(), 2));
  }
  const float2 a = WidenPair(v.x), b = WidenPair(v.y), c = WidenPair(v.z), d = WidenPair(v.w);
  auto* to = reinterpret_cast<float4*>(args.residual) + i * 2;
  to[0] = {a.x, a.y, b.x, b.y};
  to[1] = {c.x, c.y, d.x, d.y};
}

}  // namespace

absl::Status TokenEmbed(const TokenEmbedArgs& args, CudaStream stream, bool dependent) {
  if (args.tokens < 0 || args.table.format != WeightFormat::kBf16 || args.table.inputs <= 0 ||
      args.table.inputs % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("embedding ", args.tokens, " tokens by a table of ", args.table.outputs, " x ",
                     args.table.inputs, " in format ", static_cast<int>(args.table.format),
                     ": bf16 with inputs in eights is served"));
  }
  const int64_t chunks = int64_t{args.tokens} * (args.table.inputs / 8);
  const LaunchShape shape = {
      .grid = dim3(static_cast<unsigned>((chunks + kThreads - 1) / kThreads)),
      .block = dim3(kThreads),
      .stream = stream,
      .dependent = dependent};
  return Launch("token_embed", shape, TokenEmbedKernel, args);
}

}  // namespace conclave
