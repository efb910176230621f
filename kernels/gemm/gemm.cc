#include "kernels/gemm/gemm.h"

#include <algorithm>
#include <vector>

#include "glog/logging.h"
#include "kernels/gemm/panel_job.h"

namespace conclave {
namespace {

// Row pointers of a product; kept per thread so that a step allocates nothing.
struct RowPointers {
  std::vector<const float*> x;
  std::vector<float*> y;

  void Set(ConstRows x_rows, Rows y_rows) {
    x.clear();
    y.clear();
    for (int64_t t = 0; t < x_rows.rows; ++t) {
      x.push_back(x_rows.row(t));
      y.push_back(y_rows.row(t));
    }
  }
};

RowPointers& ThreadRowPointers() {
  // tidy: allow(mutable-global) scratch memory of a kernel, one per thread
  thread_local RowPointers pointers;
  return pointers;
}

void CheckShapes(ConstRows x, const PackedMatrix& weights, Rows y) {
  CHECK_EQ(x.rows, y.rows);
  CHECK_EQ(x.cols, weights.inputs());
  CHECK_EQ(y.cols, weights.outputs());
}

}  // namespace

void Gemm(ConstRows x, const PackedMatrix& weights, Rows y, ComputePool& pool) {
  CheckShapes(x, weights, y);
  const int64_t panels = weights.panels();
  if (x.rows == 0 || panels == 0) return;
  RowPointers& rows = ThreadRowPointers();
  rows.Set(x, y);
  const GemmShape shape{.panels = panels,
                        .inputs = weights.inputs(),
                        .tokens = x.rows,
                        .bytes_per_weight = static_cast<int64_t>(DtypeBytes(weights.dtype()))};
  const GemmGrid grid = CutGemm(shape, TaskCount(EstimateNanoseconds(shape), pool.threads()));
  const int64_t token_tasks = (x.rows + grid.tokens_per_task - 1) / grid.tokens_per_task;
  const int64_t panel_tasks = (panels + grid.panels_per_task - 1) / grid.panels_per_task;
  pool.ParallelFor(panel_tasks * token_tasks, [&](int64_t task) {
    const int64_t panel = task / token_tasks * grid.panels_per_task;
    const int64_t token = task % token_tasks * grid.tokens_per_task;
    RunPanels({.x = rows.x.data() + token,
               .y = rows.y.data() + token,
               .y_offset = panel * PackedMatrix::kPanel,
               .tokens = std::min(grid.tokens_per_task, x.rows - token),
               .weights = &weights,
               .panel_begin = panel,
               .panel_end = std::min(panel + grid.panels_per_task, panels)});
  });
}

void GemmPanels(ConstRows x, const PackedMatrix& weights, int64_t panel_begin, int64_t panel_end,
                Rows y) {
  CheckShapes(x, weights, y);
  CHECK(panel_begin >= 0 && panel_begin <= panel_end && panel_end <= weights.panels());
  RowPointers& rows = ThreadRowPointers();
  rows.Set(x, y);
  RunPanels({.x = rows.x.data(),
             .y = rows.y.data(),
             .y_offset = panel_begin * PackedMatrix::kPanel,
             .tokens = x.rows,
             .weights = &weights,
             .panel_begin = panel_begin,
             .panel_end = panel_end});
}

}  // namespace conclave
