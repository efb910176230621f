#include <cmath>
#include <vector>

#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/add_norm/device_test_kit.h"
#include "kernels/moe_route/moe_route.h"
#include "kernels/moe_route/route_test_kit.h"
#include "kernels/moe_route/table_test_kit.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

class DecodeGateTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto status = CheckCudaDevice(0); !status.ok()) GTEST_SKIP() << status.message();
  }
};

struct Case {
  RoutingShape shape;
  int hidden;
  PendingKind kind;
  int count;
};

// The logits of the norm before its rounding, in double.
std::vector<float> ReferenceLogits(const Case& c, const std::vector<float>& residual,
                                   const std::vector<float>& weight, const RandomTiles& router) {
  std::vector<float> logits;
  for (int t = 0; t < c.shape.tokens; ++t) {
    const float* row = residual.data() + int64_t{t} * c.hidden;
    double squares = 0;
    for (int k = 0; k < c.hidden; ++k) squares += double{row[k]} * row[k];
    const double scale = 1 / std::sqrt(squares / c.hidden + 1e-6);
    for (int e = 0; e < c.shape.experts; ++e) {
      double sum = 0;
      for (int k = 0; k < c.hidden; ++k) sum += double{row[k]} * weight[k] * router.At(e, k);
      logits.push_back(static_cast<float>(sum * scale));
    }
  }
  return logits;
}

// Every expert the kernel chose is as good as the one the reference did, up to rounding, and its
// weight is the softmax's.
void ExpectGoodChoice(const Case& c, const std::vector<float>& logits,
                      const std::vector<int32_t>& experts, const std::vector<float>& weights,
                      const HostRouting& want) {
  int differ = 0;
  for (size_t i = 0; i < experts.size(); ++i) {
    ASSERT_TRUE(experts[i] >= 0 && experts[i] < c.shape.experts) << i << ": " << experts[i];
    const float* row = logits.data() + i / c.shape.top_k * c.shape.experts;
    ASSERT_NEAR(row[experts[i]], row[want.experts[i]], 2e-4) << i;
    differ += experts[i] != want.experts[i];
  }
  EXPECT_LE(differ, static_cast<int>(experts.size()) / 50 + 2);
  EXPECT_LT(RelativeError(weights, want.gate_weights), 1e-4);
}

// The table is that of the kernel's own choice, exactly.
void ExpectTableOfChoice(const Case& c, const std::vector<int32_t>& experts,
                         const std::vector<int32_t>& map, const DeviceRouting& got) {
  const RoutingShape& shape = c.shape;
  HostRouting own(shape);
  std::vector<float> chosen(int64_t{shape.tokens} * shape.experts, 0);
  for (size_t i = 0; i < experts.size(); ++i) {
    chosen[i / shape.top_k * shape.experts + experts[i]] =
        1.0f + shape.top_k - static_cast<float>(i % shape.top_k);
  }
  PrefillGateRef({.tokens = shape.tokens,
                  .experts = shape.experts,
                  .logits = chosen.data(),
                  .logits_stride = shape.experts,
                  .choice = own.choice(),
                  .table = own.table(map.data())});
  ASSERT_EQ(own.experts, experts);
  ExpectSameTable(got, own);
}

