// Microseconds a layer of token_step on the shapes of two models, with distinct weights for every
// layer, as a share of a plain read of the same bytes in the same run; and where block 0 spends
// its time. Usage: token_step_bench [model] [position]; a model is a name's part.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "glog/logging.h"
#include "kernels/cuda/stream_read.h"
#include "kernels/sbi_gemm/sbi_test_kit.h"
#include "kernels/token_step/token_step.h"
#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {
namespace {

#if CONCLAVE_CUDA
// Small bf16 numbers of both signs, none special: a random piece, again and again.
void FillPool(void* pool, int64_t bytes) {
  Rng rng(1);
  std::vector<uint64_t> piece(std::min<int64_t>(bytes, 16 << 20) / 8);
  for (uint64_t& word : piece) {
    word = (rng.Next() & 0x80ff80ff80ff80ffu) | 0x3c003c003c003c00u;
  }
  auto* to = static_cast<uint8_t*>(pool);
  int64_t filled = static_cast<int64_t>(piece.size()) * 8;
  CHECK(CopyToDevice(to, piece.data(), filled, nullptr).ok());
  while (filled < bytes) {
    const int64_t more = std::min(filled, bytes - filled);
    CHECK(CopyOnDevice(to + filled, to, more, nullptr).ok());
    filled += more;
  }
  SynchronizeDevice();
}

// Median microseconds of a graph of what `record` puts into a stream.
double MeasureGraph(const std::function<void(CudaStream)>& record, int runs) {
  const CudaStreamOwner stream = CudaStreamOwner::Create().value();
  const CudaEvent begin = CudaEvent::Create().value(), end = CudaEvent::Create().value();
  const CudaGraph graph = CudaGraph::Capture(stream.get(), [&] {
                            record(stream.get());
                            return absl::OkStatus();
                          }).value();
  std::vector<double> times;
  for (int i = 0; i < runs + 2; ++i) {
    CHECK(begin.Record(stream.get()).ok());
    CHECK_EQ(graph.Launch(stream.get()), absl::OkStatus());
    CHECK(end.Record(stream.get()).ok());
    CHECK_EQ(end.Synchronize(), absl::OkStatus());
    if (i >= 2) times.push_back(end.MicrosecondsSince(begin).value());
  }
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return times[runs / 2];
}

struct BenchModel {
  const char* name;
  TokenShape shape;
};

TokenShape Qwen3(WeightFormat format) {
  TokenShape s;
  s.layers = s.moe_layers = 48;
  s.hidden = 2048;
  s.heads = 32;
  s.kv_heads = 4;
  s.head_dim = 128;
  s.qk_norm = TokenQkNorm::kPerHead;
  s.experts = 128;
  s.top_k = 8;
  s.ffn = 768;
  s.format = format;
  s.group = QuantGroup(format, 0);
  return s;
}

TokenShape Olmoe(WeightFormat format) {
  TokenShape s = Qwen3(format);
  s.layers = s.moe_layers = 16;
  s.heads = s.kv_heads = 16;
  s.qk_norm = TokenQkNorm::kFullWidth;
  s.experts = 64;
  s.normalize = false;
  s.ffn = 1024;
  return s;
}

class Weights {
 public:
  explicit Weights(const TokenShape& shape) : shape_(shape) {
    for (const bool measure : {true, false}) {
      if (!measure) {
        pool_ = std::make_unique<DeviceBytes>(used_);
        FillPool(pool_->data(), used_);
        total_ = used_;
        used_ = 0;
      }
      layers_.clear();
      for (int i = 0; i < shape.layers; ++i) layers_.push_back(Layer());
    }
  }
  const std::vector<TokenLayer>& layers() const { return layers_; }
  int64_t total() const { return total_; }
  // Read by a step.
  int64_t StepBytes() const {
    int64_t bytes = 0;
    for (const TokenLayer& l : layers_) {
      bytes += l.qkv.matrix_bytes + l.output.matrix_bytes + l.router.matrix_bytes +
               shape_.top_k * (l.gate_up.matrix_bytes + l.down.matrix_bytes);
    }
    return bytes;
  }

 private:
  void* Take(int64_t bytes) {
    void* place = pool_ == nullptr ? nullptr : static_cast<uint8_t*>(pool_->data()) + used_;
    used_ += (bytes + 1023) / 1024 * 1024;
    return place;
  }
  WeightView Matrix(int outputs, int inputs, int matrices, WeightFormat format) {
    WeightView v = {.outputs = outputs, .inputs = inputs, .matrices = matrices, .format = format,
                    .group = format == WeightFormat::kBf16 ? 0 : shape_.group};
    v.matrix_bytes = MatrixBytes(v);
    v.data = Take(v.matrix_bytes * matrices);
    return v;
  }
  TokenLayer Layer() {
    const TokenShape& s = shape_;
    const int heads = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    TokenLayer l;
    l.qkv = Matrix(heads + 2 * kv, s.hidden, 1, s.format);
    l.output = Matrix(s.hidden, heads, 1, s.format);
    l.router = Matrix(s.experts, s.hidden, 1, WeightFormat::kBf16);
    l.gate_up = Matrix(2 * s.ffn, s.hidden, s.experts, s.format);
    l.down = Matrix(s.hidden, s.ffn, s.experts, s.format);
    l.input_norm = static_cast<const float*>(Take(s.hidden * 4));
    l.ffn_norm = static_cast<const float*>(Take(s.hidden * 4));
    l.q_norm = static_cast<const float*>(Take(heads * 4));
    l.k_norm = static_cast<const float*>(Take(heads * 4));
    const int pages = 128;
    l.cache = {Take(int64_t{pages} * 2 * kv * s.page_tokens * 2), pages, s.page_tokens,
               s.kv_heads, s.head_dim};
    return l;
  }

