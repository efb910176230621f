// PanelJob: the piece of a matrix product that one thread does: some panels of a packed matrix
// against some rows, given by pointers, so that callers need not gather them. RunPanels is the
// inner kernel of gemm and expert_ffn; their results follow the order of gemm.h. A value that
// borrows; RunPanels may run on any thread.
#pragma once

#include <cstdint>

#include "kernels/gemm/packed_matrix.h"

namespace conclave {

struct PanelJob {
  const float* const* x = nullptr;  // [tokens] rows of weights->inputs() floats
  float* const* y = nullptr;        // [tokens] destinations
  int64_t y_offset = 0;             // output n goes to y[t][y_offset + n - 16 * panel_begin]
  int64_t tokens = 0;
  const PackedMatrix* weights = nullptr;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
};

// Outputs beyond weights->outputs() (padding) are not stored.
void RunPanels(const PanelJob& job);

// Tokens whose partial sums are kept in the cache at once: how many of `left` tokens to take next,
// so that the pieces of a long batch are about equal and a multiple of the kernel's block of six.
inline constexpr int64_t kChunkTokens = 144;
int64_t NextChunk(int64_t left);

// How a product is cut into tasks: pure, so that it is tested without running anything.
// `bytes_per_weight` 2 or 4.
struct GemmShape {
  int64_t panels = 0;
  int64_t inputs = 0;
  int64_t tokens = 0;
  int64_t bytes_per_weight = 2;
};
struct GemmGrid {
  int64_t panels_per_task = 0;
  int64_t tokens_per_task = 0;
};

// Rough nanoseconds on one thread; only for choosing the size of tasks.
int64_t EstimateNanoseconds(const GemmShape& shape);

// How many tasks are worth handing to `threads` threads for work of that length.
int64_t TaskCount(int64_t nanoseconds, int threads);

// About `tasks` tasks: outputs first, in groups that the kernel likes; then tokens, when there are
// many.
GemmGrid CutGemm(const GemmShape& shape, int64_t tasks);

}  // namespace conclave
