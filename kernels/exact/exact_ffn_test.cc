#include <memory>

#include "absl/strings/str_cat.h"
#include "comm/device/compute_pool.h"
#include "kernels/exact/exact_gemm.h"
#include "kernels/exact/exact_test_kit.h"
#include "kernels/expert_ffn/expert_ffn.h"
#include "kernels/expert_ffn/ffn_test_kit.h"

namespace conclave {
namespace {

// Where output n of the CPU's matrix (panels of 16 gate rows, then 16 up rows) stands in tiles.
int64_t PlaceGateUp(int64_t n) {
  const int64_t row = n / 32 * 16 + n % 16;
  return n / 16 % 2 == 0 ? GateOutput(row) : UpOutput(row);
}

struct Case {
  FfnShape shape;
  int slice = 0, slices = 1;  // of the ffn
  int slots = 4;
};

class Experts {
 public:
  explicit Experts(const Case& c)
      : case_(c), ffn_(c.shape.ffn / c.slices), gate_up_(Gather(c, true)), down_(Gather(c, false)) {
    for (int s = 0; s < c.slots; ++s) {
      weights_.push_back(
          std::make_unique<FfnWeights>(RandomFfnSlice(c.shape, s, c.slice, c.slices)));
    }
  }

  void Check(int64_t rows, int top_k, bool dense) {
    const int64_t hidden = case_.shape.hidden;
    const Routing routing = RandomRouting(rows, top_k, case_.slots, rows + top_k);
    const int64_t entries = dense ? rows : static_cast<int64_t>(routing.row_of_entry.size());
    const std::vector<float> x = UniformFloats(rows * hidden, rows);
    std::vector<float> want(entries * hidden);
    if (dense) {
      DenseFfn({x.data(), rows, hidden, hidden}, *weights_[0], {want.data(), rows, hidden, hidden},
               pool_);
    } else {
      std::vector<const FfnWeights*> slots;
      for (const auto& w : weights_) slots.push_back(w.get());
      ExpertFfn({{x.data(), rows, hidden, hidden},
                 routing.row_of_entry,
                 &routing.table,
                 slots,
                 {want.data(), entries, hidden, hidden}},
                pool_);
    }
    const OnDevice<float> device_x(x), out = OnDevice<float>::Poisoned(entries * hidden);
    const OnDevice<float> inner = OnDevice<float>::Poisoned(entries * ffn_);
    const OnDevice<int32_t> first(routing.table.first), order(routing.table.order);
    const OnDevice<int32_t> row(routing.row_of_entry);
    ExactFfnArgs args;
    args.x = device_x.get();
    args.x_stride = hidden;
    args.gate_up = gate_up_.view;
    args.down = down_.view;
    args.down_slices = 8 / case_.slices;
    args.entries = static_cast<int32_t>(entries);
    if (!dense) {
      args.slot_first = first.get();
      args.order = order.get();
      args.row_of_entry = row.get();
    }
    args.inner = inner.get();
    args.inner_stride = ffn_;
    args.out = out.get();
    args.out_stride = hidden;
    ExpectOk(ExactFfn(args, nullptr));
    ExpectSameBits(
        out.Read(), want,
        absl::StrCat(DtypeName(case_.shape.dtype), " hidden ", hidden, " ffn ", ffn_, " of ",
                     case_.slices, " rows ", rows, " top ", top_k, " dense ", dense));
  }

 private:
  static DeviceTiles Gather(const Case& c, bool gate_up) {
    const int hidden = static_cast<int>(c.shape.hidden);
    const int ffn = static_cast<int>(c.shape.ffn) / c.slices;
    const int padded = (ffn + 7) / 8 * 16;
    HostTiles tiles(gate_up ? padded : hidden, gate_up ? hidden : ffn, c.slots, c.shape.dtype);
    for (int s = 0; s < c.slots; ++s) {
      const FfnWeights weights = RandomFfnSlice(c.shape, s, c.slice, c.slices);
      if (!gate_up) {
        tiles.SetAll(s, weights.down, [](int64_t n) { return n; });
        continue;
      }
      // The CPU pads to 16 rows, the tiles to 8.
      for (int64_t n = 0; n < weights.gate_up.outputs(); ++n) {
        if (PlaceGateUp(n) >= padded) continue;
        for (int64_t k = 0; k < hidden; ++k) {
          tiles.Set(s, PlaceGateUp(n), k, weights.gate_up.At(n, k));
        }
      }
    }
    return DeviceTiles(tiles);
  }

  Case case_;
  int64_t ffn_;
  DeviceTiles gate_up_, down_;
  std::vector<std::unique_ptr<FfnWeights>> weights_;
  ComputePool pool_{2};
};

using ExactFfnTest = ExactTest;

TEST_F(ExactFfnTest, HasTheBitsOfTheCpu) {
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF32}) {
    for (const Case& c : {Case{{64, 96, dtype}, 0, 1, 4}, Case{{80, 100, dtype}, 0, 1, 16},
                          Case{{64, 96, dtype}, 1, 2, 4}, Case{{96, 104, dtype}, 3, 4, 3},
                          Case{{64, 64, dtype}, 7, 8, 2}}) {
      Experts experts(c);
      for (const int64_t rows : {1, 2, 7, 33, 150}) {
        experts.Check(rows, std::min(2, c.slots), false);
        experts.Check(rows, 1, true);
      }
    }
  }
}

TEST_F(ExactFfnTest, LargeBatchesHaveThem) {
  Experts experts({{512, 768, Dtype::kBf16}, 0, 1, 40});  // more slots than a warp has lanes
  experts.Check(1, 8, false);
  experts.Check(16, 8, false);
  experts.Check(700, 8, false);  // register tiles
  experts.Check(1300, 1, true);
}

TEST_F(ExactFfnTest, RefusesShapesThatDoNotFit) {
  const DeviceTiles gate_up(HostTiles(192, 64, 1, Dtype::kBf16));
  const DeviceTiles down(HostTiles(64, 88, 1, Dtype::kBf16));
  ExactFfnArgs args;
  args.gate_up = gate_up.view;
  args.down = down.view;
  args.x_stride = args.out_stride = 64;
  args.inner_stride = 96;
  EXPECT_EQ(ExactFfn(args, nullptr).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