  TokenShape shape_;
  std::unique_ptr<DeviceBytes> pool_;
  int64_t used_ = 0, total_ = 0;
  std::vector<TokenLayer> layers_;
};

// Mean over layers of each stamp's first, mean and last block, from the layer's first stamp on.
void PrintStamps(const std::vector<uint64_t>& stamps, int layers, int blocks) {
  static const char* const kNames[14] = {"qkv:begin", "staged", "done", "", "attended",
                                         "o:begin", "staged", "done", "gate_up:begin", "chosen",
                                         "done", "down:begin", "staged", "done"};
  const auto at = [&](int layer, int block, int what) {
    return static_cast<double>(
        stamps[(int64_t{layer} * blocks + block) * kTokenStamps + what]);
  };
  for (int i = 0; i < 14; ++i) {
    if (*kNames[i] == 0) continue;
    double first = 0, mean = 0, last = 0;
    for (int l = 1; l < layers; ++l) {
      double begin = 1e30, low = 1e30, high = 0, sum = 0;
      for (int b = 0; b < blocks; ++b) {
        begin = std::min(begin, at(l, b, 0));
        low = std::min(low, at(l, b, i));
        high = std::max(high, at(l, b, i));
        sum += at(l, b, i) / blocks;
      }
      first += (low - begin) * 1e-3 / (layers - 1);
      mean += (sum - begin) * 1e-3 / (layers - 1);
      last += (high - begin) * 1e-3 / (layers - 1);
    }
    std::printf("%s%s %.2f/%.2f/%.2f", i % 5 == 0 ? "\n    " : "  ", kNames[i], first, mean, last);
  }
  std::printf("\n");
}

void Measure(const BenchModel& model, int position) {
  const TokenShape& s = model.shape;
  if (!TokenStepRuns(s)) {
    std::printf("%s: does not run\n", model.name);
    return;
  }
  const Weights weights(s);
  CHECK_EQ(CheckTokenLayers(s, weights.layers()), absl::OkStatus());
  DeviceArray<TokenLayer> layers(weights.layers());
  DeviceArray<float> residual(std::vector<float>(s.hidden, 1.0f));
  DeviceArray<int32_t> positions(std::vector<int32_t>{position});
  std::vector<int32_t> table(position / s.page_tokens + 1);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i * 37 % 128);
  DeviceArray<int32_t> pages(table);
  DeviceArray<float> rope(int64_t{position + 1} * s.head_dim);
  FillPool(rope.data(), rope.bytes());
  DeviceArray<uint8_t> workspace(TokenStepWorkspaceBytes(s));
  workspace.Fill(0);
  DeviceArray<int32_t> chosen(s.moe_layers * s.top_k);
  const int blocks = ListCudaDevices().value()[0].sm_count;
  DeviceArray<uint64_t> stamps(int64_t{s.layers} * blocks * kTokenStamps);
  TokenStepArgs args;
  args.shape = s;
  args.layers = layers.get();
  args.residual = residual.get();
  args.position = positions.get();
  args.page_table = pages.get();
  args.rope = rope.get();
  args.workspace = workspace.data();
  args.chosen = chosen.get();
  const auto record = [&](CudaStream stream) {
    args.stream = stream;
    CHECK_EQ(TokenStep(args), absl::OkStatus());
  };
  const double us = MeasureGraph(record, 21);
  const double read = MeasureDeviceReadBandwidth(int64_t{4} << 30).value();
  const double bytes = static_cast<double>(weights.StepBytes());
  std::printf("%-12s position %5d: %7.2f us a layer, %6.1f MB a layer, %5.0f GB/s, %4.1f %% of "
              "read (%.0f GB/s); step %.3f ms, pool %.1f GB\n",
              model.name, position, us / s.layers, bytes / s.layers * 1e-6, bytes / us * 1e-3,
              bytes / us * 1e8 / read, read * 1e-9, us * 1e-3,
              static_cast<double>(weights.total()) * 1e-9);
  args.stamps = stamps.get();
  const double traced = MeasureGraph(record, 5);
  std::printf("    traced %.2f us a layer; first/mean/last block:", traced / s.layers);
  PrintStamps(stamps.Read(), s.layers, blocks);
  std::fflush(stdout);
}

void Run(const char* filter, int position) {
  const BenchModel models[] = {
      {"olmoe-bf16", Olmoe(WeightFormat::kBf16)}, {"olmoe-int4", Olmoe(WeightFormat::kInt4)},
      {"qwen3-bf16", Qwen3(WeightFormat::kBf16)}, {"qwen3-fp8", Qwen3(WeightFormat::kFp8)},
      {"qwen3-int8", Qwen3(WeightFormat::kInt8)}, {"qwen3-int4", Qwen3(WeightFormat::kInt4)}};
  for (const BenchModel& model : models) {
    if (std::strstr(model.name, filter) != nullptr) Measure(model, position);
  }
}
#else
void Run(const char*, int) { std::printf("built without CUDA\n"); }
#endif

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  const absl::Status status = conclave::CheckCudaDevice(0);
  if (!status.ok()) {
    std::printf("%s\n", std::string(status.message()).c_str());
    return 0;
  }
  conclave::Run(argc > 1 ? argv[1] : "", argc > 2 ? std::atoi(argv[2]) : 512);
  return 0;
}
