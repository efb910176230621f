// Two parallel loops over (slot, panels, rows): gate and up with the activation, then down. In
// decode each task streams a few panels of one expert; in prefill it blocks over the rows of the
// slot. The work per element is in kernels/gemm.
#include "kernels/expert_ffn/expert_ffn.h"

#include <algorithm>
#include <vector>

#include "glog/logging.h"
#include "kernels/gemm/panel_job.h"
#include "kernels/swiglu/swiglu.h"
#include "kernels/tensor/aligned_floats.h"

namespace conclave {
namespace {

constexpr int64_t kPanel = PackedMatrix::kPanel;
constexpr int64_t kGroup = 4;  // panels that the kernel runs at once: two pairs of gate and up

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The rows of one touched slot: positions [first, first + count) of the batch's row pointers.
struct SlotRows {
  const FfnWeights* weights = nullptr;
  int64_t first = 0;
  int64_t count = 0;
};

struct FfnTask {
  const SlotRows* slot = nullptr;
  int64_t panel_begin = 0, panel_end = 0;
  int64_t first = 0, count = 0;  // positions
};

// A call's working memory, kept per thread so that a step allocates nothing once the largest batch
// has been seen.
struct FfnBatch {
  std::vector<SlotRows> slots;
  std::vector<const float*> x;        // [positions] rows of hidden
  std::vector<float*> h, out;         // [positions] rows of the padded ffn; of hidden
  std::vector<const float*> h_const;  // h, as the input of down
  std::vector<FfnTask> tasks;
  AlignedFloats h_memory;

