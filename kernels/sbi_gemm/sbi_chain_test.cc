// A chain of layers as in decode: with programmatic dependent launch in a graph it gives the bits
// of the same kernels run one at a time.
#include <memory>
#include <vector>

#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/sbi_gemm/sbi_gemm.h"
#include "kernels/sbi_gemm/sbi_test_kit.h"

#if CONCLAVE_CUDA
#include <cuda_runtime.h>

namespace conclave {
namespace {

constexpr int kHidden = 512, kAttention = 640, kHeads = 10, kFfn = 128, kSlots = 16, kTopK = 4;
constexpr int kLayers = 6, kReplays = 40;

struct Matrix {
  Matrix(Rng& rng, int outputs, int inputs, int matrices)
      : host(RandomWeights(rng, outputs, inputs, matrices)), tiles(host.tiles) {
    view = host.view;
    view.data = tiles.get();
  }
  HostWeights host;
  DeviceArray<uint8_t> tiles;
  WeightView view;
};

// Layers over the same buffers, each with its own weights.
class Chain {
 public:
  Chain(Rng& rng, int tokens, bool early)
      : tokens_(tokens),
        table_(MakeTable(RandomRouting(rng, tokens, kTopK, kSlots), kSlots)),
        norm_(RandomFloats(rng, kHidden, 0.05f)),
        gates_(RandomFloats(rng, tokens * kTopK, 0.3f)),
        zeros_(std::vector<float>(16 * tokens * kHeads, 0)),
        ones_(std::vector<float>(16 * tokens * kHeads, 1)),
        start_(RandomFloats(rng, tokens * kHidden, 1)),
        residual_a_(tokens * kHidden),
        residual_b_(tokens * kHidden),
        qkv_(16 * tokens * kAttention),
        o_(16 * tokens * kHidden),
        h_(tokens * kTopK * kFfn),
        down_(tokens * kTopK * kHidden),
        early_(early) {
    for (int l = 0; l < kLayers; ++l) {
      qkv_weights_.push_back(std::make_unique<Matrix>(rng, kAttention, kHidden, 1));
      o_weights_.push_back(std::make_unique<Matrix>(rng, kHidden, kAttention, 1));
      gate_up_weights_.push_back(std::make_unique<Matrix>(rng, 2 * kFfn, kHidden, kSlots));
      down_weights_.push_back(std::make_unique<Matrix>(rng, kHidden, kFfn, kSlots));
    }
  }

  void Reset() {
    residual_a_.Upload(start_.data());
    for (DeviceBytes* bytes :
         {static_cast<DeviceBytes*>(&residual_b_), static_cast<DeviceBytes*>(&qkv_),
          static_cast<DeviceBytes*>(&o_), static_cast<DeviceBytes*>(&h_)}) {
      bytes->Fill(0xff);
    }
    down_.Fill(0);
  }

  // With `wait` one kernel at a time.
  absl::Status Run(CudaStream stream, bool dependent, bool wait) {
    for (int l = 0; l < kLayers; ++l) {
      for (const SbiArgs& args : {Qkv(l), O(l), GateUp(l), Down(l)}) {
        const absl::Status status =
            SbiGemm(args, ConfigOf(args), {.stream = stream, .dependent = dependent});
        if (!status.ok()) return status;
        if (wait) SynchronizeDevice();
      }
    }
    return absl::OkStatus();
  }

  std::vector<float> Result() const {
    std::vector<float> result = down_.Read();
    const std::vector<float> residual = residual_a_.Read();
    result.insert(result.end(), residual.begin(), residual.end());
    return result;
  }

