#include <algorithm>
#include <vector>

#include "absl/types/span.h"
#include "kernels/moe_gate/moe_gate.h"
#include "kernels/moe_permute/moe_permute.h"
#include "kernels/moe_route/moe_route.h"

namespace conclave {
namespace {

void BuildTableRef(const PrefillGateArgs& args) {
  const RouteTable& table = args.table;
  const int64_t entries = int64_t{args.tokens} * args.choice.top_k;
  std::vector<int32_t> slot_of_served, served;  // entries whose experts are on this rank
  for (int64_t i = 0; i < entries; ++i) {
    const int32_t expert = args.choice.experts[i];
    const int32_t slot = table.slot_of_expert == nullptr ? expert : table.slot_of_expert[expert];
    table.row_of_entry[i] = -1;
    if (slot < 0) continue;
    slot_of_served.push_back(slot);
    served.push_back(static_cast<int32_t>(i));
  }
  SlotTable sorted;
  BuildSlotTable(slot_of_served, table.slots, sorted);
  std::copy(sorted.first.begin(), sorted.first.end(), table.slot_first);
  for (size_t row = 0; row < sorted.order.size(); ++row) {
    table.order[row] = served[sorted.order[row]];
    table.row_of_entry[table.order[row]] = static_cast<int32_t>(row);
  }
  *table.active_count = 0;
  for (int32_t s = 0; s < table.slots; ++s) {
    if (sorted.first[s + 1] > sorted.first[s]) table.active_slot[(*table.active_count)++] = s;
  }
}

}  // namespace

void PrefillGateRef(const PrefillGateArgs& args) {
  const RouteChoice& choice = args.choice;
  const size_t entries = size_t{1} * args.tokens * choice.top_k;
  MoeGateRef({.logits = {args.logits, args.tokens, args.experts, args.logits_stride},
              .top_k = choice.top_k,
              .normalize = choice.normalize,
              .experts = absl::MakeSpan(choice.experts, entries),
              .weights = absl::MakeSpan(choice.gate_weights, entries)});
  BuildTableRef(args);
}

}  // namespace conclave
