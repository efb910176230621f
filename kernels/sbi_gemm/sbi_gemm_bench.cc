// Decode products chained over distinct layers in one CUDA graph: bytes, time, and the share of the
// bandwidth that a plain read of the same pool reaches in the same run; cuBLASLt beside the dense
// ones; and the four products of a Qwen3-30B-A3B layer in turn. With "sweep", what the choices of
// the config cost.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "comm/device/cuda_device.h"
#include "glog/logging.h"
#include "kernels/sbi_gemm/sbi_bench_kit.h"
#include "kernels/sbi_gemm/sbi_gemm.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

constexpr int64_t kPoolBytes = int64_t{8} << 30;
constexpr int64_t kChainBytes = int64_t{2} << 30;  // of weights in one graph
constexpr int kRuns = 7;
constexpr int kHidden = 2048, kTopK = 8, kSlots = 128;

// What a bench changes in a chosen config; -1 keeps it.
struct Tuning {
  int prefetch_slots = -1;
  int early_trigger = -1;
  int evict_first = -1;
  int slot_tiles = 0;
  int ring_slots = 0;
};

struct Case {
  const char* name;
  SbiKind kind;
  SbiPrologue prologue;
  int outputs, inputs;
  int splits_max = 16;
};

struct Bench {
  WeightPool pool{kPoolBytes};
  double read = pool.MeasureRead();
  std::unique_ptr<LtGemm> lt = LtGemm::Load();
  DeviceArray<uint16_t> rows{int64_t{64} * 8 * 8192};
  DeviceArray<float> floats{int64_t{32} << 20};  // read
  DeviceArray<float> residual{64 * 8192};
  DeviceArray<float> out{int64_t{64} << 20};
  DeviceArray<uint16_t> hidden{64 * 8 * 8192};
  Tuning tuning;

  Bench() {
    rows.Fill(0x3c);
    floats.Fill(0x3c);
  }
};

// One layer's product with what it needs to live.
struct Layer {
  SbiArgs args;
  SbiConfig config;
  int64_t bytes;
};

SbiConfig Tuned(const SbiShape& shape, const Tuning& tuning) {
  SbiConfig config = ChooseSbiConfig(shape).value();
  if (tuning.prefetch_slots >= 0) config.prefetch_slots = tuning.prefetch_slots;
  if (tuning.early_trigger >= 0) config.early_trigger = tuning.early_trigger != 0;
  if (tuning.evict_first >= 0) config.evict_first = tuning.evict_first != 0;
  if (tuning.slot_tiles > 0) config.slot_tiles = tuning.slot_tiles;
  if (tuning.slot_tiles > 0 || tuning.ring_slots > 0) {
    config.ring_slots = tuning.ring_slots;
    CompleteSbiConfig(shape, config);
  }
  return config;
}

Layer MakeLayer(Bench& bench, const Case& c, int tokens, const DeviceTable* table, int touched) {
  const bool grouped = c.kind != SbiKind::kDense;
  SbiArgs args = {.kind = c.kind, .prologue = c.prologue, .tokens = tokens};
  args.weights = bench.pool.Take(c.outputs, c.inputs, grouped ? kSlots : 1, WeightFormat::kBf16, 0);
  args.rows = {.x = bench.rows.get(), .stride = c.inputs};
  args.norm = {.residual_in = bench.floats.get(),
               .residual_out = bench.residual.get(),
               .norm_weight = bench.floats.get(),
               .partials = bench.floats.get(),
               .pending = kTopK,
               .row_stride = c.inputs,
               .gate_weights = bench.floats.get()};
  args.attention = {.o = bench.floats.get(),
                    .m = bench.floats.get(),
                    .l = bench.floats.get(),
                    .splits = 16,
                    .heads = 32};
  if (grouped) {
    args.table = table->view(kTopK);
    args.table.ready_early = c.kind == SbiKind::kDown;
  }
  args.out = bench.out.get();
  args.out_stride = (c.outputs + 15) / 16 * 16;
  args.slab_stride = tokens * args.out_stride;
  args.hidden = bench.hidden.get();
  args.hidden_stride = c.outputs / 2;
  const SbiShape shape = {.kind = c.kind,
                          .prologue = c.prologue,
                          .outputs = c.outputs,
                          .inputs = c.inputs,
                          .tokens = tokens,
                          .slots = grouped ? kSlots : 0,
                          .top_k = grouped ? kTopK : 1,
                          .splits_max = c.splits_max,
                          .attention_splits = args.attention.splits};
  return {.args = args,
          .config = Tuned(shape, bench.tuning),
          .bytes = args.weights.matrix_bytes * touched};
}

void RecordLayer(const Layer& layer, CudaStream stream) {
  const absl::Status status =
      SbiGemm(layer.args, layer.config, {.stream = stream, .dependent = true});
  CHECK(status.ok()) << status;
}

void PrintLine(const Bench& bench, const std::string& name, int tokens, double bytes, double us) {
  const double rate = bytes / us * 1e6;
  std::printf("%-22s B=%-3d %8.2f MB %9.2f us %7.0f GB/s  %5.1f %%", name.c_str(), tokens,
              bytes / 1e6, us, rate / 1e9, 100 * rate / bench.read);
}

double LtMicroseconds(Bench& bench, const Case& c, int tokens, int layers) {
  if (bench.lt == nullptr || c.kind != SbiKind::kDense) return 0;
  bool served = true;
  const double us = MeasureGraph(
      [&](CudaStream stream) {
        for (int l = 0; l < layers; ++l) {
          const WeightView weights =
              bench.pool.Take(c.outputs, c.inputs, 1, WeightFormat::kBf16, 0);
          served = bench.lt->Record({.weights = weights.data,
                                     .x = bench.rows.get(),
                                     .y = bench.out.get(),
                                     .tokens = tokens,
                                     .outputs = c.outputs,
                                     .inputs = c.inputs},
                                    stream) &&
                   served;
        }
      },
      kRuns);
  return served ? us / layers : 0;
}

