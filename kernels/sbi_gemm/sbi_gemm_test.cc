// Each kernel against the double reference: every prologue and epilogue, all row tile counts, cuts
// chosen and forced, odd shapes, tables from even to skewed.
#include "kernels/sbi_gemm/sbi_gemm.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/sbi_gemm/sbi_test_kit.h"

namespace conclave {
namespace {

const int kTokens[] = {1, 2, 3, 5, 8, 9, 16, 31, 64};

class SbiGemmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status device = CheckCudaDevice(0); !device.ok()) {
      GTEST_SKIP() << device.message();
    }
  }
  Rng rng_{20};
};

// ||out - ref|| / ||ref||, infinite where out is not a number.
double RelativeError(const std::vector<double>& out, const std::vector<double>& ref) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    if (!std::isfinite(out[i])) return INFINITY;
    difference += (out[i] - ref[i]) * (out[i] - ref[i]);
    norm += ref[i] * ref[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

// Forced cuts; 0 keeps what was chosen.
struct Cut {
  int sm_count = 132;
  int splits = 0;
  int warps_per_item = 0;
  int ring_slots = 0;
  int streamed = -1;
  int slot_tiles = 0;
};

std::string Describe(const SbiArgs& args, const SbiConfig& config) {
  return absl::StrCat("kind ", static_cast<int>(args.kind), " prologue ",
                      static_cast<int>(args.prologue), " ", args.weights.outputs, "x",
                      args.weights.inputs, " tokens ", args.tokens, ": blocks ", config.blocks,
                      " splits ", config.splits, " warps ", config.warps_per_item, " slots ",
                      config.ring_slots, "x", config.slot_tiles, " streamed ", config.streamed);
}

SbiConfig Choose(const SbiArgs& args, const Cut& cut) {
  const SbiShape shape = {.kind = args.kind,
                          .prologue = args.prologue,
                          .format = args.weights.format,
                          .group = args.weights.group,
                          .outputs = args.weights.outputs,
                          .inputs = args.weights.inputs,
                          .tokens = args.tokens,
                          .slots = args.table.active_count != nullptr ? args.weights.matrices : 0,
                          .top_k = args.table.top_k,
                          .attention_splits = args.attention.splits,
                          .sm_count = cut.sm_count};
  const SbiConfig chosen = ChooseSbiConfig(shape).value();
  SbiConfig config = chosen;
  if (cut.splits > 0 && args.kind == SbiKind::kDense) {
    config.splits = std::min(cut.splits, args.weights.input_tiles());
  }
  if (cut.warps_per_item > 0) config.warps_per_item = cut.warps_per_item;
  if (cut.slot_tiles > 0) config.slot_tiles = cut.slot_tiles;
  if (cut.streamed >= 0 && args.prologue == SbiPrologue::kRows) config.streamed = cut.streamed > 0;
  config.ring_slots = cut.ring_slots;
  CompleteSbiConfig(shape, config);
  constexpr int kSharedBytesMax = 227 * 1024;
  return config.shared.total <= kSharedBytesMax ? config : chosen;
}

// A case: host arguments for the reference, and the same on the device.
struct Buffers {
  explicit Buffers(const HostWeights& weights) : tiles(weights.tiles) {}
  DeviceArray<uint8_t> tiles;
  std::vector<std::unique_ptr<DeviceBytes>> others;

  template <typename T>
  T* Put(const std::vector<T>& values) {
    auto array = std::make_unique<DeviceArray<T>>(values);
    T* data = array->get();
    others.push_back(std::move(array));
    return data;
  }
};

// Slabs of rows of columns, or one.
struct Extent {
  int rows, columns;
  int64_t stride;
};

// Sums all slabs; [rows * columns].
std::vector<double> SumSlabs(const std::vector<float>& out, const Extent& extent) {
  const int64_t slab = extent.rows * extent.stride;
  std::vector<double> sums;
  for (int r = 0; r < extent.rows; ++r) {
    for (int c = 0; c < extent.columns; ++c) {
      double sum = 0;
      for (size_t s = 0; s < out.size(); s += slab) sum += out[s + r * extent.stride + c];
      sums.push_back(sum);
    }
  }
  return sums;
}

std::vector<double> Widen(const std::vector<uint16_t>& hidden, const Extent& extent) {
  std::vector<double> values;
  for (int r = 0; r < extent.rows; ++r) {
    for (int c = 0; c < extent.columns; ++c) {
      values.push_back(Bf16ToFloat(hidden[r * extent.stride + c]));
    }
  }
  return values;
}

// Runs device args under a cut with poisoned outputs, and compares with the reference's outputs.
void RunAndCompare(SbiArgs device, const SbiArgs& host, int rows, const Cut& cut, double bound) {
  const SbiConfig config = Choose(device, cut);
  const std::string what = Describe(device, config);
  std::vector<double> got, want;
  if (device.kind == SbiKind::kGateUp) {
    const Extent extent = {rows, host.weights.outputs / 2, host.hidden_stride};
    DeviceArray<uint16_t> hidden(rows * host.hidden_stride);
    hidden.Fill(0xff);
    device.hidden = hidden.get();
    ASSERT_TRUE(SbiGemm(device, config, {}).ok()) << what;
    SynchronizeDevice();
    got = Widen(hidden.Read(), extent);
    const auto* ref = static_cast<const uint16_t*>(host.hidden);
    want = Widen({ref, ref + rows * host.hidden_stride}, extent);
  } else {
    const Extent extent = {rows, host.weights.outputs, host.out_stride};
    const int64_t slab = rows * host.out_stride;
    DeviceArray<float> out(config.splits * slab);
    out.Fill(0xff);
    device.out = out.get();
    device.slab_stride = slab;
    const absl::Status status = SbiGemm(device, config, {});
    ASSERT_TRUE(status.ok()) << what << status;
    SynchronizeDevice();
    got = SumSlabs(out.Read(), extent);
    want = SumSlabs({host.out, host.out + slab}, extent);
  }
  const double error = RelativeError(got, want);
  EXPECT_LE(error, bound) << what;
}

const Cut kCuts[] = {
    {},
    {.sm_count = 7, .ring_slots = 2},
    {.sm_count = 5, .splits = 2, .warps_per_item = 1, .ring_slots = 3, .slot_tiles = 2},
    {.sm_count = 9, .splits = 3, .warps_per_item = 2, .slot_tiles = 3},
    {.sm_count = 4, .splits = 1, .warps_per_item = 4, .ring_slots = 1},
    {.sm_count = 3, .splits = 1, .warps_per_item = 8, .ring_slots = 2},
    {.sm_count = 6, .splits = 1, .warps_per_item = 1, .ring_slots = 2, .streamed = 1},
    {.sm_count = 5, .splits = 2, .warps_per_item = 4, .ring_slots = 3, .streamed = 1},
    {.sm_count = 3, .splits = 1, .warps_per_item = 8, .streamed = 1, .slot_tiles = 2},
};

struct Size {
  int outputs, inputs;
};

TEST_F(SbiGemmTest, RowsTimesOneMatrix) {
  for (const Size size : {Size{64, 64}, Size{257, 80}, Size{48, 1096}, Size{1040, 512}}) {
    const HostWeights weights = RandomWeights(rng_, size.outputs, size.inputs, 1);
    const std::vector<float> bias = RandomFloats(rng_, size.outputs, 1);
    Buffers buffers(weights);
    for (const int tokens : kTokens) {
      const int64_t stride = (size.inputs + 15) / 8 * 8;
      const std::vector<uint16_t> x = RandomBf16(rng_, tokens * stride, 1);
      const int64_t out_stride = tokens % 2 == 0 ? size.outputs : (size.outputs + 15) / 16 * 16;
      std::vector<float> out(tokens * out_stride);
      SbiArgs host = {.weights = weights.view, .tokens = tokens};
      host.rows = {.x = x.data(), .stride = stride};
      host.out = out.data();
      host.out_stride = out_stride;
      if (tokens > 2) host.bias = bias.data();
      SbiArgs device = host;
      device.weights.data = buffers.tiles.get();
      device.rows.x = buffers.Put(x);
      if (tokens > 2) device.bias = buffers.Put(bias);
      ASSERT_TRUE(SbiGemmRef(host).ok());
      for (const Cut& cut : kCuts) RunAndCompare(device, host, tokens, cut, 2e-5);
      if (HasFailure()) return;
    }
  }
}

void CheckNorm(Rng& rng, const HostWeights& weights, int tokens, int pending, bool gated) {
  Buffers buffers(weights);
  const int inputs = weights.view.inputs;
  const int64_t row_stride = inputs + 8;
  const std::vector<float> residual = RandomFloats(rng, tokens * inputs, 2);
  const std::vector<float> norm_weight = RandomFloats(rng, inputs, 1);
  const std::vector<float> partials = RandomFloats(rng, tokens * row_stride * pending, 1);
  const std::vector<float> gates = RandomFloats(rng, tokens * pending, 1);
  std::vector<float> residual_out(residual.size());
  const int64_t out_stride = (weights.view.outputs + 15) / 16 * 16;
  std::vector<float> out(tokens * out_stride);
  SbiArgs host = {.prologue = SbiPrologue::kNorm, .weights = weights.view, .tokens = tokens};
  host.norm = {.residual_in = residual.data(),
               .residual_out = residual_out.data(),
               .norm_weight = norm_weight.data(),
               .partials = partials.data(),
               .pending = pending,
               .slab_stride = tokens * row_stride,
               .row_stride = row_stride,
               .gate_weights = gated ? gates.data() : nullptr};
  host.out = out.data();
  host.out_stride = out_stride;
  ASSERT_TRUE(SbiGemmRef(host).ok());
  SbiArgs device = host;
  device.weights.data = buffers.tiles.get();
  device.norm.residual_in = buffers.Put(residual);
  device.norm.norm_weight = buffers.Put(norm_weight);
  device.norm.partials = pending > 0 ? buffers.Put(partials) : nullptr;
  device.norm.gate_weights = gated ? buffers.Put(gates) : nullptr;
  DeviceArray<float> device_residual(residual.size());
  device.norm.residual_out = device_residual.get();
  for (const Cut& cut : kCuts) {
    device_residual.Fill(0xff);
    RunAndCompare(device, host, tokens, cut, 3e-4);
    const std::vector<float> got = device_residual.Read();
    EXPECT_LE(RelativeError({got.begin(), got.end()}, {residual_out.begin(), residual_out.end()}),
              1e-6)
        << "residual, tokens " << tokens << " inputs " << inputs << " pending " << pending;
  }
}

TEST_F(SbiGemmTest, NormBeforeTheProduct) {
  for (const Size size : {Size{257, 80}, Size{64, 64}, Size{128, 2048}, Size{96, 2304}}) {
    const HostWeights weights = RandomWeights(rng_, size.outputs, size.inputs, 1);
    for (const int tokens : kTokens) {
      CheckNorm(rng_, weights, tokens, tokens % 3, false);
      CheckNorm(rng_, weights, tokens, 1 + tokens % 8, true);
      if (HasFailure()) return;
    }
  }
}

void CheckAttention(Rng& rng, const HostWeights& weights, int tokens, int splits, int heads) {
  Buffers buffers(weights);
  const int inputs = weights.view.inputs;
  const std::vector<float> o = RandomFloats(rng, int64_t{splits} * tokens * inputs, 3);
  const std::vector<float> m = RandomFloats(rng, splits * tokens * heads, 4);
  std::vector<float> l = RandomFloats(rng, splits * tokens * heads, 1);
  for (size_t i = 0; i < l.size(); ++i) l[i] = i % 5 == 3 ? 0 : 1 + std::fabs(l[i]);
  std::vector<float> poisoned = o;
  for (size_t i = 0; i < o.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / inputs;
    const int64_t head = static_cast<int64_t>(i) % inputs / (inputs / heads);
    if (l[row * heads + head] == 0) poisoned[i] = NAN;
  }
  const int64_t out_stride = (weights.view.outputs + 15) / 16 * 16;
  std::vector<float> out(tokens * out_stride);
  SbiArgs host = {.prologue = SbiPrologue::kAttention, .weights = weights.view, .tokens = tokens};
  host.attention = {.o = o.data(), .m = m.data(), .l = l.data(), .splits = splits, .heads = heads};
  host.out = out.data();
  host.out_stride = out_stride;
  ASSERT_TRUE(SbiGemmRef(host).ok());
  SbiArgs device = host;
  device.weights.data = buffers.tiles.get();
  device.attention.o = buffers.Put(poisoned);
  device.attention.m = buffers.Put(m);
  device.attention.l = buffers.Put(l);
  for (const Cut& cut : kCuts) RunAndCompare(device, host, tokens, cut, 3e-4);
}

TEST_F(SbiGemmTest, AttentionCombinedBeforeTheProduct) {
  for (const Size size : {Size{257, 80}, Size{64, 64}, Size{128, 1024}}) {
    const HostWeights weights = RandomWeights(rng_, size.outputs, size.inputs, 1);
    for (const int tokens : kTokens) {
      CheckAttention(rng_, weights, tokens, 1 + tokens % 7, size.inputs == 80 ? 5 : 4);
      if (HasFailure()) return;
    }
  }
}

// One routing through gate_up and down.
void CheckExperts(Rng& rng, const HostWeights& gate_up, const HostWeights& down, int tokens,
                  const std::vector<int>& routing) {
  Buffers buffers(gate_up), down_buffers(down);
  const bool routed = !routing.empty();
  const int entries = routed ? static_cast<int>(routing.size()) : tokens;
  const HostTable table = MakeTable(routing, gate_up.view.matrices);
  const DeviceTable device_table(routed ? table : MakeTable({0}, 1));
  const int top_k = entries / tokens;
  const int hidden = gate_up.view.inputs, ffn = gate_up.view.outputs / 2;
  const std::vector<uint16_t> x = RandomBf16(rng, tokens * hidden, 0.25f);
  std::vector<uint16_t> h(entries * ffn);
  SbiArgs host = {.kind = SbiKind::kGateUp, .weights = gate_up.view, .tokens = tokens};
  host.rows = {.x = x.data(), .stride = hidden};
  if (routed) host.table = table.view(top_k);
  host.hidden = h.data();
  host.hidden_stride = ffn;
  ASSERT_TRUE(SbiGemmRef(host).ok());
  SbiArgs device = host;
  device.weights.data = buffers.tiles.get();
  device.rows.x = buffers.Put(x);
  if (routed) device.table = device_table.view(top_k);
  for (const Cut& cut : kCuts) RunAndCompare(device, host, entries, cut, 1e-3);

  std::vector<float> out(int64_t{entries} * hidden);
  SbiArgs down_host = {.kind = SbiKind::kDown, .weights = down.view, .tokens = tokens};
  down_host.rows = {.x = h.data(), .stride = ffn};
  down_host.table = host.table;
  down_host.out = out.data();
  down_host.out_stride = hidden;
  ASSERT_TRUE(SbiGemmRef(down_host).ok());
  SbiArgs down_device = down_host;
  down_device.weights.data = down_buffers.tiles.get();
  down_device.rows.x = buffers.Put(h);
  down_device.table = device.table;
  down_device.table.ready_early = true;
  for (const Cut& cut : kCuts) RunAndCompare(down_device, down_host, entries, cut, 2e-5);
}

TEST_F(SbiGemmTest, ExpertsByTable) {
  constexpr int kSlots = 6, kTopK = 3;
  for (const Size size : {Size{96, 64}, Size{104, 80}, Size{256, 576}}) {  // ffn, hidden
    const HostWeights gate_up = RandomWeights(rng_, 2 * size.outputs, size.inputs, kSlots);
    const HostWeights down = RandomWeights(rng_, size.inputs, size.outputs, kSlots);
    for (const int tokens : kTokens) {
      CheckExperts(rng_, gate_up, down, tokens, RandomRouting(rng_, tokens, kTopK, kSlots));
      if (HasFailure()) return;
    }
    // Everything to one slot: several passes over its weights.
    CheckExperts(rng_, gate_up, down, 16, std::vector<int>(48, 4));
    CheckExperts(rng_, gate_up, down, 64, std::vector<int>(512, 5));
    std::vector<int> skewed(64 * kTopK, 1);
    skewed[17] = 0;
    skewed[100] = 5;
    CheckExperts(rng_, gate_up, down, 64, skewed);
    for (const int tokens : {1, 9, 64}) CheckExperts(rng_, gate_up, down, tokens, {});
    if (HasFailure()) return;
  }
}

TEST_F(SbiGemmTest, RefusesWhatDoesNotFit) {
  const HostWeights weights = RandomWeights(rng_, 64, 64, 1);
  SbiArgs args = {.weights = weights.view, .tokens = 2};
  const SbiConfig config = Choose(args, {});
  float out = 0;
  args.rows = {.x = &out, .stride = 64};
  args.out = &out;
  args.out_stride = 64;
  args.slab_stride = 128;
  SbiArgs bad = args;
  bad.weights.inputs = 4096;
  EXPECT_FALSE(SbiGemm(bad, config, {}).ok());
  bad = args;
  bad.tokens = 9;
  EXPECT_FALSE(SbiGemm(bad, config, {}).ok());
  bad = args;
  bad.rows.stride = 63;
  EXPECT_FALSE(SbiGemm(bad, config, {}).ok());
  bad = args;
  bad.out_stride = 63;
  EXPECT_FALSE(SbiGemm(bad, config, {}).ok());
  bad = args;
  bad.weights.format = WeightFormat::kF32;
  EXPECT_FALSE(SbiGemm(bad, config, {}).ok());
}

}  // namespace
}  // namespace conclave
