// decode_attention against its double reference: norms, head sizes, groups, pages, splits of the
// context and of the QKV product, joined and not, memory beside the results untouched, and what no
// token owns poisoned.
#include "kernels/decode_attention/decode_attention.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "gtest/gtest.h"
#include "kernels/qkv_post/attention_test_kit.h"
#include "kernels/qkv_post/rope_table.h"
#include "kernels/rope/rope.h"

namespace conclave {
namespace {

// q and probabilities are rounded to bf16.
constexpr double kErrorMax = 5e-3;

enum class Result { kSplits, kJoined };

struct Case {
  int heads;
  CacheShape cache;
  std::vector<int32_t> positions;  // -1: idle
  int splits = 1;
  GpuQkNorm norm = GpuQkNorm::kPerHead;
  int qkv_splits = 3;  // 0: bf16 rows
  Result result = Result::kSplits;
  bool rope = true;
  float q_scale = 2;
};

std::string Name(const Case& c) {
  return absl::StrCat(c.heads, "/", c.cache.kv_heads, " heads of ", c.cache.head_dim, ", pages of ",
                      c.cache.page_tokens, ", ", c.positions.size(), " tokens from ",
                      c.positions[0], ", splits ", c.splits, ", norm ", static_cast<int>(c.norm),
                      ", qkv splits ", c.qkv_splits, c.result == Result::kJoined ? ", joined" : "");
}

std::vector<SequenceSlice> Slices(const std::vector<int32_t>& positions) {
  std::vector<SequenceSlice> slices;
  for (int32_t p : positions) slices.push_back({p, 1});
  return slices;
}

// Operands on both sides and the reference's result.
class Comparison {
 public:
  Comparison(Rng& rng, const Case& c)
      : case_(c),
        columns_(c.heads * c.cache.head_dim),
        tokens_(static_cast<int>(c.positions.size())),
        batch_(MakeBatch(rng, Slices(c.positions), c.cache.page_tokens)),
        cache_(rng, batch_, c.cache, false),
        device_batch_(batch_),
        device_cache_(cache_.data) {
    const int head_dim = c.cache.head_dim, k_width = c.cache.kv_heads * head_dim;
    const bool full = c.norm == GpuQkNorm::kFullWidth;
    q_weights_ = RandomFloats(rng, full ? columns_ : head_dim, 2);
    k_weights_ = RandomFloats(rng, full ? k_width : head_dim, 2);
    positions_max_ = *std::max_element(c.positions.begin(), c.positions.end()) + 1;
    const std::vector<float> frequencies = RopeFrequencies({head_dim, 1e4});
    rope_.resize(std::max(positions_max_, 1) * head_dim);
    FillRopeTableRef({frequencies.data(), std::max(positions_max_, 1), head_dim, rope_.data()});
    stride_ = (columns_ + 2 * k_width + 7) / 8 * 8 + 8;
    partials_ = RandomFloats(rng, std::max(c.qkv_splits, 1) * (tokens_ * stride_ + 4), c.q_scale);
    rows_ = RandomBf16(rng, tokens_ * stride_, c.q_scale);
    args_.heads = c.heads;
    args_.scale = static_cast<float>(1 / std::sqrt(head_dim));
    args_.out_stride = columns_ + 8;
    initial_cache_ = cache_.data;
    Expect();
  }

  // Runs it, in a stream or graph if `stream` is given.
  void Compare() {
    SCOPED_TRACE(Name(case_));
    Device device(*this);
    DecodeAttentionArgs args = device.args;
    const DecodeAttentionConfig config = {case_.splits, case_.result == Result::kJoined, 3};
    const absl::Status status = DecodeAttention(args, config);
    ASSERT_TRUE(status.ok()) << status;
    SynchronizeDevice();
    Check(device);
  }

  // The same as dependent launches of one graph, each after the other.
  void CompareInGraph() {
    SCOPED_TRACE(Name(case_));
    Device device(*this);
    DecodeAttentionArgs args = device.args;
    SynchronizeDevice();
    const auto stream = CudaStreamOwner::Create();
    ASSERT_TRUE(stream.ok()) << stream.status();
    args.stream = stream->get();
    args.dependent = true;
    args.history_ready_early = true;
    const DecodeAttentionConfig config = {case_.splits, case_.result == Result::kJoined, 3};
    const auto graph = CudaGraph::Capture(args.stream, [&] {
      for (int i = 0; i < 3; ++i) {
        if (absl::Status status = DecodeAttention(args, config); !status.ok()) return status;
      }
      return absl::OkStatus();
    });
    ASSERT_TRUE(graph.ok()) << graph.status();
    ASSERT_TRUE(graph->Launch(args.stream).ok());
    ASSERT_TRUE(stream->Synchronize().ok());
    Check(device);
  }