void RunCase(Bench& bench, const Case& c, int tokens, bool with_lt) {
  Rng rng(tokens);
  std::vector<Layer> layers;
  std::vector<std::unique_ptr<DeviceTable>> tables;
  double bytes = 0;
  while (bytes < kChainBytes && layers.size() < 64) {
    const HostTable table = MakeTable(RandomRouting(rng, tokens, kTopK, kSlots), kSlots);
    tables.push_back(std::make_unique<DeviceTable>(table));
    const int touched = c.kind == SbiKind::kDense ? 1 : table.active_count[0];
    layers.push_back(MakeLayer(bench, c, tokens, tables.back().get(), touched));
    bytes += static_cast<double>(layers.back().bytes);
  }
  const auto count = static_cast<double>(layers.size());
  const double us = MeasureGraph(
      [&](CudaStream stream) {
        for (const Layer& layer : layers) RecordLayer(layer, stream);
      },
      kRuns);
  PrintLine(bench, c.name, tokens, bytes / count, us / count);
  const SbiConfig& config = layers[0].config;
  std::printf("  [%d blocks, %d splits, %d warps, ring %dx%d, %s, %d KB]", config.blocks,
              config.splits, config.warps_per_item, config.ring_slots, config.slot_tiles,
              config.streamed ? "streamed" : "resident", config.shared.total / 1024);
  if (with_lt) {
    const double lt = LtMicroseconds(bench, c, tokens, static_cast<int>(layers.size()));
    if (lt > 0) std::printf("  cuBLASLt %.2f us", lt);
  }
  std::printf("\n");
  std::fflush(stdout);
}

const Case kQkv = {"qkv 5120x2048", SbiKind::kDense, SbiPrologue::kRows, 5120, 2048};
const Case kO = {"o 2048x4096", SbiKind::kDense, SbiPrologue::kRows, 2048, 4096};
const Case kGateUp = {"gate_up 1536x2048", SbiKind::kGateUp, SbiPrologue::kRows, 1536, 2048};
const Case kDown = {"down 2048x768", SbiKind::kDown, SbiPrologue::kRows, 2048, 768};
const Case kHead = {"head 151936x2048", SbiKind::kDense, SbiPrologue::kRows, 151936, 2048, 1};

// The four products of each of 48 layers.
void RunModel(Bench& bench, const char* name, int tokens) {
  constexpr int kLayers = 48;
  Case qkv = kQkv, o = kO;
  if (tokens <= 4) {
    qkv.prologue = SbiPrologue::kNorm;
    o.prologue = SbiPrologue::kAttention;
  }
  Rng rng(tokens);
  std::vector<Layer> layers;
  std::vector<std::unique_ptr<DeviceTable>> tables;
  double bytes = 0;
  for (int l = 0; l < kLayers; ++l) {
    const HostTable table = MakeTable(RandomRouting(rng, tokens, kTopK, kSlots), kSlots);
    tables.push_back(std::make_unique<DeviceTable>(table));
    for (const Case& c : {qkv, o, kGateUp, kDown}) {
      const int touched = c.kind == SbiKind::kDense ? 1 : table.active_count[0];
      layers.push_back(MakeLayer(bench, c, tokens, tables.back().get(), touched));
      bytes += static_cast<double>(layers.back().bytes);
    }
  }
  const double us = MeasureGraph(
      [&](CudaStream stream) {
        for (const Layer& layer : layers) RecordLayer(layer, stream);
      },
      kRuns);
  PrintLine(bench, name, tokens, bytes / kLayers, us / kLayers);
  std::printf("  a layer; 48 layers %.3f ms\n", us / 1e3);
  std::fflush(stdout);
}

void Sweep(Bench& bench) {
  const auto run = [&](const std::string& name, const Tuning& tuning) {
    bench.tuning = tuning;
    std::printf("-- %s\n", name.c_str());
    RunModel(bench, "layer", 1);
    for (const Case& c : {kQkv, kO, kGateUp, kDown}) RunCase(bench, c, 1, false);
    bench.tuning = {};
  };
  for (const int prefetch : {0, 2, 4, 8, 12}) {
    run("prefetch " + std::to_string(prefetch), {.prefetch_slots = prefetch});
  }
  run("early trigger", {.early_trigger = 1});
  run("early trigger, no prefetch", {.prefetch_slots = 0, .early_trigger = 1});
  run("evict first", {.evict_first = 1});
  run("slots of 2 tiles", {.prefetch_slots = 2, .slot_tiles = 2});
  run("ring of 3", {.ring_slots = 3});
}

int Main(int argc, char** argv) {
  if (const absl::Status device = CheckCudaDevice(0); !device.ok()) {
    std::printf("no device: %s\n", std::string(device.message()).c_str());
    return 0;
  }
  Bench bench;
  std::printf("plain read of %.1f GB: %.0f GB/s; cuBLASLt %s\n", kPoolBytes / 1e9, bench.read / 1e9,
              bench.lt != nullptr ? "loaded" : "not found");
  for (const int tokens : {1, 2, 4, 8, 16, 32, 64}) RunModel(bench, "layer", tokens);
  for (const Case& c : {kQkv, kO, kGateUp, kDown, kHead}) {
    for (const int tokens : {1, 4, 8, 16, 32, 64}) RunCase(bench, c, tokens, true);
  }
  if (argc > 1 && std::strcmp(argv[1], "sweep") == 0) Sweep(bench);
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
#else
int main() { return 0; }
#endif
