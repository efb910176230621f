#include "kernels/moe_permute/moe_permute.h"

#include <algorithm>

#include "glog/logging.h"
#include "kernels/moe_permute/combine_row.h"

namespace conclave {

void BuildSlotTable(absl::Span<const int32_t> slot_of_entry, int slots, SlotTable& table) {
  CHECK_GE(slots, 0);
  table.first.assign(slots + 1, 0);
  table.order.resize(slot_of_entry.size());
  for (int32_t slot : slot_of_entry) {
    CHECK(slot >= 0 && slot < slots) << slot << " of " << slots;
    ++table.first[slot + 1];
  }
  for (int s = 0; s < slots; ++s) table.first[s + 1] += table.first[s];
  // Filling moves each start to its end, which is the next slot's start: shift back afterwards.
  for (size_t i = 0; i < slot_of_entry.size(); ++i) {
    table.order[table.first[slot_of_entry[i]]++] = static_cast<int32_t>(i);
  }
  std::copy_backward(table.first.begin(), table.first.end() - 1, table.first.end());
  table.first[0] = 0;
}

void GatherRows(ConstRows x, absl::Span<const int32_t> index, Rows out) {
  CHECK_EQ(out.rows, static_cast<int64_t>(index.size()));
  CHECK_EQ(out.cols, x.cols);
  for (size_t i = 0; i < index.size(); ++i) {
    CHECK(index[i] >= 0 && index[i] < x.rows) << index[i] << " of " << x.rows;
    std::copy_n(x.row(index[i]), x.cols, out.row(i));
  }
}

void CheckCombineArgs(const CombineArgs& args) {
  CHECK_GT(args.top_k, 0);
  CHECK(args.slices == 1 || args.slices == 2 || args.slices == 4 || args.slices == 8)
      << args.slices;
  CHECK_EQ(static_cast<int64_t>(args.weights.size()), args.out.rows * args.top_k);
  CHECK_EQ(args.part_row.size(), args.weights.size() * args.slices);
  CHECK_EQ(args.parts.cols, args.out.cols);
  for (int32_t row : args.part_row) {
    CHECK(row >= 0 && row < args.parts.rows) << row << " of " << args.parts.rows;
  }
}

void Combine(const CombineArgs& args) {
  CheckCombineArgs(args);
  for (int64_t t = 0; t < args.out.rows; ++t) CombineRow(args, t);
}

}  // namespace conclave
