// How fast dummy weights are made and packed: the OLMoE-1B-7B shape with fewer layers, and the
// source alone. The counter is bytes of checkpoint per second.
#include <vector>

#include "benchmark/benchmark.h"
#include "glog/logging.h"
#include "worker/weights/dummy_source.h"
#include "worker/weights/model_weights.h"
#include "worker/weights/weights_test_kit.h"

namespace conclave {
namespace {

ModelShape Olmoe(int layers) {
  ModelShape shape;
  shape.architecture = Architecture::kOlmoe;
  shape.layers = layers;
  shape.hidden = 2048;
  shape.heads = shape.kv_heads = 16;
  shape.head_dim = 128;
  shape.ffn = 1024;
  shape.vocab = 50304;
  shape.qk_norm = QkNorm::kFullWidth;
  shape.moe = {64, 8, 1024, false};
  return shape;
}

void ReadDummy(benchmark::State& state) {
  const ModelShape shape = Olmoe(1);
  DummySource source(shape, 1);
  std::vector<uint16_t> out(512 * 2048);
  for (auto _ : state) {
    CHECK(source.Read("model.embed_tokens.weight", {0, 512, 0, 2048}, out.data()).ok());
  }
  state.SetBytesProcessed(source.bytes_read());
}
BENCHMARK(ReadDummy);

void LoadDummy(benchmark::State& state) {
  const ModelShape shape = Olmoe(2);
  const Assign assign = MakeAssign(shape, "tp=1", 0);
  DummySource source(shape, 1);
  ComputePool pool(static_cast<int>(state.range(0)));
  std::atomic<uint64_t> progress{0};
  const std::atomic<bool> cancelled{false};
  for (auto _ : state) {
    CHECK(LoadModelWeights(assign, source, pool, progress, cancelled).ok());
  }
  state.SetBytesProcessed(source.bytes_read());
}
BENCHMARK(LoadDummy)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace conclave

BENCHMARK_MAIN();
