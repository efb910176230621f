// Times flash_attention on prompts of the models it is meant for, checks rows of each result, and
// prints TFLOP/s of the causal half: 2 * tokens^2 * heads * head_dim for a prompt of its own.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "absl/status/status.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "glog/logging.h"
#include "kernels/flash_attention/flash_attention.h"
#include "kernels/qkv_post/attention_test_kit.h"

namespace conclave {
namespace {

struct Shape {
  const char* name;
  int sequences, position, tokens;  // of each sequence
  int heads, kv_heads, head_dim;
  FlashKernel kernel = FlashKernel::kAuto;
};

constexpr Shape kShapes[] = {
    {"1 x 8192", 1, 0, 8192, 32, 4, 128},
    {"4 x 2048", 4, 0, 2048, 32, 4, 128},
    {"32 x 512", 32, 0, 512, 32, 4, 128},
    {"128 x 128", 128, 0, 128, 32, 4, 128},
    {"1 x 512", 1, 0, 512, 32, 4, 128},
    {"2048 after 30720", 1, 30720, 2048, 32, 4, 128},
    {"64 x 1 after 4095", 64, 4095, 1, 32, 4, 128},
    {"32 x 512, 16/16 heads", 32, 0, 512, 16, 16, 128},
    {"1 x 8192, 16/16 heads", 1, 0, 8192, 16, 16, 128},
    {"1 x 8192, 32/8 of 64", 1, 0, 8192, 32, 8, 64},
    {"1 x 8192, general", 1, 0, 8192, 32, 4, 128, FlashKernel::kGeneral},
    {"32 x 512, general", 32, 0, 512, 32, 4, 128, FlashKernel::kGeneral},
};

double Flops(const Shape& s) {
  const double pairs = s.tokens * (s.position + s.tokens / 2.0);
  return 4.0 * s.sequences * pairs * s.heads * s.head_dim;
}

// Worst relative error of some rows.
double SampleError(const FlashAttentionArgs& host, const std::vector<uint16_t>& out, Rng& rng) {
  double worst = 0;
  for (int i = 0; i < 24; ++i) {
    const int sequence = static_cast<int>(rng.Below(host.batch.sequences));
    const int first = host.batch.first_token[sequence];
    const int count = host.batch.first_token[sequence + 1] - first;
    const int token = first + (i == 0 ? count - 1 : static_cast<int>(rng.Below(count)));
    const int head = static_cast<int>(rng.Below(host.heads));
    const std::vector<double> want = FlashAttentionRefAt(host, {sequence, token, head});
    double wrong = 0, all = 0;
    for (int d = 0; d < host.cache.head_dim; ++d) {
      const double got = Bf16ToFloat(out[token * host.out_stride + head * host.cache.head_dim + d]);
      wrong += (got - want[d]) * (got - want[d]);
      all += want[d] * want[d];
    }
    worst = std::isnan(wrong) ? INFINITY : std::max(worst, std::sqrt(wrong / all));
  }
  return worst;
}

double TimeGraph(const FlashAttentionArgs& args) {
  constexpr int kLaunches = 8;
  const CudaGraph graph = *CudaGraph::Capture(args.stream, [&] {
    for (int i = 0; i < kLaunches; ++i) {
      if (absl::Status status = FlashAttention(args); !status.ok()) return status;
    }
    return absl::OkStatus();
  });
  const CudaEvent start = *CudaEvent::Create(), end = *CudaEvent::Create();
  double best = INFINITY;
  for (int i = 0; i < 4; ++i) {
    CHECK(start.Record(args.stream).ok());
    CHECK(graph.Launch(args.stream).ok());
    CHECK(end.Record(args.stream).ok());
    CHECK(end.Synchronize().ok()) << "the launch failed";
    best = std::min(best, *end.MicrosecondsSince(start) / kLaunches);
  }
  return best;
}

void Measure(const Shape& shape, CudaStream stream) {
  Rng rng(7);
  const HostBatch batch = MakeBatch(
      rng, std::vector<SequenceSlice>(shape.sequences, {shape.position, shape.tokens}), 16);
  const int64_t columns = int64_t{shape.heads} * shape.head_dim;
  const int64_t tokens = batch.first_token.back();
  // Random values repeat, which a host fills faster than it draws them.
  std::vector<uint16_t> cache(int64_t{batch.pages} * 32 * shape.kv_heads * shape.head_dim);
  std::vector<uint16_t> q(tokens * columns);
  const std::vector<uint16_t> some = RandomBf16(rng, 65521, 1);
  for (size_t i = 0; i < cache.size(); ++i) cache[i] = some[i % some.size()];
  for (size_t i = 0; i < q.size(); ++i) q[i] = some[(i + 777) % some.size()];
  const DeviceBatch device_batch(batch);
  const DeviceArray<uint16_t> device_cache(cache), device_q(q);
  DeviceArray<uint16_t> out(tokens * columns);
  DeviceArray<int32_t> counter(1);
  counter.Fill(0);
  out.Fill(0xff);
  SynchronizeDevice();
  FlashAttentionArgs args;
  args.batch = device_batch.view();
  args.cache = {device_cache.get(), batch.pages, 16, shape.kv_heads, shape.head_dim};
  args.heads = shape.heads;
  args.scale = static_cast<float>(1 / std::sqrt(shape.head_dim));
  args.q = device_q.get();
  args.out = out.get();
  args.q_stride = args.out_stride = columns;
  args.counter = counter.get();
  args.kernel = shape.kernel;
  args.stream = stream;
  const double us = TimeGraph(args);
  FlashAttentionArgs host = args;
  host.batch = batch.view();
  host.cache.data = cache.data();
  host.q = q.data();
  std::printf("%-24s %9.1f us %7.1f TFLOP/s, error %.1e\n", shape.name, us,
              Flops(shape) / us * 1e-6, SampleError(host, out.Read(), rng));
  std::fflush(stdout);
}

}  // namespace
}  // namespace conclave

int main() {
  if (const absl::Status device = conclave::CheckCudaDevice(0); !device.ok()) {
    std::printf("skipped: %s\n", device.ToString().c_str());
    return 0;
  }
  const auto stream = conclave::CudaStreamOwner::Create();
  CHECK(stream.ok()) << stream.status();
  for (const auto& shape : conclave::kShapes) conclave::Measure(shape, stream->get());
  return 0;
}