 private:
  // A run's memory.
  struct Device {
    explicit Device(Comparison& c)
        : cache(c.initial_cache_),
          partials(c.partials_),
          rows(c.rows_),
          q_weights(c.q_weights_),
          k_weights(c.k_weights_),
          rope(c.rope_),
          o(c.case_.splits * c.tokens_ * c.columns_),
          m(c.case_.splits * c.tokens_ * c.case_.heads),
          l(c.case_.splits * c.tokens_ * c.case_.heads),
          out(std::vector<uint16_t>(c.tokens_ * c.args_.out_stride, kPoison)) {
      o.Fill(0xff);
      m.Fill(0xff);
      l.Fill(0xff);
      args = c.args_;
      args.batch = c.device_batch_.view();
      args.cache = c.cache_.view(cache.get());
      c.SetQkv(args, partials.get(), rows.get());
      args.norm = {c.case_.norm, q_weights.get(), k_weights.get(), 1e-6f};
      args.rope = c.case_.rope ? rope.get() : nullptr;
      if (c.case_.result == Result::kSplits || c.case_.splits > 1) {
        args.splits = {o.get(), m.get(), l.get()};
      }
      args.out = c.case_.result == Result::kJoined ? out.get() : nullptr;
      args.prefetch = cache.get();
      args.prefetch_bytes = cache.bytes() / 16 * 16;
    }
    DeviceArray<uint16_t> cache;
    DeviceArray<float> partials;
    DeviceArray<uint16_t> rows;
    DeviceArray<float> q_weights, k_weights, rope, o, m, l;
    DeviceArray<uint16_t> out;
    DecodeAttentionArgs args;
  };

  void SetQkv(DecodeAttentionArgs& args, const float* partials, const uint16_t* rows) const {
    args.qkv.row_stride = stride_;
    if (case_.qkv_splits == 0) {
      args.qkv.rows = rows;
      return;
    }
    args.qkv.partials = partials;
    args.qkv.splits = case_.qkv_splits;
    args.qkv.slab_stride = tokens_ * stride_ + 4;
  }

  void Expect() {
    DecodeAttentionArgs args = args_;
    args.batch = batch_.view();
    args.cache = cache_.view();
    SetQkv(args, partials_.data(), rows_.data());
    args.norm = {case_.norm, q_weights_.data(), k_weights_.data(), 1e-6f};
    args.rope = case_.rope ? rope_.data() : nullptr;
    want_.assign(tokens_ * args.out_stride, kPoison);
    args.out = want_.data();
    DecodeAttentionRef(args);
  }

  // The splits of a run, joined on the host.
  std::vector<uint16_t> Join(const Device& device) const {
    const std::vector<float> o = device.o.Read(), m = device.m.Read(), l = device.l.Read();
    const int head_dim = case_.cache.head_dim;
    std::vector<uint16_t> joined(tokens_ * args_.out_stride, kPoison);
    for (int unit = 0; unit < tokens_ * case_.heads; ++unit) {
      std::vector<double> sums(head_dim);
      double top = -INFINITY, weight = 0;
      const int slab = tokens_ * case_.heads;
      for (int s = 0; s < case_.splits; ++s) {
        if (l[s * slab + unit] != 0) top = std::max<double>(top, m[s * slab + unit]);
      }
      for (int s = 0; s < case_.splits; ++s) {
        const int64_t at = s * slab + unit;
        if (l[at] == 0) continue;
        const double share = std::exp(m[at] - top);
        weight += share * l[at];
        for (int i = 0; i < head_dim; ++i) sums[i] += share * o[at * head_dim + i];
      }
      uint16_t* to =
          joined.data() + unit / case_.heads * args_.out_stride + unit % case_.heads * head_dim;
      for (int i = 0; i < head_dim; ++i) {
        to[i] = FloatToBf16(weight == 0 ? 0 : static_cast<float>(sums[i] / weight));
      }
    }
    return joined;
  }

  void Check(const Device& device) {
    const bool joined = case_.result == Result::kJoined;
    const std::vector<uint16_t> got = joined ? device.out.Read() : Join(device);
    std::string worst;
    for (int t = 0; t < tokens_; ++t) {
      const auto from = t * args_.out_stride, to = from + args_.out_stride;
      const double error = RelativeError({got.begin() + from, got.begin() + to},
                                         {want_.begin() + from, want_.begin() + to});
      if (!(error < kErrorMax) && worst.empty()) {
        worst = absl::StrCat("token ", t, " at ", case_.positions[t], ": error ", error);
      }
    }
    EXPECT_EQ(worst, "");
    EXPECT_EQ(DescribeMismatch(device.cache.Read(), cache_.data), "") << "cache";
  }

