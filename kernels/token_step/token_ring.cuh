// How weights come to a block of token_step: its share of each phase's tiles, the ring in shared
// memory, and the producer warp that fills the ring phase after phase and layer after layer, ahead
// of the grid's barriers. It waits for room, and for the routing before a MoE layer's experts.
// Every wait ends the kernel with an error after some seconds: a mistake must not hang the device.
// Device code only.
#pragma once

#include <cstdint>
#include <cstdio>

#include "kernels/cuda/ptx.cuh"
#include "kernels/token_step/token_launch.h"

namespace conclave {

inline constexpr int64_t kTokenPatience = 4000000000;  // clocks

__device__ __noinline__ inline void TokenStuck(const char* what, unsigned at) {
  // tidy: allow(console) the last words of a kernel that gives up reach the log by no other way
  printf("token_step: block %d thread %d waits for %s (%u)\n", static_cast<int>(blockIdx.x),
         static_cast<int>(threadIdx.x), what, at);
  __trap();
}

// The products of a layer, in their order.
enum TokenProduct : int { kQkv = 0, kOutput = 1, kGateUp = 2, kDown = 3, kTokenProducts = 4 };

// A block's share of a product: a run of `count` tiles from `first` on of the order in which units
// take them. Sums of a unit are over unit_tiles tiles in a row; tile v meets the inputs of tile
// v % x_tiles. Every `run` tiles another matrix or row group begins.
struct TokenPart {
  const uint8_t* data;
  int64_t matrix_bytes;
  int first, count;
  int first_unit, units;
  int unit_tiles, x_tiles;
  int run, k_tiles;
  int groups;   // of 16 outputs in a matrix
  int choices;  // matrices
  int walked;   // matrices that a unit of kDown goes through; 0: a run is a matrix
};

#ifdef TOKEN_TRACE
#define TOKEN_STAMP(what) TokenStamp(what)
#define TOKEN_STAMP_LAYER(layer) Shared().trace_layer = layer
#else
#define TOKEN_STAMP(what)
#define TOKEN_STAMP_LAYER(layer)
#endif

// At the start of a block's shared memory.
struct TokenShared {
  uint64_t full[kTokenStagesMax];
  uint64_t empty[kTokenStagesMax];
  uint64_t routed;  // top_k arrivals a MoE layer
  TokenLaunch launch;
  // By layer % 2, of the computing warps and of the producer.
  TokenLayer layers[2], producer_layers[2];
  TokenPart parts[2][kTokenProducts], producer_parts[2][kTokenProducts];
  float scale;                           // 1 / rms of the residual of the phase
  float head_squares[2][kTokenWarps];    // of q and k
  float row[kTokenRowsMax];              // normed residual of the block's o-projection rows
  float gate_weights[kTokenTopKMax];
  float chosen_logits[kTokenTopKMax];
  int32_t choice[kTokenTopKMax];
  float logits[kTokenExpertsMax];
#ifdef TOKEN_TRACE
  int trace_layer;
#endif
};
static_assert(sizeof(TokenShared) <= kTokenSharedFixed);

__device__ __forceinline__ TokenShared& Shared() {
  extern __shared__ __align__(1024) uint8_t token_shared[];
  return *reinterpret_cast<TokenShared*>(token_shared);
}
__device__ __forceinline__ uint8_t* SharedAt(int offset) {
  extern __shared__ __align__(1024) uint8_t token_shared[];
  return token_shared + offset;
}

#ifdef TOKEN_TRACE
__device__ __forceinline__ void TokenStamp(int what) {
  if (threadIdx.x != 0) return;
  uint64_t* stamps = Shared().launch.args.stamps;
  if (stamps == nullptr) return;
  const int64_t block = int64_t{Shared().trace_layer} * gridDim.x + blockIdx.x;
  stamps[block * kTokenStamps + what] = clock64();
}
#endif

__device__ __forceinline__ bool TryWait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(SharedAddress(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}
__device__ __noinline__ inline void WaitLong(uint64_t* barrier, uint32_t parity,
                                             const char* what) {
  const int64_t start = clock64();
  while (!TryWait(barrier, parity)) {
    if (clock64() - start > kTokenPatience) TokenStuck(what, parity);
  }
}
__device__ __forceinline__ void WaitOrStop(uint64_t* barrier, uint32_t parity, const char* what) {
  if (!TryWait(barrier, parity)) WaitLong(barrier, parity, what);
}

__device__ __noinline__ inline void MakePart(int product, const TokenLayer& layer,
                                             TokenPart& part) {
  const TokenLaunch& launch = Shared().launch;
  const WeightView& view = product == kQkv      ? layer.qkv
                           : product == kOutput ? layer.output
                           : product == kGateUp ? layer.gate_up
                                                : layer.down;
  const bool routed = layer.router.data != nullptr && product >= kGateUp;
  const int choices = routed ? launch.args.shape.top_k : 1;
  const int splits = product == kQkv ? launch.plan.qkv_splits : 1;
  const int k_tiles = view.input_tiles();
  const int groups = view.output_tiles();
  const int units = groups * (product == kGateUp ? choices : splits);
  part.data = static_cast<const uint8_t*>(view.data);
  part.matrix_bytes = routed ? view.matrix_bytes : 0;  // else the last choice means nothing
  part.k_tiles = k_tiles;
  part.groups = groups;
  part.choices = choices;
  part.walked = product == kDown ? choices : 0;
  part.x_tiles = product == kDown ? choices * k_tiles : k_tiles;
  part.unit_tiles = part.x_tiles / splits;
  part.run = product == kDown ? k_tiles : groups * k_tiles;
  part.first_unit = units * static_cast<int>(blockIdx.x) / launch.plan.blocks;
  part.units = units * (static_cast<int>(blockIdx.x) + 1) / launch.plan.blocks - part.first_unit;
  part.first = part.first_unit * part.unit_tiles;
  part.count = part.units * part.unit_tiles;
}

// Where the ring's next stage is.
struct TokenSlot {
  int slot = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance(int by, int stages) {
    slot += by;
    while (slot >= stages) {
      slot -= stages;
      parity ^= 1;
    }
  }
};

__device__ __forceinline__ void LoadLayer(TokenLayer* to, const TokenLayer* from, int thread,
                                          int threads) {
  constexpr int kWords = sizeof(TokenLayer) / 8;
#pragma unroll 1
  for (int i = thread; i < kWords; i += threads) {
    reinterpret_cast<uint64_t*>(to)[i] = __ldg(reinterpret_cast<const uint64_t*>(from) + i);
  }
}

// ---- the producer

__device__ __noinline__ inline TokenSlot Produce(const TokenPart& of, TokenSlot at) {
  TokenShared& shared = Shared();
  const TokenPart part = of;
  const int stages = shared.launch.plan.stages;
  const int tile_bytes = shared.launch.plan.tile_bytes;
  const int stage_bytes = shared.launch.plan.stage_bytes;
  const int stage_tiles = kTokenStageWarps * shared.launch.plan.warp_tiles;
  uint8_t* const ring = SharedAt(shared.launch.plan.shared_ring);
  const uint64_t policy = EvictFirstPolicy();
  int left = part.count;
  int run_index = part.first / part.run;
  int in_run = part.first - run_index * part.run;
  while (left > 0) {
    WaitOrStop(&shared.empty[at.slot], at.parity ^ 1, "room in the ring");
    uint8_t* to = ring + at.slot * stage_bytes;
    int tiles = min(stage_tiles, left);
    left -= tiles;
    BarrierExpectBytes(&shared.full[at.slot], tiles * tile_bytes);
    while (tiles > 0) {
      const int piece = min(tiles, part.run - in_run);
      const int group = part.walked != 0 ? run_index / part.walked : 0;
      const int matrix = shared.choice[run_index - group * part.walked];
      const int64_t tile = int64_t{group} * part.k_tiles + in_run;
      const uint8_t* from = part.data + matrix * part.matrix_bytes + tile * tile_bytes;
      BulkCopyToShared(to, from, piece * tile_bytes, &shared.full[at.slot], policy);
      to += piece * tile_bytes;
      tiles -= piece;
      in_run += piece;
      if (in_run == part.run) {
        in_run = 0;
        ++run_index;
      }
    }
    at.Advance(1, stages);
  }
  return at;
}

// Asks for the first bytes of the block's share, which is one run, into L2; what is left of budget.
__device__ __noinline__ inline int PrefetchPart(const TokenPart& part, int budget) {
  constexpr int kPiece = 16 * 1024;
  const int tile_bytes = Shared().launch.plan.tile_bytes;
  const uint8_t* from = part.data + int64_t{part.first} * tile_bytes;
  const int bytes = min(budget, part.count * tile_bytes);
#pragma unroll 1
  for (int at = 0; at < bytes; at += kPiece) {
    BulkPrefetchToL2(from + at, min(kPiece, bytes - at));
  }
  return budget - bytes;
}

// All lanes of the producer warp; the first issues.
__device__ __forceinline__ void ProduceAll() {
  TokenShared& shared = Shared();
  const TokenStepArgs& args = shared.launch.args;
  const int lane = threadIdx.x % 32;
  const int layers = args.shape.layers;
  TokenSlot at;
  uint32_t routed = 0;
#pragma unroll 1
  for (int next = 0; next <= layers; ++next) {
    __syncwarp();
    if (next < layers) {
      TokenLayer& layer = shared.producer_layers[next % 2];
      LoadLayer(&layer, args.layers + next, lane, 32);
      __syncwarp();
      if (lane < kTokenProducts) MakePart(lane, layer, shared.producer_parts[next % 2][lane]);
      __syncwarp();
    }
    if (lane != 0 || next == 0) continue;
    const TokenPart* parts = shared.producer_parts[(next - 1) % 2];
    at = Produce(parts[kQkv], at);
    at = Produce(parts[kOutput], at);
    if (next < layers) {
      const TokenPart* further = shared.producer_parts[next % 2];
      const int left = PrefetchPart(further[kQkv], shared.launch.plan.prefetch_bytes);
      PrefetchPart(further[kOutput], left);
    }
    if (shared.producer_layers[(next - 1) % 2].router.data != nullptr) {
      WaitOrStop(&shared.routed, routed, "the routing");
      routed ^= 1;
    }
    at = Produce(parts[kGateUp], at);
    at = Produce(parts[kDown], at);
  }
}

}  // namespace conclave
