// Prefill and decode of one worker on random weights of OLMoE-1B-7B's layers, each as a share of
// the memory bandwidth measured in the same run. usage: engine_bench [LAYERS [THREADS
// [PROMPT_TOKENS [DECODE_STEPS]]]]
#include <cstdio>
#include <cstdlib>

#include "glog/logging.h"
#include "kernels/tensor/bench_kit.h"
#include "worker/engine/engine_cluster.h"

namespace conclave {
namespace {

ModelShape OlmoeShape(int layers) {
  ModelShape shape;
  shape.architecture = Architecture::kOlmoe;
  shape.layers = layers;
  shape.hidden = 2048;
  shape.heads = shape.kv_heads = 16;
  shape.head_dim = 128;
  shape.vocab = 50304;
  shape.context_tokens = 4096;
  shape.norm_epsilon = 1e-5f;
  shape.qk_norm = QkNorm::kFullWidth;
  shape.moe = {64, 8, 1024, false};
  return shape;
}

void Print(const char* what, const std::vector<StepResult>& steps, int tokens, double limit) {
  StepTimings sum;
  int64_t bytes = 0;
  for (const StepResult& step : steps) {
    sum.total_us += step.timings.total_us;
    sum.attention_us += step.timings.attention_us;
    sum.experts_us += step.timings.experts_us;
    sum.exchange_us += step.timings.exchange_us;
    sum.head_us += step.timings.head_us;
    bytes += step.weight_bytes_read;
  }
  const double gbps = static_cast<double>(bytes) / static_cast<double>(sum.total_us) / 1e3;
  std::printf(
      "%-8s %8.2f ms/step %8.2f tok/s %6.2f GB/s (%2.0f %% of %.1f)  attention %.2f "
      "experts %.2f exchange %.2f head %.2f ms/step\n",
      what, sum.total_us / 1e3 / steps.size(), tokens / (sum.total_us / 1e6), gbps,
      100 * gbps / limit, limit, sum.attention_us / 1e3 / steps.size(),
      sum.experts_us / 1e3 / steps.size(), sum.exchange_us / 1e3 / steps.size(),
      sum.head_us / 1e3 / steps.size());
}

int Main(int layers, int threads, int prompt_tokens, int decode_steps) {
  double limit = 0;
  {
    ComputePool pool(threads);
    limit = MeasureReadBandwidth(pool, 1LL << 30);
  }
  EngineClusterOptions options;
  options.shape = OlmoeShape(layers);
  options.source.dummy = true;
  options.threads = threads;
  options.timeout = absl::Minutes(10);
  auto cluster = EngineCluster::Create(options);
  CHECK(cluster.ok()) << cluster.status();
  EngineRequest request;
  for (int i = 0; i < prompt_tokens; ++i) request.prompt.push_back(i * 97 % options.shape.vocab);
  request.tokens_max = decode_steps + 1;
  const auto run = (*cluster)->Run({request}, 0);
  CHECK(run.ok()) << run.status();
  std::vector<StepResult> steps;
  for (const auto& step : run->steps) steps.push_back(step[0]);
  std::printf("OLMoE-1B-7B shape, %d layers, %d threads, %.2f GB of weights\n", layers, threads,
              (*cluster)->prepared()[0].weight_bytes / 1e9);
  Print("prefill", {steps.front()}, prompt_tokens, limit);
  steps.erase(steps.begin());
  Print("decode", steps, decode_steps, limit);
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  const auto argument = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  return conclave::Main(argument(1, 4), argument(2, 2), argument(3, 512), argument(4, 64));
}
