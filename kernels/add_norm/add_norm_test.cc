#include "kernels/add_norm/add_norm.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/add_norm/device_test_kit.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

struct Case {
  PendingKind kind;
  int tokens, hidden, count;
  bool permuted = false;  // rows looked up, some absent
  bool normed = true;
  bool in_place = false;
};

// The case's inputs on the host, and the args that point at them.
struct Inputs {
  explicit Inputs(const Case& c, uint64_t seed) : rng(seed) {
    residual = RandomValues(rng, int64_t{c.tokens} * c.hidden, 2);
    weight = RandomValues(rng, c.hidden, 1.5f);
    stride = c.hidden + 8;
    const int64_t entries = int64_t{c.tokens} * c.count;
    floats = RandomValues(rng, entries * stride, 1);
    halves = RandomBf16Values(rng, entries * stride, 1);
    gate_weights = RandomValues(rng, entries, 1);
    row_of_entry.resize(entries);
    std::iota(row_of_entry.begin(), row_of_entry.end(), 0);
    for (int64_t i = entries; i > 1; --i)
      std::swap(row_of_entry[i - 1], row_of_entry[rng.Below(i)]);
    for (int32_t& row : row_of_entry) {
      if (rng.Chance(1, 8)) row = -1;
    }
    args = {.tokens = c.tokens, .hidden = c.hidden, .epsilon = 1e-5f};
    args.pending = {
        .kind = c.kind, .count = c.count, .slab_stride = c.tokens * stride, .row_stride = stride};
  }
  Rng rng;
  int64_t stride;
  std::vector<float> residual, weight, floats, gate_weights;
  std::vector<uint16_t> halves;
  std::vector<int32_t> row_of_entry;
  AddNormArgs args;
};

void Check(const Case& c) {
  SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(c.kind) << " tokens " << c.tokens
                                  << " hidden " << c.hidden << " count " << c.count);
  Inputs in(c, c.tokens * 131 + c.hidden + c.count);
  const int64_t size = int64_t{c.tokens} * c.hidden;
  const bool rows = c.kind == PendingKind::kRowsF32 || c.kind == PendingKind::kRowsBf16;
  const bool bf16 = c.kind == PendingKind::kRowsBf16;

  std::vector<float> want(size);
  std::vector<uint16_t> want_normed(size);
  AddNormArgs host = in.args;
  host.residual_in = in.residual.data();
  host.residual_out = want.data();
  host.norm_weight = in.weight.data();
  host.normed = c.normed ? want_normed.data() : nullptr;
  host.pending.data = bf16 ? static_cast<const void*>(in.halves.data())
                           : static_cast<const void*>(in.floats.data());
  host.pending.gate_weights = rows ? in.gate_weights.data() : nullptr;
  host.pending.row_of_entry = c.permuted ? in.row_of_entry.data() : nullptr;
  AddNormRef(host);

  const OnDevice<float> residual(in.residual), weight(in.weight), floats(in.floats),
      gate_weights(in.gate_weights), out(size);
  const OnDevice<uint16_t> halves(in.halves), normed(size);
  const OnDevice<int32_t> row_of_entry(in.row_of_entry);
  AddNormArgs args = in.args;
  args.residual_in = residual.get();
  args.residual_out = c.in_place ? residual.get() : out.get();
  args.norm_weight = weight.get();
  args.normed = c.normed ? normed.get() : nullptr;
  args.pending.data = bf16 ? static_cast<const void*>(halves.get()) : floats.get();
  args.pending.gate_weights = rows ? gate_weights.get() : nullptr;
  args.pending.row_of_entry = c.permuted ? row_of_entry.get() : nullptr;
  const absl::Status status = AddNorm(args, nullptr, false);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_LT(RelativeError(c.in_place ? residual.Read() : out.Read(), want), 3e-7);
  if (!c.normed) return;
  EXPECT_LT(RelativeError(Widen(normed.Read()), Widen(want_normed)), 4e-4);
}

class AddNormTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto status = CheckCudaDevice(0); !status.ok()) GTEST_SKIP() << status.message();
  }
};

TEST_F(AddNormTest, EveryKindAndShape) {
  for (const PendingKind kind :
       {PendingKind::kNone, PendingKind::kSlabs, PendingKind::kRowsF32, PendingKind::kRowsBf16}) {
    for (const int hidden : {64, 72, 1000, 2048, 4096, 7168}) {
      for (const int tokens : {1, 3, 64, 300}) {
        if (hidden > 2048 && tokens > 64) continue;
        Check({kind, tokens, hidden, 1 + (hidden / 8 + tokens) % 11});
      }
    }
  }
}

TEST_F(AddNormTest, PermutedRowsAndWithoutNorm) {
  for (const PendingKind kind : {PendingKind::kRowsF32, PendingKind::kRowsBf16}) {
    Check({kind, 5, 64, 16, true});
    Check({kind, 500, 2048, 8, true, false, true});
    Check({kind, 17, 4096, 2, true, true, true});
    Check({kind, 9, 16384, 3, true});
  }
  Check({PendingKind::kSlabs, 64, 2048, 16, false, false, true});
}

TEST_F(AddNormTest, ShapesThatDoNotFit) {
  AddNormArgs args = {.tokens = 1, .hidden = 60};
  EXPECT_EQ(AddNorm(args, nullptr, false).code(), absl::StatusCode::kInvalidArgument);
  args.hidden = 64;
  args.pending = {.kind = PendingKind::kRowsF32, .count = 2, .row_stride = 64};
  EXPECT_EQ(AddNorm(args, nullptr, false).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
#endif
