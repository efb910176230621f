// Decode and prefill of one layer, heads of 128; the counter is the share of the context's cache
// bytes read per second (decode), to be held against the machine's memory bandwidth.
#include <cmath>
#include <vector>

#include "benchmark/benchmark.h"
#include "comm/base/rng.h"
#include "kernels/attention/paged_attention.h"

namespace conclave {
namespace {

// One sequence of `context` tokens, the last `tokens` of which are computed.
void RunAttention(benchmark::State& state, Dtype dtype, int kv_heads) {
  const int heads = 16, head_dim = 128, page_tokens = 16;
  const int tokens = static_cast<int>(state.range(0)), context = static_cast<int>(state.range(1));
  const int pages = (context + page_tokens - 1) / page_tokens;
  KvLayer cache{nullptr, dtype, pages, page_tokens, kv_heads, head_dim};
  std::vector<float> memory(pages * cache.PageBytes() / sizeof(float) + 16);
  cache.data = memory.data();
  const std::vector<int32_t> first_token = {0, tokens}, position = {context - tokens},
                             first_page = {0, pages};
  std::vector<int32_t> table(pages);
  for (int i = 0; i < pages; ++i) table[i] = i;
  const int64_t width = heads * head_dim;
  std::vector<float> q(tokens * width, 0.01f), out(tokens * width);
  const AttentionArgs args{{first_token, position, first_page, table},
                           {q.data(), tokens, width, width},
                           cache,
                           heads,
                           1.0f / std::sqrt(128.0f),
                           {out.data(), tokens, width, width}};
  ComputePool pool(2);
  for (auto _ : state) PagedAttention(args, pool);
  state.SetBytesProcessed(state.iterations() * pages * cache.PageBytes());
  state.counters["flops"] =
      benchmark::Counter(4.0 * width * tokens * (context - tokens / 2.0) * state.iterations(),
                         benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(RunAttention, f32, Dtype::kF32, 16)
    ->Args({1, 512})
    ->Args({1, 4096})
    ->Args({512, 512});
BENCHMARK_CAPTURE(RunAttention, bf16_gqa, Dtype::kBf16, 4)->Args({1, 4096})->Args({512, 512});

}  // namespace
}  // namespace conclave

BENCHMARK_MAIN();
