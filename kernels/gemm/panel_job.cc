#include "kernels/gemm/panel_job.h"

#include <algorithm>

namespace conclave {
namespace {

constexpr int64_t kGroup = 4;       // panels that the kernel runs at once
constexpr int64_t kTokensMin = 24;  // fewer would not pay for reading the weights once more
constexpr int64_t kTokenBlock = 6;  // tokens that the kernel runs at once

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t NextChunk(int64_t left) {
  const int64_t chunks = CeilDiv(left, kChunkTokens);
  if (chunks <= 1) return left;
  return CeilDiv(CeilDiv(left, chunks), kTokenBlock) * kTokenBlock;
}

int64_t EstimateNanoseconds(const GemmShape& shape) {
  constexpr int64_t kBytesPerNanosecond = 10, kFlopsPerNanosecond = 40;
  const int64_t weights = shape.panels * PackedMatrix::kPanel * shape.inputs;
  return std::max(weights * shape.bytes_per_weight / kBytesPerNanosecond,
                  weights * shape.tokens * 2 / kFlopsPerNanosecond);
}

int64_t TaskCount(int64_t nanoseconds, int threads) {
  constexpr int64_t kTaskNanoseconds = 8000;  // ten times what an empty parallel loop costs
  constexpr int64_t kTasksPerThread = 16;     // enough for an even finish on a busy machine
  if (threads == 1) return 1;
  return std::clamp<int64_t>(nanoseconds / kTaskNanoseconds, 1, kTasksPerThread * threads);
}

GemmGrid CutGemm(const GemmShape& shape, int64_t tasks) {
  GemmGrid grid{std::max<int64_t>(shape.panels, 1), std::max<int64_t>(shape.tokens, 1)};
  if (tasks <= 1) return grid;
  grid.panels_per_task = std::max<int64_t>(1, CeilDiv(shape.panels, tasks));
  // Whole groups, unless that would leave threads idle that only outputs can feed.
  const bool many_tokens = shape.tokens >= 2 * kTokensMin;
  if (grid.panels_per_task > 2 || many_tokens) {
    grid.panels_per_task = CeilDiv(grid.panels_per_task, kGroup) * kGroup;
  }
  const int64_t panel_tasks = CeilDiv(shape.panels, grid.panels_per_task);
  if (panel_tasks < tasks && many_tokens) {
    const int64_t pieces = std::min(CeilDiv(tasks, panel_tasks), shape.tokens / kTokensMin);
    grid.tokens_per_task = CeilDiv(CeilDiv(shape.tokens, pieces), kTokenBlock) * kTokenBlock;
  }
  return grid;
}

}  // namespace conclave
