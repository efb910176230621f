// moe_route: everything of a MoE layer around its expert products (paper, section V-C: a table of
// which rows an expert serves instead of one-hot einsums). Decode has one kernel from the residual
// stream to the routing table; prefill has the router's product, the gate with its table, and the
// permutation of rows; the weighted combine is add_norm's. Softmax and top-k as kernels/moe_gate.
// What is written depends on the inputs alone, never on timing. The caller owns all memory; any
// thread, on its current device; nothing waits on the host; capturable.
// An entry is token * top_k + choice. A slot holds one expert of this rank.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/add_norm/add_norm.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

inline constexpr int kRouteExpertsMax = 512;  // and slots
inline constexpr int kRouteTopKMax = 16;
inline constexpr int kDecodeGateTokensMax = 64;

// What the gate chooses for each token.
struct RouteChoice {
  int32_t top_k = 0;
  bool normalize = true;          // chosen weights sum to 1
  int32_t* experts = nullptr;     // [tokens, top_k] in order of falling probability
  float* gate_weights = nullptr;  // [tokens, top_k]
};

// Entries by slot and, in a slot, ascending: slot s serves order[slot_first[s]..slot_first[s+1]).
struct RouteTable {
  int32_t slots = 0;
  const int32_t* slot_of_expert = nullptr;  // [experts], -1: not on this rank, its entries are
                                            // skipped; none: a slot is its expert
  int32_t* slot_first = nullptr;            // [slots + 1]
  int32_t* order = nullptr;                 // [entries], the first slot_first[slots] are written
  int32_t* row_of_entry = nullptr;          // [entries] its place in order, -1 when skipped
  int32_t* active_count = nullptr;          // [1] slots with entries
  int32_t* active_slot = nullptr;           // [slots] ascending, the first active_count are written
};

// Decode, tokens <= 64: add_norm, router logits, gate and table in one kernel. The logits come from
// the norm before it is rounded to bf16. Bytes: those of add_norm and the router. While it waits
// for the kernel before it, blocks on other processors bring `prefetch` to L2.
struct DecodeGateArgs {
  AddNormArgs norm;   // with `normed`
  WeightView router;  // bf16 [experts, hidden]
  RouteChoice choice;
  RouteTable table;
  int32_t* ticket = nullptr;       // [1], zero before the first call and after each
  const void* prefetch = nullptr;  // 16-byte aligned, or none
  int64_t prefetch_bytes = 0;      // a multiple of 16
};
absl::Status DecodeGate(const DecodeGateArgs& args, CudaStream stream, bool dependent);

// Prefill: logits = x W^T. Bytes: x once, the router from L2. Flops: 2 * tokens * hidden * experts.
struct RouterLogitsArgs {
  int32_t tokens = 0;
  const void* x = nullptr;    // bf16 [tokens, x_stride]; 16-byte aligned
  int64_t x_stride = 0;       // elements; a multiple of 8
  WeightView router;          // bf16 [experts, hidden], hidden a multiple of 8
  float* logits = nullptr;    // [tokens, logits_stride]
  int64_t logits_stride = 0;  // >= experts; even
};
absl::Status RouterLogits(const RouterLogitsArgs& args, CudaStream stream, bool dependent);

// Prefill: softmax, top-k and the table of any number of tokens; two kernels. Bytes: the logits
// once; entries * 20; chunks of 64 tokens each read the counts of all chunks from L2.
struct PrefillGateArgs {
  int32_t tokens = 0;
  int32_t experts = 0;
  const float* logits = nullptr;  // [tokens, logits_stride]
  int64_t logits_stride = 0;
  RouteChoice choice;
  RouteTable table;
  void* scratch = nullptr;  // RouteScratchBytes; 16-byte aligned, need not be cleared
};
int64_t RouteScratchBytes(int32_t tokens, int32_t slots);
absl::Status PrefillGate(const PrefillGateArgs& args, CudaStream stream, bool dependent);

// Row row_of_entry[entry] of x_perm = the row of the entry's token. Bytes: each row read once and
// written top_k times.
struct PermuteArgs {
  int32_t tokens = 0;
  int32_t hidden = 0;  // a multiple of 8
  int32_t top_k = 0;
  const void* x = nullptr;                // bf16 [tokens, hidden]; 16-byte aligned
  const int32_t* row_of_entry = nullptr;  // [tokens * top_k]
  void* x_perm = nullptr;                 // bf16 [entries, hidden]; 16-byte aligned
};
absl::Status PermuteRows(const PermuteArgs& args, CudaStream stream, bool dependent);

// The gate and its table from given logits, by MoeGateRef and BuildSlotTable; the host's memory.
void PrefillGateRef(const PrefillGateArgs& args);

}  // namespace conclave
