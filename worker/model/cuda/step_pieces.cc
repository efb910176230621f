#include "worker/model/cuda/step_pieces.h"

#include <algorithm>

namespace conclave {
namespace {

// Tokens [begin, begin + count) of a slice.
SequenceSlice PartOfSlice(const SequenceSlice& slice, size_t begin, size_t count,
                          int32_t page_tokens) {
  SequenceSlice part = slice;
  part.position = slice.position + static_cast<int32_t>(begin);
  part.tokens.assign(slice.tokens.begin() + begin, slice.tokens.begin() + begin + count);
  const size_t pages = (part.position + count + page_tokens - 1) / page_tokens;
  part.pages.resize(std::min(part.pages.size(), pages));
  part.sample = slice.sample && begin + count == slice.tokens.size();
  return part;
}

}  // namespace

std::vector<StepPlan> CutIntoPieces(const StepPlan& plan, int32_t tokens_max, int32_t page_tokens) {
  std::vector<StepPlan> pieces;
  int32_t room = 0;
  for (const SequenceSlice& slice : plan.batch) {
    for (size_t begin = 0; begin < slice.tokens.size();) {
      if (room == 0) {
        pieces.push_back({plan.epoch, plan.step, {0}, {}});
        room = tokens_max;
      }
      const size_t count = std::min<size_t>(room, slice.tokens.size() - begin);
      pieces.back().batch.push_back(PartOfSlice(slice, begin, count, page_tokens));
      pieces.back().tokens_by_dp[0] += static_cast<int32_t>(count);
      room -= static_cast<int32_t>(count);
      begin += count;
    }
  }
  return pieces;
}

}  // namespace conclave
