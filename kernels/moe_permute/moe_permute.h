// moe_permute: table routing (paper, section V-C): instead of one-hot einsums, a table of which
// rows each expert slot serves, and data-layout copies of rows by that table.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// Entries grouped by slot: slot s serves entries order[first[s] .. first[s + 1]), in entry order.
struct SlotTable {
  std::vector<int32_t> first;  // [slots + 1]
  std::vector<int32_t> order;  // [entries] indices of entries
};

// slot_of_entry [entries], each in [0, slots). A counting sort: stable. Reuses the table's memory.
void BuildSlotTable(absl::Span<const int32_t> slot_of_entry, int slots, SlotTable& table);

// out.row(i) = x.row(index[i]).
void GatherRows(ConstRows x, absl::Span<const int32_t> index, Rows out);

// The combine: out.row(t) += sum over choices c in order of weights[t, c] * (sum over slices s in
// the fixed tree of part(t, c, s)), where part(t, c, s) = parts.row(part_row[(t * top_k + c) *
// slices + s]). `out` holds the residual.
struct CombineArgs {
  ConstRows parts;
  absl::Span<const int32_t> part_row;  // [tokens, top_k, slices]
  absl::Span<const float> weights;     // [tokens, top_k]
  int top_k = 0;
  int slices = 1;
  Rows out;  // [tokens, hidden]
};
void Combine(const CombineArgs& args);
void CombineRef(const CombineArgs& args);

}  // namespace conclave
