// ExactBuffers: the device memory of a step of the exact kernels: activations in fp32, and the
// batch as the kernels read it. Grows to the largest step seen. Owned by the ExactModel; engine's
// thread, its device current.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "comm/device/cuda_memory.h"

namespace conclave {

// fp32 rows in device memory.
struct DeviceRows {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements

  int64_t bytes() const { return rows * stride * static_cast<int64_t>(sizeof(float)); }
  DeviceRows Columns(int64_t begin, int64_t count) const {
    return {data + begin, rows, count, stride};
  }
};

// Device memory that grows; growing loses the contents and waits for the device.
class GrowingBuffer {
 public:
  absl::StatusOr<DeviceRows> Rows(int64_t rows, int64_t cols);
  // `values` copied there; borrowed until the next call. The host side may be reused at once.
  absl::StatusOr<const int32_t*> Ints(absl::Span<const int32_t> values, CudaStream stream);
  absl::StatusOr<const float*> Floats(absl::Span<const float> values, CudaStream stream);
  absl::Status Reserve(int64_t bytes);
  void* data() const { return buffer_.data(); }

 private:
  DeviceBuffer buffer_;
};

struct ExactBuffers {
  GrowingBuffer hidden;     // [tokens, hidden] the residual stream
  GrowingBuffer normed;     // [tokens, hidden]
  GrowingBuffer delta;      // [tokens, hidden]
  GrowingBuffer qkv;        // [tokens, (heads + 2 kv_heads) * head_dim]
  GrowingBuffer attention;  // [tokens, heads * head_dim]
  GrowingBuffer qk_sums;    // [2, tokens]
  GrowingBuffer router;     // [tokens, experts]
  GrowingBuffer rows;       // [rows, hidden] that came for this rank's experts
  GrowingBuffer inner;      // [entries, ffn] inside the experts
  GrowingBuffer computed;   // [entries, hidden]
  GrowingBuffer parts;      // [parts, hidden]
  GrowingBuffer head_rows;  // [rows, hidden]
  GrowingBuffer logits;     // [rows, vocab slice]

  GrowingBuffer ids, first_token, position, first_page, page_table;
  GrowingBuffer cosine, sine;          // [tokens, head_dim / 2]
  GrowingBuffer chosen, gate_weights;  // [tokens, top_k]
  GrowingBuffer slot_first, order, row_of_entry, part_row, head_tokens;
};

}  // namespace conclave
