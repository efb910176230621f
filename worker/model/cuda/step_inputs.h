// StepInputs: what a step of the fused kernels is told, as arrays in device memory that one copy
// brings there: tokens, positions, page tables, rows to sample and how. Places depend on the
// capacity alone, so that a captured graph finds the next step's values where it found the last
// one's. Host sides alternate, since a step may be prepared while the one before runs. Owned by
// the FastModel; engine's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/device/cuda_memory.h"
#include "comm/types/step_plan.h"
#include "worker/model/step_batch.h"

namespace conclave {

// Upper bounds of a batch. Padding fills up to `tokens`, `sequences` and `rows`.
struct StepCapacity {
  int32_t tokens = 0;
  int32_t sequences = 0;
  int32_t rows = 0;
  bool operator==(const StepCapacity&) const = default;
};

// Device pointers into the inputs of a capacity.
struct StepInputsView {
  const int32_t* token_id = nullptr;        // [tokens]
  const int32_t* token_source = nullptr;    // [tokens] row sampled a step ago, or -1: token_id
  const int32_t* token_position = nullptr;  // [tokens]
  const int32_t* token_sequence = nullptr;  // [tokens]
  const int32_t* first_token = nullptr;     // [sequences + 1]
  const int32_t* position = nullptr;        // [sequences] of the first token
  const int32_t* first_page = nullptr;      // [sequences + 1]
  const int32_t* page_table = nullptr;
  const int32_t* row_token = nullptr;     // [rows] token whose logits are wanted
  const int32_t* row_slot = nullptr;      // [rows] where the sampled token is kept
  const int64_t* row_position = nullptr;  // [rows] of the token being chosen
  const float* temperature = nullptr;     // [rows]
  const int32_t* top_k = nullptr;         // [rows]
  const float* top_p = nullptr;           // [rows]
  const float* min_p = nullptr;           // [rows]
  const uint64_t* seed = nullptr;         // [rows]
};

class StepInputs {
 public:
  // `spare_page` takes what padding writes.
  explicit StepInputs(int32_t spare_page) : spare_page_(spare_page) {}

  struct Batch {
    const StepBatch& batch;
    // [tokens] slot of the token sampled a step ago that is the input, or -1.
    absl::Span<const int32_t> sources;
    // The head rows to compute, in order. Those that sample keep their token in the next slot from
    // `first_slot` on; padding rows go to the slots behind.
    absl::Span<const HeadRow> rows;
    int32_t first_slot = 0;
  };
  // Fills the host side in turn and copies it to the device.
  absl::Status Send(const Batch& batch, const StepCapacity& capacity, CudaStream stream);

  StepInputsView View(const StepCapacity& capacity) const;

 private:
  struct Layout;
  struct Side {
    PinnedBuffer memory;
    CudaEvent copied;
    bool used = false;
  };
  struct Writer;
  absl::Status Reserve(int64_t bytes);
  void FillSequences(const Writer& to, const Layout& layout, const Batch& in,
                     const StepCapacity& capacity) const;
  static void FillRows(const Writer& to, const Layout& layout, const Batch& in,
                       const StepCapacity& capacity);

  const int32_t spare_page_;
  Side sides_[2];
  int turn_ = 0;
  DeviceBuffer device_;
};

}  // namespace conclave
