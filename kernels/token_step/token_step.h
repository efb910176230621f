// token_step: all layers of a model for one token of one sequence (decode at batch 1) in one
// persistent kernel. A kernel boundary costs more than a layer's memory time allows, so one block
// stays on every processor, grid barriers separate the phases of a layer (qkv, attention,
// o-projection with router, gate_up, down), and a producer warp streams each block's weights
// through a ring in shared memory across those barriers, since weights depend on nothing but the
// routing. The lm head is not part of it. The caller owns all memory; nothing is allocated or
// waited for on the host; any thread, on its current device; capturable in a graph. All sums have a
// fixed order: equal inputs give equal bits on equal chips.
// Bytes: the weights of every layer once, of its chosen experts only; its cached keys and values
// once per query head from L2. Flops: 2 * weights + 4 * heads * head_dim * context a layer.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"
#include "kernels/qkv_post/gpu_kv.h"

namespace conclave {

enum class TokenQkNorm : uint8_t {
  kNone = 0,
  kPerHead = 1,    // weights [head_dim]
  kFullWidth = 2,  // weights [heads * head_dim] and [kv_heads * head_dim]
};

// One layer; an array of them lies in device memory. Weights have the format of the shape, the
// router is bf16. A dense layer has a router without data, and one matrix each in gate_up and down.
struct TokenLayer {
  WeightView qkv;      // [(heads + 2 * kv_heads) * head_dim, hidden]: q, k, v
  WeightView output;   // [hidden, heads * head_dim]
  WeightView router;   // [experts, hidden]
  WeightView gate_up;  // [2 * ffn, hidden] in GateOutput / UpOutput order; matrices are experts
  WeightView down;     // [hidden, ffn]
  const float* input_norm = nullptr;  // [hidden]
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const float* ffn_norm = nullptr;  // [hidden]
  GpuKvLayer cache;                 // all layers have one shape of page
};

// What all layers of a model have in common.
struct TokenShape {
  int32_t layers = 0;
  int32_t moe_layers = 0;  // layers with a router
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  TokenQkNorm qk_norm = TokenQkNorm::kNone;
  int32_t experts = 0;  // of MoE layers; 0 without
  int32_t top_k = 0;
  bool normalize = true;  // chosen gate weights sum to 1
  int32_t ffn = 0;        // of an expert
  int32_t dense_ffn = 0;  // of dense layers; 0 without
  float epsilon = 1e-6f;
  WeightFormat format = WeightFormat::kBf16;
  int32_t group = 0;  // inputs that share a scale, as in WeightView
  int32_t page_tokens = 16;
};

struct TokenStepArgs {
  TokenShape shape;
  const TokenLayer* layers = nullptr;   // device, [layers]
  float* residual = nullptr;            // [hidden] in and out; 16-byte aligned
  const int32_t* position = nullptr;    // [1]: tokens before this one
  const int32_t* page_table = nullptr;  // of the sequence
  const float* rope = nullptr;          // FillRopeTable's
  // TokenStepWorkspaceBytes, 256-byte aligned, zero before the first step; steps that share it run
  // one after the other. A step that failed leaves it undefined.
  void* workspace = nullptr;
  int32_t* chosen = nullptr;   // [moe_layers][top_k] experts of this token, or none
  uint64_t* stamps = nullptr;  // [layers][processors][kTokenStamps] nanoseconds, or none
  CudaStream stream = nullptr;
};

// Of a block in a layer: when it passed barriers, had its activations, ended products; see
// token_step_bench.
inline constexpr int kTokenStamps = 48;

// Whether this kernel serves the shape on the current device: hidden a multiple of 64 up to 8192,
// heads of 64 or 128, top_k <= 8, experts <= 512, ffn a multiple of 8, activations and a ring of
// weights that fit into shared memory. Other shapes take the chain of kernels. False without CUDA.
bool TokenStepRuns(const TokenShape& shape);

// 0 for a shape that does not run.
int64_t TokenStepWorkspaceBytes(const TokenShape& shape);

// Whether these layers, on the host with pointers of the device, are of the shape: their order of
// dense and MoE layers is free. To be called once, before they are copied to the device.
absl::Status CheckTokenLayers(const TokenShape& shape, absl::Span<const TokenLayer> layers);

// InvalidArgument names what does not fit.
absl::Status TokenStep(const TokenStepArgs& args);

}  // namespace conclave