  void Clear() {
    slots.clear();
    x.clear();
    h.clear();
    out.clear();
    h_const.clear();
  }
};

FfnBatch& ThreadBatch() {
  // tidy: allow(mutable-global) scratch memory of a kernel, one per thread
  thread_local FfnBatch batch;
  return batch;
}

void CheckWeights(const FfnWeights& weights, int64_t hidden, int64_t out_cols) {
  CHECK_EQ(weights.gate_up.inputs(), hidden);
  CHECK_EQ(weights.gate_up.outputs(), 2 * CeilDiv(weights.ffn, kPanel) * kPanel);
  CHECK_EQ(weights.down.inputs(), weights.ffn);
  CHECK_EQ(weights.down.outputs(), out_cols);
}

// The width of a row of h: whole panels.
int64_t PaddedFfn(const FfnWeights& weights) { return weights.gate_up.outputs() / 2; }

void PlaceHidden(FfnBatch& batch) {
  int64_t floats = 0;
  for (const SlotRows& slot : batch.slots) floats += slot.count * PaddedFfn(*slot.weights);
  float* next = batch.h_memory.Get(floats);
  for (const SlotRows& slot : batch.slots) {
    for (int64_t i = 0; i < slot.count; ++i, next += PaddedFfn(*slot.weights)) {
      batch.h.push_back(next);
      batch.h_const.push_back(next);
    }
  }
}

GemmShape ShapeOf(const PackedMatrix& matrix, int64_t tokens) {
  return {.panels = matrix.panels(),
          .inputs = matrix.inputs(),
          .tokens = tokens,
          .bytes_per_weight = static_cast<int64_t>(DtypeBytes(matrix.dtype()))};
}

// Tasks of about equal work over all slots; the panels of a task are a multiple of `unit`.
void CutTasks(FfnBatch& batch, PackedMatrix FfnWeights::*matrix, int64_t unit, int threads) {
  int64_t total = 0;
  for (const SlotRows& slot : batch.slots) {
    total += EstimateNanoseconds(ShapeOf(slot.weights->*matrix, slot.count));
  }
  const int64_t task_count = TaskCount(total, threads);
  batch.tasks.clear();
  for (const SlotRows& slot : batch.slots) {
    const GemmShape shape = ShapeOf(slot.weights->*matrix, slot.count);
    const int64_t share = EstimateNanoseconds(shape) * task_count / std::max<int64_t>(total, 1);
    GemmGrid grid = CutGemm(shape, share);
    grid.panels_per_task = CeilDiv(grid.panels_per_task, unit) * unit;
    for (int64_t p = 0; p < shape.panels; p += grid.panels_per_task) {
      for (int64_t t = 0; t < slot.count; t += grid.tokens_per_task) {
        batch.tasks.push_back({.slot = &slot,
                               .panel_begin = p,
                               .panel_end = std::min(p + grid.panels_per_task, shape.panels),
                               .first = slot.first + t,
                               .count = std::min(grid.tokens_per_task, slot.count - t)});
      }
    }
  }
}

// h of some pairs of panels and some rows, through a buffer of two pairs by a chunk of rows.
void RunGateUp(const FfnBatch& batch, const FfnTask& task) {
  // tidy: allow(mutable-global) scratch memory of a kernel, one per thread
  thread_local AlignedFloats buffer;
  constexpr int64_t kWidth = kGroup * kPanel;
  float* both = buffer.Get(kChunkTokens * kWidth);
  float* rows[kChunkTokens];
  for (int64_t i = 0; i < kChunkTokens; ++i) rows[i] = both + i * kWidth;
  for (int64_t p = task.panel_begin; p < task.panel_end; p += kGroup) {
    const int64_t panel_end = std::min(p + kGroup, task.panel_end);
    for (int64_t t = 0, count = 0; t < task.count; t += count) {
      count = NextChunk(task.count - t);
      RunPanels({.x = batch.x.data() + task.first + t,
                 .y = rows,
                 .tokens = count,
                 .weights = &task.slot->weights->gate_up,
                 .panel_begin = p,
                 .panel_end = panel_end});
      for (int64_t i = 0; i < count; ++i) {
        float* h = batch.h[task.first + t + i] + p / 2 * kPanel;
        for (int64_t pair = 0; pair < (panel_end - p) / 2; ++pair) {
          const float* gate = rows[i] + pair * 2 * kPanel;
          SwiGlu(gate, gate + kPanel, kPanel, h + pair * kPanel);
        }
      }
    }
  }
}

void RunDown(const FfnBatch& batch, const FfnTask& task) {
  RunPanels({.x = batch.h_const.data() + task.first,
             .y = batch.out.data() + task.first,
             .y_offset = task.panel_begin * kPanel,
             .tokens = task.count,
             .weights = &task.slot->weights->down,
             .panel_begin = task.panel_begin,
             .panel_end = task.panel_end});
}

int64_t RunBatch(FfnBatch& batch, ComputePool& pool) {
  PlaceHidden(batch);
  CutTasks(batch, &FfnWeights::gate_up, 2, pool.threads());
  pool.ParallelFor(static_cast<int64_t>(batch.tasks.size()),
                   [&](int64_t i) { RunGateUp(batch, batch.tasks[i]); });
  CutTasks(batch, &FfnWeights::down, 1, pool.threads());
  pool.ParallelFor(static_cast<int64_t>(batch.tasks.size()),
                   [&](int64_t i) { RunDown(batch, batch.tasks[i]); });
  int64_t bytes = 0;
  for (const SlotRows& slot : batch.slots) bytes += slot.weights->bytes();
  return bytes;
}

}  // namespace

int64_t ExpertFfn(const ExpertFfnArgs& args, ComputePool& pool) {
  const SlotTable& table = *args.table;
  CHECK_EQ(table.first.size(), args.slots.size() + 1);
  CHECK_EQ(table.order.size(), args.row_of_entry.size());
  CHECK_EQ(args.out.rows, static_cast<int64_t>(args.row_of_entry.size()));
  FfnBatch& batch = ThreadBatch();
  batch.Clear();
  for (size_t s = 0; s < args.slots.size(); ++s) {
    const int64_t count = table.first[s + 1] - table.first[s];
    if (count == 0) continue;
    CheckWeights(*args.slots[s], args.x.cols, args.out.cols);
    batch.slots.push_back(
        {.weights = args.slots[s], .first = static_cast<int64_t>(batch.x.size()), .count = count});
    for (int32_t i = table.first[s]; i < table.first[s + 1]; ++i) {
      const int32_t entry = table.order[i];
      const int32_t row = args.row_of_entry[entry];
      CHECK(row >= 0 && row < args.x.rows) << "entry " << entry << " reads row " << row;
      batch.x.push_back(args.x.row(row));
      batch.out.push_back(args.out.row(entry));
    }
  }
  return RunBatch(batch, pool);
}

int64_t DenseFfn(ConstRows x, const FfnWeights& weights, Rows out, ComputePool& pool) {
  CHECK_EQ(x.rows, out.rows);
  CheckWeights(weights, x.cols, out.cols);
  if (x.rows == 0) return 0;
  FfnBatch& batch = ThreadBatch();
  batch.Clear();
  batch.slots.push_back({.weights = &weights, .first = 0, .count = x.rows});
  for (int64_t t = 0; t < x.rows; ++t) {
    batch.x.push_back(x.row(t));
    batch.out.push_back(out.row(t));
  }
  return RunBatch(batch, pool);
}

}  // namespace conclave
