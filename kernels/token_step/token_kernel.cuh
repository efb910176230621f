// The kernel of token_step for a weight format and a head size: sixteen warps that compute, phase
// by phase, and one that copies. Included by the .cu of each format.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/token_step/token_attention.cuh"
#include "kernels/token_step/token_gate.cuh"
#include "kernels/token_step/token_gemv.cuh"
#include "kernels/token_step/token_ring.cuh"

namespace conclave {

// What a computing warp carries from phase to phase.
struct TokenState {
  TokenSlot at;
  unsigned target = 0;  // arrivals at the grid's barrier
  float residual = 0;   // of row first_row + threadIdx.x, for as long as the step lasts
  int first_row = 0, rows = 0;
  int position = 0;
  int layer = 0;
  int moe_layer = 0;
};

template <typename T>
__device__ __forceinline__ T* Workspace(int64_t offset) {
  return reinterpret_cast<T*>(static_cast<uint8_t*>(Shared().launch.args.workspace) + offset);
}
__device__ __forceinline__ uint32_t* TokenX() {
  return reinterpret_cast<uint32_t*>(SharedAt(Shared().launch.plan.shared_x));
}

__device__ __forceinline__ void Arrive(TokenState& state) {
  GridArrive(Workspace<unsigned>(0));
  state.target += gridDim.x;
}
__device__ __forceinline__ void Wait(const TokenState& state) {
  GridWait(Workspace<unsigned>(0), state.target);
}

// The next product's input, and its square, from the block's rows of the residual; called by the
// threads that have one. Returns the input.
__device__ __noinline__ inline float PublishRow(float residual, float norm, int row) {
  const TokenPlan& plan = Shared().launch.plan;
  const float x = residual * norm;
  StoreXPair(Workspace<uint32_t>(plan.x), row, x);
  float square = residual * residual;
#pragma unroll
  for (int lane = 1; lane < kTileOutputs; lane *= 2) {
    square += __shfl_xor_sync(__activemask(), square, lane);
  }
  if (row % kTileOutputs == 0) Workspace<float>(plan.squares)[row / kTileOutputs] = square;
  return x;
}

// Waits for the phase before and stages its vector of `words`.
__device__ __noinline__ inline void WaitAndCopy(unsigned target, int64_t offset, int words) {
  GridWait(Workspace<unsigned>(0), target);
  CopyX(TokenX(), Workspace<uint32_t>(offset), words);
}

template <typename Format>
__device__ __forceinline__ void QkvPhase(TokenState& state) {
  const TokenLaunch& launch = Shared().launch;
  const TokenPart& part = Shared().parts[state.layer % 2][kQkv];
  WaitAndCopy(state.target, launch.plan.x, launch.args.shape.hidden);
  TOKEN_STAMP(0);
  if (threadIdx.x >= kTokenThreads - 32) NormScale(Workspace<float>(launch.plan.squares));
  ClearSums(part, reinterpret_cast<float*>(SharedAt(launch.plan.shared_sums)));
  FinishX();
  TOKEN_STAMP(1);
  TokenSync();
  TOKEN_STAMP(2);
  state.at = Gemv<Format>(part, state.at);
  TOKEN_STAMP(3);
  TokenSync();
  TOKEN_STAMP(4);
  const float scale = Shared().scale;
  const int splits = launch.plan.qkv_splits;
  const int outputs = part.groups * kTileOutputs;
  float* qkv = Workspace<float>(launch.plan.qkv);
#pragma unroll 1
  for (int i = threadIdx.x; i < part.units * kTileOutputs; i += kTokenThreads) {
    const int unit = part.first_unit + i / kTileOutputs;
    const int group = unit / splits;
    qkv[(unit - group * splits) * outputs + group * kTileOutputs + i % kTileOutputs] =
        UnitSum(i / kTileOutputs, i % kTileOutputs) * scale;
  }
  TOKEN_STAMP(5);
  Arrive(state);
  TOKEN_STAMP(6);
}

template <int kHeadDim>
__device__ __forceinline__ void AttentionPhase(TokenState& state) {
  TokenShared& shared = Shared();
  const TokenStepArgs& args = shared.launch.args;
  const TokenLayer& layer = shared.layers[state.layer % 2];
  // The blocks of the layer before have read the logits, those of this one have not begun to add.
  if (blockIdx.x == gridDim.x - 1) {
    auto* logits = Workspace<long long>(shared.launch.plan.logits);
#pragma unroll 1
    for (int e = threadIdx.x; e < args.shape.experts; e += kTokenThreads) logits[e] = 0;
  }
  AttendItems<kHeadDim>(layer, state.position, state.target);
  TOKEN_STAMP(13);
  if (state.layer + 1 < args.shape.layers) {
    LoadLayer(&shared.layers[(state.layer + 1) % 2], args.layers + state.layer + 1, threadIdx.x,
              kTokenThreads);
  }
  TOKEN_STAMP(14);
  Arrive(state);
  TOKEN_STAMP(15);
}

// The new residual of the block's rows, and their share of the router's logits.
template <typename Format, int kHeadDim>
__device__ __forceinline__ void OutputPhase(TokenState& state) {
  TokenShared& shared = Shared();
  const TokenLayer& layer = shared.layers[state.layer % 2];
  const TokenPart& part = shared.parts[state.layer % 2][kOutput];
  const bool routed = layer.router.data != nullptr;
  const bool has_row = static_cast<int>(threadIdx.x) < state.rows;
  const float norm = has_row ? __ldg(layer.ffn_norm + state.first_row + threadIdx.x) : 0.0f;
  uint4 route = {};
  if (routed && part.units > 0 && static_cast<int>(threadIdx.x) < RouterItems(layer.router)) {
    route = LoadRouter(layer.router, state.first_row, threadIdx.x);
  }
  TOKEN_STAMP(16);
  Wait(state);
  TOKEN_STAMP(17);
  StageAttended<kHeadDim>(TokenX());
  TOKEN_STAMP(18);
  ClearSums(part, reinterpret_cast<float*>(SharedAt(shared.launch.plan.shared_sums)));
  TokenSync();
  TOKEN_STAMP(19);
  state.at = Gemv<Format>(part, state.at);
  TOKEN_STAMP(20);
  TokenSync();
  TOKEN_STAMP(21);
  if (has_row) {
    state.residual += UnitSum(threadIdx.x / kTileOutputs, threadIdx.x % kTileOutputs);
    shared.row[threadIdx.x] = PublishRow(state.residual, norm, state.first_row + threadIdx.x);
  }
  TOKEN_STAMP(22);
  if (routed && part.units > 0) {
    TokenSync();
    AddLogits(layer.router, state.first_row, part.units, route,
              Workspace<unsigned long long>(shared.launch.plan.logits));
  }
  TOKEN_STAMP(23);
  // Of the next layer, while others add.
  if (threadIdx.x >= kTokenThreads - kTokenProducts &&
      state.layer + 1 < shared.launch.args.shape.layers) {
    const int product = threadIdx.x - (kTokenThreads - kTokenProducts);
    MakePart(product, shared.layers[(state.layer + 1) % 2],
             shared.parts[(state.layer + 1) % 2][product]);
  }
  TOKEN_STAMP(24);
  Arrive(state);
  TOKEN_STAMP(25);
}

template <typename Format>
__device__ __forceinline__ void GateUpPhase(TokenState& state) {
  TokenShared& shared = Shared();
  const TokenLaunch& launch = shared.launch;
  const TokenLayer& layer = shared.layers[state.layer % 2];
  const TokenPart& part = shared.parts[state.layer % 2][kGateUp];
  const TokenPart& down = shared.parts[state.layer % 2][kDown];
  const bool routed = layer.router.data != nullptr;
  const bool last_warp = threadIdx.x >= kTokenThreads - 32;
  const float before = shared.scale;  // that the logits were added by
  WaitAndCopy(state.target, launch.plan.x, launch.args.shape.hidden);
  TOKEN_STAMP(26);
  if (routed) {
    LoadLogits(Workspace<long long>(launch.plan.logits), launch.args.shape.experts, before);
  }
  if (last_warp) NormScale(Workspace<float>(launch.plan.squares));
  ClearSums(part, reinterpret_cast<float*>(SharedAt(launch.plan.shared_sums)));
  FinishX();
  TOKEN_STAMP(27);
  TokenSync();
  TOKEN_STAMP(28);
  if (routed) {
    Choose();
    if (last_warp) {
      WaitOrStop(&shared.routed, state.moe_layer % 2, "the choice");
      WeighChoices();
    }
  } else if (threadIdx.x == 0) {
    shared.gate_weights[0] = 1;
  }
  TOKEN_STAMP(29);
  state.at = Gemv<Format>(part, state.at);
  TOKEN_STAMP(30);
  TokenSync();
  TOKEN_STAMP(31);
  const float scale = shared.scale;
  const int padded = down.k_tiles * kTileInputs;
#pragma unroll 1
  for (int i = threadIdx.x; i < part.units * 8; i += kTokenThreads) {
    const int unit = part.first_unit + i / 8;
    const int choice = unit / part.groups;
    const float gate = UnitSum(i / 8, i % 8) * scale;
    const float up = UnitSum(i / 8, i % 8 + 8) * scale;
    StoreXPair(Workspace<uint32_t>(launch.plan.ffn),
               choice * padded + (unit - choice * part.groups) * 8 + i % 8,
               __fdividef(gate, 1.0f + __expf(-gate)) * up * shared.gate_weights[choice]);
  }
  if (routed) {
    if (launch.args.chosen != nullptr && blockIdx.x == 0 &&
        static_cast<int>(threadIdx.x) < launch.args.shape.top_k) {
      launch.args.chosen[state.moe_layer * launch.args.shape.top_k + threadIdx.x] =
          shared.choice[threadIdx.x];
    }
    ++state.moe_layer;
  }
  TOKEN_STAMP(32);
  Arrive(state);
  TOKEN_STAMP(33);
}

template <typename Format>
__device__ __forceinline__ void DownPhase(TokenState& state) {
  TokenShared& shared = Shared();
  const TokenPart& part = shared.parts[state.layer % 2][kDown];
  const bool has_row = static_cast<int>(threadIdx.x) < state.rows;
  const bool goes_on = state.layer + 1 < shared.launch.args.shape.layers;
  float norm = 0;
  if (has_row && goes_on) {
    norm = __ldg(shared.layers[(state.layer + 1) % 2].input_norm + state.first_row + threadIdx.x);
  }
  TOKEN_STAMP(34);
  WaitAndCopy(state.target, shared.launch.plan.ffn, part.x_tiles * kTileInputs);
  TOKEN_STAMP(35);
  ClearSums(part, reinterpret_cast<float*>(SharedAt(shared.launch.plan.shared_sums)));
  FinishX();
  TOKEN_STAMP(36);
  TokenSync();
  TOKEN_STAMP(37);
  state.at = Gemv<Format>(part, state.at);
  TOKEN_STAMP(38);
  TokenSync();
  TOKEN_STAMP(39);
  if (has_row) {
    state.residual += UnitSum(threadIdx.x / kTileOutputs, threadIdx.x % kTileOutputs);
    PublishRow(state.residual, norm, state.first_row + threadIdx.x);
  }
  TOKEN_STAMP(40);
  Arrive(state);
  TOKEN_STAMP(41);
}

template <typename Format, int kHeadDim>
__device__ __forceinline__ void Compute() {
  TokenShared& shared = Shared();
  const TokenStepArgs& args = shared.launch.args;
  TokenState state;
  state.position = __ldg(args.position);
  state.first_row = shared.parts[0][kOutput].first_unit * kTileOutputs;
  state.rows = shared.parts[0][kOutput].units * kTileOutputs;
  if (static_cast<int>(threadIdx.x) < state.rows) {
    const int row = state.first_row + threadIdx.x;
    state.residual = args.residual[row];
    PublishRow(state.residual, __ldg(shared.layers[0].input_norm + row), row);
  }
  // The padding of rows meets weights of 0 and must be numbers.
  for (int64_t i = int64_t{blockIdx.x} * kTokenThreads + threadIdx.x;
       i < (shared.launch.plan.workspace_bytes - shared.launch.plan.ffn) / 4;
       i += gridDim.x * kTokenThreads) {
    Workspace<uint32_t>(shared.launch.plan.ffn)[i] = 0;
  }
  Arrive(state);
#pragma unroll 1
  for (; state.layer < args.shape.layers; ++state.layer) {
    TOKEN_STAMP_LAYER(state.layer);
    QkvPhase<Format>(state);
    AttentionPhase<kHeadDim>(state);
    OutputPhase<Format, kHeadDim>(state);
    GateUpPhase<Format>(state);
    DownPhase<Format>(state);
  }
  if (static_cast<int>(threadIdx.x) < state.rows) {
    args.residual[state.first_row + threadIdx.x] = state.residual;
  }
  // The last block to leave readies the counters for the next step: none waits any more.
  Wait(state);
  unsigned* counters = Workspace<unsigned>(0);
  if (threadIdx.x == 0 && atomicInc(counters + 32, gridDim.x - 1) == gridDim.x - 1) {
    atomicExch(counters, 0u);
  }
}

template <typename Format, int kHeadDim>
__global__ void __launch_bounds__(kTokenThreads + 32, 1)
    TokenStepKernel(const __grid_constant__ TokenLaunch launch) {
  TokenShared& shared = Shared();
  if (threadIdx.x == 0) {
    shared.launch = launch;
    for (int i = 0; i < launch.plan.stages; ++i) {
      BarrierInit(&shared.full[i], 1);
      BarrierInit(&shared.empty[i], kTokenStageWarps);
    }
    BarrierInit(&shared.routed, max(launch.args.shape.top_k, 1));
    BarrierInitFence();
  }
  if (threadIdx.x < kTokenTopKMax) shared.choice[threadIdx.x] = 0;
  LoadLayer(&shared.layers[0], launch.args.layers, threadIdx.x, blockDim.x);
  __syncthreads();
  if (threadIdx.x >= kTokenThreads) {
    ProduceAll();
    return;
  }
  if (threadIdx.x < kTokenProducts) {
    MakePart(threadIdx.x, shared.layers[0], shared.parts[0][threadIdx.x]);
  }
  TokenSync();
  Compute<Format, kHeadDim>();
}

template <typename Format, int kHeadDim>
absl::Status LaunchTokenKernel(const TokenLaunch& launch) {
  const auto kernel = &TokenStepKernel<Format, kHeadDim>;
  const cudaError_t raised =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, launch.plan.shared_total);
  if (raised != cudaSuccess) return CudaStatus(raised, "token_step");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(launch.plan.blocks);
  config.blockDim = dim3(kTokenThreads + 32);
  config.dynamicSmemBytes = launch.plan.shared_total;
  config.stream = launch.args.stream;
  cudaLaunchAttribute attribute;  // all blocks at once, or an error: they wait for each other
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return CudaStatus(cudaLaunchKernelEx(&config, kernel, launch), "token_step");
}

template <typename Format>
absl::Status LaunchTokenFormat(const TokenLaunch& launch) {
  return launch.args.shape.head_dim == 128 ? LaunchTokenKernel<Format, 128>(launch)
                                           : LaunchTokenKernel<Format, 64>(launch);
}

}  // namespace conclave
