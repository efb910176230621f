// Times decode_attention in a graph of dependent launches over caches of many layers, so that none
// is in L2, and prints microseconds a launch, GB/s of K and V, and the share of a streaming read.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "absl/status/status.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "glog/logging.h"
#include "kernels/cuda/stream_read.h"
#include "kernels/decode_attention/decode_attention.h"
#include "kernels/qkv_post/attention_test_kit.h"

namespace conclave {
namespace {

struct Shape {
  int tokens, context, heads, kv_heads, head_dim;
  int qkv_splits = 4;
  GpuQkNorm norm = GpuQkNorm::kPerHead;
  int splits = 0;  // 0: as chosen
  bool join = false;
};

constexpr Shape kShapes[] = {
    {1, 512, 32, 4, 128},
    {1, 512, 32, 4, 128, 4, GpuQkNorm::kPerHead, 4},
    {1, 512, 32, 4, 128, 1},
    {1, 512, 32, 4, 128, 8},
    {1, 512, 16, 16, 128, 4, GpuQkNorm::kFullWidth},
    {1, 128, 32, 4, 128},
    {1, 4096, 32, 4, 128},
    {1, 4096, 32, 4, 128, 4, GpuQkNorm::kPerHead, 32, true},
    {1, 32768, 32, 4, 128},
    {1, 131072, 32, 4, 128},
    {8, 512, 32, 4, 128},
    {8, 4096, 32, 4, 128},
    {32, 512, 32, 4, 128, 1},
    {32, 4096, 32, 4, 128, 1},
    {32, 4096, 16, 16, 128, 1, GpuQkNorm::kFullWidth},
    {64, 1024, 32, 4, 128, 0},
    {128, 2048, 32, 4, 128, 0},
};

constexpr int64_t kCacheBytes = int64_t{3} << 30;
constexpr int kLayersMax = 96;

// Memory of a shape: layers of cache one after the other, and what all of them share.
struct Bench {
  Bench(const Shape& s, const HostBatch& host)
      : batch(host),
        layer_bytes(int64_t{host.pages} * 64 * s.kv_heads * s.head_dim),
        layers(static_cast<int>(std::min<int64_t>(kLayersMax, kCacheBytes / layer_bytes))),
        row((s.heads + 2 * s.kv_heads) * s.head_dim),
        cache(layers * layer_bytes),
        qkv(std::max(s.qkv_splits, 1) * s.tokens * row * 4),
        weights((s.heads + s.kv_heads) * s.head_dim * 4),
        rope(int64_t{s.context} * s.head_dim * 4),
        o(int64_t{kDecodeSplitsMax} * s.tokens * s.heads * s.head_dim * 4),
        ml(int64_t{kDecodeSplitsMax} * s.tokens * s.heads * 8),
        out(int64_t{s.tokens} * s.heads * s.head_dim * 2) {
    for (DeviceBytes* bytes : {&cache, &qkv, &weights, &rope}) bytes->Fill(0x3c);
    SynchronizeDevice();
  }
  DeviceBatch batch;
  int64_t layer_bytes;
  int layers;
  int64_t row;
  DeviceBytes cache, qkv, weights, rope, o, ml, out;
};

DecodeAttentionArgs MakeArgs(const Shape& s, const HostBatch& host, const Bench& bench) {
  DecodeAttentionArgs args;
  args.batch = bench.batch.view();
  args.cache = {bench.cache.data(), host.pages, 16, s.kv_heads, s.head_dim};
  args.heads = s.heads;
  args.scale = static_cast<float>(1 / std::sqrt(s.head_dim));
  args.qkv.row_stride = bench.row;
  if (s.qkv_splits == 0) {
    args.qkv.rows = bench.qkv.data();
  } else {
    args.qkv.partials = static_cast<const float*>(bench.qkv.data());
    args.qkv.splits = s.qkv_splits;
    args.qkv.slab_stride = s.tokens * bench.row;
  }
  const auto* weights = static_cast<const float*>(bench.weights.data());
  args.norm = {s.norm, weights, weights, 1e-6f};
  args.rope = static_cast<const float*>(bench.rope.data());
  auto* ml = static_cast<float*>(bench.ml.data());
  args.splits = {static_cast<float*>(bench.o.data()), ml,
                 ml + kDecodeSplitsMax * s.tokens * s.heads};
  args.history_ready_early = true;
  args.dependent = true;
  return args;
}

void Measure(const Shape& s, double read, CudaStream stream) {
  Rng rng(7);
  const HostBatch host =
      MakeBatch(rng, std::vector<SequenceSlice>(s.tokens, {s.context - 1, 1}), 16);
  const Bench bench(s, host);
  DecodeAttentionConfig config =
      *ChooseDecodeAttentionConfig({s.context, s.tokens, s.heads, s.kv_heads, s.head_dim});
  if (s.splits > 0) config.splits = s.splits;
  config.combine |= s.join;
  DecodeAttentionArgs args = MakeArgs(s, host, bench);
  args.stream = stream;
  if (config.combine) args.out = bench.out.data();
  args.out_stride = s.heads * s.head_dim;
  const auto graph = CudaGraph::Capture(stream, [&] {
    for (int layer = 0; layer < bench.layers; ++layer) {
      args.cache.data = static_cast<uint8_t*>(bench.cache.data()) + layer * bench.layer_bytes;
      if (absl::Status status = DecodeAttention(args, config); !status.ok()) return status;
    }
    return absl::OkStatus();
  });
  CHECK(graph.ok()) << graph.status();
  const CudaEvent start = *CudaEvent::Create(), end = *CudaEvent::Create();
  double best = INFINITY;
  for (int i = 0; i < 5; ++i) {
    CHECK(start.Record(stream).ok());
    CHECK(graph->Launch(stream).ok());
    CHECK(end.Record(stream).ok());
    CHECK(end.Synchronize().ok()) << "the launch failed";
    best = std::min(best, *end.MicrosecondsSince(start) / bench.layers);
  }
  const double bytes = 4.0 * s.tokens * s.context * s.kv_heads * s.head_dim;
  std::printf("%3d x %6d, %2d/%2d heads, qkv %d, splits %2d%s %8.2f us %7.1f GB/s %5.1f %%\n",
              s.tokens, s.context, s.heads, s.kv_heads, s.qkv_splits, config.splits,
              config.combine ? " joined" : "       ", best, bytes / best * 1e-3,
              bytes / best * 1e8 / read);
  std::fflush(stdout);
}

}  // namespace
}  // namespace conclave

int main() {
  if (const absl::Status device = conclave::CheckCudaDevice(0); !device.ok()) {
    std::printf("skipped: %s\n", device.ToString().c_str());
    return 0;
  }
  const auto read = conclave::MeasureDeviceReadBandwidth(int64_t{2} << 30);
  CHECK(read.ok()) << read.status();
  std::printf("streaming read %.1f GB/s\n", *read * 1e-9);
  const auto stream = conclave::CudaStreamOwner::Create();
  CHECK(stream.ok()) << stream.status();
  for (const auto& shape : conclave::kShapes) conclave::Measure(shape, *read, stream->get());
  return 0;
}
