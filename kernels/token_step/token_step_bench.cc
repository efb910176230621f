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
#include "kernels/token_step/token_device_memory.h"
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
  CHECK(SynchronizeCudaDevice().ok());
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
        pool_ = std::make_unique<TokenBytes>(used_);
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
    WeightView v = {.outputs = outputs,
                    .inputs = inputs,
                    .matrices = matrices,
                    .format = format,
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
    l.cache = {Take(int64_t{pages} * 2 * kv * s.page_tokens * 2), pages, s.page_tokens, s.kv_heads,
               s.head_dim};
    return l;
  }

  TokenShape shape_;
  std::unique_ptr<TokenBytes> pool_;
  int64_t used_ = 0, total_ = 0;
  std::vector<TokenLayer> layers_;
};

#ifdef TOKEN_TRACE
const char* const kStampNames[] = {"q:issued",
                                   "x-there",
                                   "sync",
                                   "gemv",
                                   "sync",
                                   "epilogue",
                                   "arrived",
                                   "a:loads-issued",
                                   "waited",
                                   "head",
                                   "sync",
                                   "attended",
                                   "published+sync",
                                   "merged",
                                   "layer-loaded",
                                   "arrived",
                                   "o:loads-issued",
                                   "waited",
                                   "staged",
                                   "sync",
                                   "gemv",
                                   "sync",
                                   "row",
                                   "logits",
                                   "parts",
                                   "arrived",
                                   "g:issued",
                                   "x-there",
                                   "sync",
                                   "chosen",
                                   "gemv",
                                   "sync",
                                   "epilogue",
                                   "arrived",
                                   "d:norm-issued",
                                   "issued",
                                   "x-there",
                                   "sync",
                                   "gemv",
                                   "sync",
                                   "row",
                                   "arrived"};

// Nanoseconds from stamp to stamp of thread 0: mean over layers, of some blocks and of all.
void PrintStamps(const std::vector<uint64_t>& stamps, int layers, int blocks) {
  const int count = std::size(kStampNames);
  for (int i = 0; i < count; ++i) {
    std::printf("%s%s", kStampNames[i][1] == ':' ? "\n    " : "  ", kStampNames[i]);
    const int chosen[] = {1, 65, -1};
    for (const int which : chosen) {
      double sum = 0;
      int number = 0;
      for (int l = 2; l < layers; ++l) {
        for (int b = which < 0 ? 1 : which; b < (which < 0 ? 33 : which + 1); ++b) {
          const uint64_t* at = &stamps[(int64_t{l} * blocks + b) * kTokenStamps + i];
          const uint64_t* before = i > 0 ? at - 1 : at - int64_t{blocks} * kTokenStamps + count - 1;
          sum += static_cast<double>(*at - *before) / 1.98;
          ++number;
        }
      }
      std::printf("%c%.0f", which == 1 ? ' ' : '/', sum / number);
    }
  }
  std::printf("\n");
}
#endif

void Measure(const BenchModel& model, int position) {
  const TokenShape& s = model.shape;
  if (!TokenStepRuns(s)) {
    std::printf("%s: does not run\n", model.name);
    return;
  }
  const Weights weights(s);
  CHECK_EQ(CheckTokenLayers(s, weights.layers()), absl::OkStatus());
  TokenArray<TokenLayer> layers(weights.layers());
  TokenArray<float> residual(std::vector<float>(s.hidden, 1.0f));
  TokenArray<int32_t> positions(std::vector<int32_t>{position});
  std::vector<int32_t> table(position / s.page_tokens + 1);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i * 37 % 128);
  TokenArray<int32_t> pages(table);
  TokenArray<float> rope(int64_t{position + 1} * s.head_dim);
  FillPool(rope.data(), rope.bytes());
  TokenArray<uint8_t> workspace(TokenStepWorkspaceBytes(s));
  workspace.Fill(0);
  TokenArray<int32_t> chosen(s.moe_layers * s.top_k);
  const int blocks = ListCudaDevices().value()[0].sm_count;
  TokenArray<uint64_t> stamps(int64_t{s.layers} * blocks * kTokenStamps);
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
  std::printf(
      "%-12s position %5d: %7.2f us a layer, %6.1f MB a layer, %5.0f GB/s, %4.1f %% of "
      "read (%.0f GB/s); step %.3f ms, pool %.1f GB\n",
      model.name, position, us / s.layers, bytes / s.layers * 1e-6, bytes / us * 1e-3,
      bytes / us * 1e8 / read, read * 1e-9, us * 1e-3, static_cast<double>(weights.total()) * 1e-9);
#ifdef TOKEN_TRACE
  args.stamps = stamps.get();
  const double traced = MeasureGraph(record, 5);
  std::printf("    traced %.2f us a layer", traced / s.layers);
  PrintStamps(stamps.Read(), s.layers, blocks);
#endif
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
