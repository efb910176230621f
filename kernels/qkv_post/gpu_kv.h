// What the attention kernels of a GPU share: the bf16 KV cache of a layer, the batch's metadata on
// the device, and the options of a layer's attention. Borrowed device memory, passed to kernels by
// value; values, any thread. Counts on the host are upper bounds that a captured launch keeps;
// which tokens and pages there really are, the kernels read from the device arrays.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace conclave {

// One layer's cache, as KvLayer of kernels/attention: `pages` pages, each
// [2 (K, V)][kv_heads][page_tokens][head_dim] bf16; 128-byte aligned.
struct GpuKvLayer {
  void* data = nullptr;
  int32_t pages = 0;
  int32_t page_tokens = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
};

// Sequence s has tokens [first_token[s], first_token[s + 1]) of the batch at positions position[s],
// position[s] + 1, ...; position p lies in page page_table[first_page[s] + p / page_tokens].
// Sequences without tokens are allowed.
struct GpuBatch {
  const int32_t* first_token = nullptr;  // [sequences + 1]
  const int32_t* position = nullptr;     // [sequences]
  const int32_t* first_page = nullptr;   // [sequences + 1]
  const int32_t* page_table = nullptr;   // page numbers
  int32_t sequences = 0;
  int32_t tokens = 0;  // at most; rows of q and out
};

inline constexpr int kGpuHeadDimMax = 256;
inline constexpr int kGpuSequencesMax = 1024;

// RMS norm of q and k before rope.
enum class GpuQkNorm : uint8_t {
  kNone = 0,
  kPerHead = 1,    // of each head; weights [head_dim]
  kFullWidth = 2,  // over all heads of q, and of k; weights [heads * head_dim], [kv_heads *
                   // head_dim]
};
struct QkNormWeights {
  GpuQkNorm kind = GpuQkNorm::kNone;
  const float* q = nullptr;
  const float* k = nullptr;
  float epsilon = 1e-6f;
};

// What a layer's attention may do besides plain causal softmax. None is implemented: a launch with
// one set is refused.
struct AttentionVariant {
  int32_t window_tokens = 0;            // attend to the last so many positions only
  const float* sinks = nullptr;         // [heads] logits without a value
  const float* alibi_slopes = nullptr;  // [heads]

  bool plain() const { return window_tokens == 0 && sinks == nullptr && alibi_slopes == nullptr; }
};

// What all launches check on the host; InvalidArgument names what does not fit.
absl::Status CheckGpuCache(const GpuKvLayer& cache, int32_t heads);
absl::Status CheckGpuBatch(const GpuBatch& batch);
absl::Status CheckQkNorm(const QkNormWeights& norm);
struct GpuRows {  // bf16
  const char* name;
  const void* data;
  int64_t stride;
};
absl::Status CheckGpuRows(const GpuRows& rows, int64_t columns);

}  // namespace conclave
