// StepBuffers: all scratch of a step, sized by its tokens. Buffers grow to the largest step seen
// and stay: no allocation in a steady state. Owned by the Model; used on the engine's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/moe_permute/moe_permute.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// Floats at a 64-byte boundary. Growing loses the contents. Move-only.
class FloatBuffer {
 public:
  FloatBuffer() = default;
  FloatBuffer(const FloatBuffer&) = delete;
  FloatBuffer& operator=(const FloatBuffer&) = delete;
  ~FloatBuffer();

  // The first rows * cols floats as a matrix; contents are undefined after a growth.
  Rows Take(int64_t rows, int64_t cols);
  float* data() const { return data_; }
  int64_t capacity() const { return capacity_; }

 private:
  float* data_ = nullptr;
  int64_t capacity_ = 0;
};

struct StepBuffers {
  FloatBuffer hidden;     // [tokens, hidden] the residual stream
  FloatBuffer normed;     // [tokens, hidden]
  FloatBuffer delta;      // [tokens, hidden] what a block adds to the residual
  FloatBuffer qkv;        // [tokens, (heads + 2 kv_heads) of the rank * head_dim]
  FloatBuffer attention;  // [tokens, heads of the rank * head_dim]
  FloatBuffer qk_sums;    // [2, tokens] sums of squares of queries and of keys (full-width norm)
  FloatBuffer router;     // [tokens, experts]
  FloatBuffer computed;   // [entries, hidden] outputs of this rank's experts
  FloatBuffer head_rows;  // [rows of a block, hidden]
  FloatBuffer logits;     // [rows of a block, vocab]
  FloatBuffer gathered;   // [rows of a block, vocab] slices as they come from the tp group

  std::vector<int32_t> chosen;      // [tokens, top_k] experts
  std::vector<float> gate_weights;  // [tokens, top_k]
  SlotTable slot_table;             // entries of this rank's experts
};

}  // namespace conclave