// `repeats` runs in a row, each a dependent launch that leaves the same results.
void Check(const Case& c, int repeats = 1) {
  SCOPED_TRACE(testing::Message() << c.shape.tokens << " tokens, " << c.shape.top_k << " of "
                                  << c.shape.experts << ", " << c.shape.slots << " slots, hidden "
                                  << c.hidden << ", pending " << static_cast<int>(c.kind) << " x "
                                  << c.count);
  Rng rng(c.shape.tokens * 7 + c.hidden + c.shape.experts);
  const RandomTiles router(rng, c.shape.experts, c.hidden, 3 / std::sqrt(float(c.hidden)));
  const int64_t size = int64_t{c.shape.tokens} * c.hidden;
  const auto residual = RandomValues(rng, size, 2), weight = RandomValues(rng, c.hidden, 1.5f);
  const auto pending = RandomValues(rng, size * std::max(c.count, 1), 1);
  const auto pending_weights = RandomValues(rng, int64_t{c.shape.tokens} * c.count, 1);
  const auto map = RandomSlotMap(rng, c.shape.experts, c.shape.slots);

  std::vector<float> want_residual(size);
  std::vector<uint16_t> want_normed(size);
  AddNormArgs norm = {.tokens = c.shape.tokens,
                      .hidden = c.hidden,
                      .residual_in = residual.data(),
                      .residual_out = want_residual.data(),
                      .norm_weight = weight.data(),
                      .epsilon = 1e-6f,
                      .normed = want_normed.data()};
  norm.pending = {.kind = c.kind,
                  .data = pending.data(),
                  .count = c.count,
                  .slab_stride = size,
                  .row_stride = c.hidden,
                  .gate_weights = pending_weights.data()};
  AddNormRef(norm);
  const auto logits = ReferenceLogits(c, want_residual, weight, router);
  HostRouting want(c.shape);
  PrefillGateRef({.tokens = c.shape.tokens,
                  .experts = c.shape.experts,
                  .logits = logits.data(),
                  .logits_stride = c.shape.experts,
                  .choice = want.choice(),
                  .table = want.table(map.data())});

  const OnDevice<uint16_t> tiles(router.tiles), normed(size);
  const OnDevice<float> in(residual), out(size), device_weight(weight), device_pending(pending),
      device_weights(pending_weights);
  const OnDevice<int32_t> device_map(map), ticket(std::vector<int32_t>{0});
  const OnDevice<uint8_t> prefetch(100016);
  DeviceRouting got(c.shape);
  norm.residual_in = in.get();
  norm.residual_out = out.get();
  norm.norm_weight = device_weight.get();
  norm.normed = normed.get();
  norm.pending.data = device_pending.get();
  norm.pending.gate_weights = device_weights.get();
  const DecodeGateArgs args = {.norm = norm,
                               .router = router.On(tiles),
                               .choice = got.choice(),
                               .table = got.table(device_map.get()),
                               .ticket = ticket.get(),
                               .prefetch = c.shape.tokens % 2 == 0 ? prefetch.get() : nullptr,
                               .prefetch_bytes = prefetch.bytes()};
  for (int r = 0; r < repeats; ++r) {
    const absl::Status status = DecodeGate(args, nullptr, r > 0);
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_LT(RelativeError(out.Read(), want_residual), 3e-7);
  EXPECT_LT(RelativeError(Widen(normed.Read()), Widen(want_normed)), 4e-4);
  const auto experts = got.experts.Read();
  ExpectGoodChoice(c, logits, experts, got.gate_weights.Read(), want);
  EXPECT_EQ(ticket.Read()[0], 0);
  ExpectTableOfChoice(c, experts, map, got);
}

TEST_F(DecodeGateTest, TheModelsItIsFor) {
  for (const int tokens : {1, 2, 8, 9, 32, 64}) {
    Check({{tokens, 128, 8}, 2048, PendingKind::kSlabs, 4}, 3);
    Check({{tokens, 64, 8, 0, false}, 2048, PendingKind::kSlabs, 1});
    Check({{tokens, 8, 2}, 4096, PendingKind::kNone, 0});
  }
}

TEST_F(DecodeGateTest, OddShapes) {
  Rng rng(5);
  for (const int hidden : {64, 72, 136, 520, 1000, 2880}) {
    for (const int experts : {4, 7, 16, 40, 100, 160, 256}) {
      const int tokens = 1 + static_cast<int>(rng.Below(64));
      const int top_k = 1 + static_cast<int>(rng.Below(std::min(experts, kRouteTopKMax)));
      const int slots = rng.Chance(1, 2) ? 0 : 1 + static_cast<int>(rng.Below(experts));
      const PendingKind kind = rng.Chance(1, 2) ? PendingKind::kRowsF32 : PendingKind::kSlabs;
      Check({{tokens, experts, top_k, slots, rng.Chance(1, 2)},
             hidden,
             kind,
             1 + static_cast<int>(rng.Below(16))},
            2);
    }
  }
  Check({{3, 512, 10}, 2048, PendingKind::kSlabs, 9}, 2);
  Check({{17, 384, 8, 48}, 7168, PendingKind::kSlabs, 2}, 2);
}

TEST_F(DecodeGateTest, ShapesThatDoNotFit) {
  DecodeGateArgs args;
  args.norm = {.tokens = 65, .hidden = 64};
  args.router = {.outputs = 8, .inputs = 64};
  args.choice.top_k = 2;
  args.table.slots = 8;
  EXPECT_EQ(DecodeGate(args, nullptr, false).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
#endif
