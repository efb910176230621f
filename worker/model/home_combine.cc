#include "worker/model/home_combine.h"

#include <algorithm>

#include "glog/logging.h"
#include "kernels/moe_permute/moe_permute.h"

namespace conclave {

MoeExchangeOptions ExchangeOptionsOf(const Assign& assign, absl::Span<const std::string> nodes,
                                     absl::Duration timeout) {
  const ParallelSpec& spec = assign.plan.spec;
  CHECK_EQ(static_cast<int>(nodes.size()), spec.WorkerCount());
  MoeExchangeOptions options;
  options.kind = assign.plan.exchange;
  options.spec = spec;
  options.position = spec.PositionOf(assign.rank);
  options.hidden = assign.shape.hidden;
  options.top_k = assign.shape.moe.top_k;
  options.timeout = timeout;
  options.payload = assign.plan.payload;
  const int stage_begin = spec.RankOf({options.position.pp, 0, 0});
  options.nodes = NumberNodes(nodes.subspan(stage_begin, spec.StageSize()));
  options.combine = CombineAtHome;
  return options;
}

void CombineAtHome(const PartsToCombine& parts) {
  const int64_t tokens = parts.tokens();
  // The kernel adds to what is there: -0 is what every sum leaves as it is.
  std::fill(parts.out, parts.out + tokens * parts.hidden, -0.0f);
  CombineArgs args;
  int64_t rows = 0;
  for (const int32_t row : parts.part_row) rows = std::max<int64_t>(rows, row + 1);
  args.parts = {parts.parts, rows, parts.hidden, parts.hidden};
  args.part_row = parts.part_row;
  args.weights = parts.weights;
  args.top_k = parts.top_k;
  args.slices = parts.slices;
  args.out = {parts.out, tokens, parts.hidden, parts.hidden};
  Combine(args);
}

}  // namespace conclave