  Case case_;
  int columns_, tokens_;
  HostBatch batch_;
  HostCache cache_;
  DeviceBatch device_batch_;
  DeviceArray<uint16_t> device_cache_;
  int positions_max_ = 0;
  int64_t stride_ = 0;
  std::vector<float> q_weights_, k_weights_, rope_, partials_;
  std::vector<uint16_t> rows_, want_, initial_cache_;
  DecodeAttentionArgs args_;
};

class DecodeAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status device = CheckCudaDevice(0); !device.ok()) {
      GTEST_SKIP() << device.message();
    }
  }
  Rng rng_{97};
};

constexpr GpuQkNorm kNorms[] = {GpuQkNorm::kNone, GpuQkNorm::kPerHead, GpuQkNorm::kFullWidth};

TEST_F(DecodeAttentionTest, Contexts) {
  for (const int32_t position : {0, 1, 14, 15, 16, 63, 64, 65, 191, 192, 511, 1000}) {
    for (const int splits : {1, 3, 8}) {
      Comparison(rng_, {8, {16, 1, 128}, {position}, splits}).Compare();
    }
  }
}

TEST_F(DecodeAttentionTest, NormsAndProducts) {
  for (const GpuQkNorm norm : kNorms) {
    for (const int qkv_splits : {0, 1, 2, 7}) {
      for (const Result result : {Result::kSplits, Result::kJoined}) {
        Comparison(rng_, {16, {16, 2, 128}, {200, 3, -1, 77}, 2, norm, qkv_splits, result})
            .Compare();
      }
      Comparison(rng_, {16, {16, 16, 128}, {129}, 4, norm, qkv_splits}).Compare();
    }
  }
}

TEST_F(DecodeAttentionTest, GroupsAndHeadSizes) {
  for (const int group : {1, 2, 3, 5, 8, 16, 17, 40}) {
    Comparison(rng_, {2 * group, {16, 2, 128}, {300, 40}, 3}).Compare();
  }
  for (const GpuQkNorm norm : kNorms) {
    for (const int head_dim : {8, 16, 32, 64, 80, 96, 256}) {
      Comparison(rng_, {4, {16, 2, head_dim}, {150, 40}, 2, norm}).Compare();
    }
  }
}

TEST_F(DecodeAttentionTest, Pages) {
  for (const int page_tokens : {1, 5, 8, 32, 64}) {
    for (const int head_dim : {16, 128}) {
      Comparison(rng_, {4, {page_tokens, 2, head_dim}, {150, 40, 7}, 2}).Compare();
    }
  }
}

TEST_F(DecodeAttentionTest, ManyTokens) {
  std::vector<int32_t> positions;
  for (int i = 0; i < 64; ++i) positions.push_back(i % 9 == 8 ? -1 : (i * 53) % 257);
  for (const Result result : {Result::kSplits, Result::kJoined}) {
    Comparison(rng_, {8, {16, 2, 64}, positions, 1, GpuQkNorm::kPerHead, 2, result}).Compare();
    Comparison(rng_, {8, {16, 2, 128}, positions, 3, GpuQkNorm::kPerHead, 0, result}).Compare();
  }
}

TEST_F(DecodeAttentionTest, LongContextInManySplits) {
  Comparison(rng_, {8, {16, 1, 128}, {20000}, 64, GpuQkNorm::kPerHead, 2, Result::kJoined})
      .Compare();
  Comparison(rng_, {2, {16, 1, 64}, {3000}, 37, GpuQkNorm::kPerHead, 2, Result::kJoined}).Compare();
}

TEST_F(DecodeAttentionTest, PeakedScores) {
  Comparison(rng_, {8, {16, 1, 128}, {700}, 2, GpuQkNorm::kNone, 2, Result::kSplits, false, 20})
      .Compare();
}

TEST_F(DecodeAttentionTest, DependentLaunchesOfAGraph) {
  for (const Result result : {Result::kSplits, Result::kJoined}) {
    Comparison(rng_, {32, {16, 4, 128}, {511}, 8, GpuQkNorm::kPerHead, 4, result}).CompareInGraph();
    Comparison(rng_, {16, {16, 16, 128}, {60, 300, -1}, 4, GpuQkNorm::kFullWidth, 4, result})
        .CompareInGraph();
  }
}

TEST(DecodeAttention, RefusesBadArguments) {
  DecodeAttentionArgs args;
  EXPECT_EQ(DecodeAttention(args, {}).code(), absl::StatusCode::kInvalidArgument);
  alignas(128) static uint16_t memory[4096];
  static const int32_t numbers[4] = {};
  static float ml[4];
  args.batch = {numbers, numbers, numbers, numbers, 1, 1};
  args.cache = {memory, 1, 16, 1, 64};
  args.heads = 1;
  args.scale = 1;
  args.qkv.rows = memory;
  args.qkv.row_stride = 192;
  EXPECT_EQ(DecodeAttention(args, {}).code(), absl::StatusCode::kInvalidArgument);
  args.splits = {reinterpret_cast<float*>(memory), ml, ml};
  args.variant.window_tokens = 8;
  EXPECT_EQ(DecodeAttention(args, {}).code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace conclave