 private:
  SbiConfig ConfigOf(const SbiArgs& args) const {
    const bool routed = args.table.active_count != nullptr;
    SbiShape shape = {.kind = args.kind,
                      .prologue = args.prologue,
                      .outputs = args.weights.outputs,
                      .inputs = args.weights.inputs,
                      .tokens = tokens_,
                      .slots = routed ? kSlots : 0,
                      .top_k = routed ? kTopK : 1,
                      .attention_splits = args.attention.splits};
    return ChooseSbiConfig(shape).value();
  }
  SbiArgs Qkv(int layer) const {
    SbiArgs args = {
        .prologue = SbiPrologue::kNorm, .weights = qkv_weights_[layer]->view, .tokens = tokens_};
    args.norm = {.residual_in = residual_a_.get(),
                 .residual_out = residual_b_.get(),
                 .norm_weight = norm_.get(),
                 .partials = down_.get(),
                 .pending = kTopK,
                 .row_stride = kHidden,
                 .gate_weights = gates_.get()};
    args.out = qkv_.get();
    args.out_stride = kAttention;
    args.slab_stride = tokens_ * kAttention;
    return args;
  }
  SbiArgs O(int layer) const {
    SbiArgs args = {
        .prologue = SbiPrologue::kAttention, .weights = o_weights_[layer]->view, .tokens = tokens_};
    args.attention = {.o = qkv_.get(),
                      .m = zeros_.get(),
                      .l = ones_.get(),
                      .splits = ConfigOf(Qkv(layer)).splits,
                      .heads = kHeads};
    args.out = o_.get();
    args.out_stride = kHidden;
    args.slab_stride = tokens_ * kHidden;
    return args;
  }
  SbiArgs GateUp(int layer) const {
    SbiArgs args = {.kind = SbiKind::kGateUp,
                    .prologue = SbiPrologue::kNorm,
                    .weights = gate_up_weights_[layer]->view,
                    .tokens = tokens_};
    args.norm = {.residual_in = residual_b_.get(),
                 .residual_out = residual_a_.get(),
                 .norm_weight = norm_.get(),
                 .partials = o_.get(),
                 .pending = ConfigOf(O(layer)).splits,
                 .slab_stride = tokens_ * kHidden,
                 .row_stride = kHidden};
    args.table = table_.view(kTopK);
    args.table.ready_early = early_;
    args.hidden = h_.get();
    args.hidden_stride = kFfn;
    return args;
  }
  SbiArgs Down(int layer) const {
    SbiArgs args = {
        .kind = SbiKind::kDown, .weights = down_weights_[layer]->view, .tokens = tokens_};
    args.rows = {.x = h_.get(), .stride = kFfn};
    args.table = table_.view(kTopK);
    args.table.ready_early = true;
    args.out = down_.get();
    args.out_stride = kHidden;
    return args;
  }

  const int tokens_;
  DeviceTable table_;
  DeviceArray<float> norm_, gates_, zeros_, ones_;
  const std::vector<float> start_;
  DeviceArray<float> residual_a_, residual_b_, qkv_, o_;
  DeviceArray<uint16_t> h_;
  DeviceArray<float> down_;
  const bool early_;
  std::vector<std::unique_ptr<Matrix>> qkv_weights_, o_weights_, gate_up_weights_, down_weights_;
};

TEST(SbiChainTest, DependentLaunchesGiveTheBitsOfSingleOnes) {
  if (const absl::Status device = CheckCudaDevice(0); !device.ok()) {
    GTEST_SKIP() << device.message();
  }
  Rng rng(7);
  for (const int tokens : {1, 4, 8, 20}) {
    Chain chain(rng, tokens, tokens != 4);
    chain.Reset();
    const absl::Status single = chain.Run(nullptr, false, true);
    ASSERT_TRUE(single.ok()) << single;
    const std::vector<float> want = chain.Result();
    for (const float v : want) ASSERT_EQ(v, v) << "tokens " << tokens;

    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t runnable;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    const absl::Status captured = chain.Run(stream, true, false);
    ASSERT_TRUE(captured.ok()) << captured;
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&runnable, graph, 0), cudaSuccess);
    int different = 0;
    for (int i = 0; i < kReplays; ++i) {
      chain.Reset();
      SynchronizeDevice();
      ASSERT_EQ(cudaGraphLaunch(runnable, stream), cudaSuccess);
      SynchronizeDevice();
      different += chain.Result() != want;
    }
    EXPECT_EQ(different, 0) << "replays of " << kReplays << ", tokens " << tokens;
    cudaGraphExecDestroy(runnable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
}

}  // namespace
}  // namespace conclave
#endif
