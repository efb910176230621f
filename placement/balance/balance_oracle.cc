#include "placement/balance/balance_oracle.h"

#include <algorithm>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coin/Cbc_C_Interface.h"

namespace conclave {
namespace {

// Variables, by column:
//   T             the makespan, minimised
//   x[e, r, k]    binary: rank r holds one of k copies of expert e
//   y[e, k]       binary: expert e has k copies
// Constraints:
//   sum over k of y[e, k] = 1                     each expert has one count
//   sum over r of x[e, r, k] - k y[e, k] = 0      and as many copies
//   sum over e, k of x[e, r, k] <= slots[r]
//   sum over e, k of load[e] / k x[e, r, k] - speed[r] T <= 0
// A share load[e] / k is exact since x names the count, so the program is linear.
struct Program {
  int experts, ranks, counts;
  int X(int e, int r, int k) const { return 1 + (e * ranks + r) * counts + k - 1; }
  int Y(int e, int k) const { return 1 + experts * ranks * counts + e * counts + k - 1; }
};

struct Row {
  std::vector<int> columns;
  std::vector<double> values;
  void Add(int column, double value) {
    columns.push_back(column);
    values.push_back(value);
  }
  void To(Cbc_Model* model, char sense, double side) const {
    Cbc_addRow(model, "", static_cast<int>(columns.size()), columns.data(), values.data(), sense,
               side);
  }
};

void AddRows(const Program& program, const std::vector<double>& share,
             const std::vector<BalanceRank>& ranks, Cbc_Model* model) {
  for (int e = 0; e < program.experts; ++e) {
    Row one;
    for (int k = 1; k <= program.counts; ++k) {
      one.Add(program.Y(e, k), 1);
      Row copies;
      copies.Add(program.Y(e, k), -k);
      for (int r = 0; r < program.ranks; ++r) copies.Add(program.X(e, r, k), 1);
      copies.To(model, 'E', 0);
    }
    one.To(model, 'E', 1);
  }
  for (int r = 0; r < program.ranks; ++r) {
    Row slots, time;
    time.Add(0, -ranks[r].speed);
    for (int e = 0; e < program.experts; ++e) {
      for (int k = 1; k <= program.counts; ++k) {
        slots.Add(program.X(e, r, k), 1);
        time.Add(program.X(e, r, k), share[e] / k);
      }
    }
    slots.To(model, 'L', ranks[r].slots);
    time.To(model, 'L', 0);
  }
}

}  // namespace

absl::StatusOr<OptimalMakespan> SolveExactly(const LoadProfile& load, int layer,
                                             const std::vector<BalanceRank>& ranks, int copies_max,
                                             double seconds_max) {
  const Program program{load.experts(), static_cast<int>(ranks.size()),
                        std::min(static_cast<int>(ranks.size()), std::max(copies_max, 1))};
  double total = 0, speed = 0;
  for (int e = 0; e < program.experts; ++e) total += load.at(layer, e);
  for (const BalanceRank& rank : ranks) speed += rank.speed;
  std::vector<double> share;  // in units that make the ideal time 1
  for (int e = 0; e < program.experts; ++e) {
    share.push_back(load.at(layer, e) / total * speed);
  }
  const std::unique_ptr<Cbc_Model, void (*)(Cbc_Model*)> owner(Cbc_newModel(), &Cbc_deleteModel);
  Cbc_Model* model = owner.get();
  Cbc_addCol(model, "T", 1, 1e9, 1, 0, 0, nullptr, nullptr);
  const int binaries = program.Y(program.experts - 1, program.counts);
  for (int i = 0; i < binaries; ++i) Cbc_addCol(model, "", 0, 1, 0, 1, 0, nullptr, nullptr);
  AddRows(program, share, ranks, model);
  Cbc_setLogLevel(model, 0);
  Cbc_setMaximumSeconds(model, seconds_max);
  Cbc_setAllowableFractionGap(model, 1e-4);
  Cbc_solve(model);
  if (Cbc_getNumCols(model) == 0 || Cbc_bestSolution(model) == nullptr) {
    return absl::InternalError(absl::StrCat("CBC found no placement, status ", Cbc_status(model)));
  }
  return OptimalMakespan{Cbc_getObjValue(model), Cbc_getBestPossibleObjValue(model)};
}

}  // namespace conclave
