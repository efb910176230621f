// Both kernels of flash_attention against the double reference: chunks with and without context,
// head sizes, groups, pages, memory beside the result untouched, and what no token owns poisoned.
#include "kernels/flash_attention/flash_attention.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "gtest/gtest.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/qkv_post/attention_test_kit.h"

namespace conclave {
namespace {

// Probabilities and the result are rounded to bf16.
constexpr double kErrorMax = 4e-3;

struct Case {
  int heads;
  CacheShape cache;
  std::vector<SequenceSlice> slices;
  float q_scale = 4;
};

std::string Name(const Case& c, FlashKernel kernel) {
  return absl::StrCat(kernel == FlashKernel::kWgmma ? "wgmma " : "general ", c.heads, "/",
                      c.cache.kv_heads, " heads of ", c.cache.head_dim, ", pages of ",
                      c.cache.page_tokens, ", ", c.slices.size(), " sequences from ",
                      c.slices[0].position, "+", c.slices[0].tokens);
}

// Operands on both sides and the reference's result.
class Comparison {
 public:
  Comparison(Rng& rng, const Case& c)
      : case_(c),
        batch_(MakeBatch(rng, c.slices, c.cache.page_tokens)),
        cache_(rng, batch_, c.cache, true),
        device_batch_(batch_),
        device_cache_(cache_.data),
        counter_(1) {
    const int64_t columns = int64_t{c.heads} * c.cache.head_dim;
    args_.heads = c.heads;
    args_.scale = static_cast<float>(1 / std::sqrt(c.cache.head_dim));
    args_.q_stride = columns + 8;
    args_.out_stride = columns + 16;
    q_ = RandomBf16(rng, batch_.first_token.back() * args_.q_stride, c.q_scale);
    for (size_t i = columns; i < q_.size(); i += args_.q_stride) {
      std::fill_n(q_.begin() + static_cast<int64_t>(i), args_.q_stride - columns, kPoison);
    }
    want_.assign((batch_.first_token.back() + 1) * args_.out_stride, kPoison);
    poison_ = want_;
    args_.batch = batch_.view();
    args_.cache = cache_.view();
    args_.q = q_.data();
    args_.out = want_.data();
    FlashAttentionRef(args_);
    counter_.Fill(0);
  }

  const FlashAttentionArgs& host_args() const { return args_; }

  void Compare(FlashKernel kernel, int launches) {
    SCOPED_TRACE(Name(case_, kernel));
    const DeviceArray<uint16_t> q(q_);
    DeviceArray<uint16_t> out(poison_);
    FlashAttentionArgs args = args_;
    args.batch = device_batch_.view();
    args.cache = cache_.view(device_cache_.get());
    args.q = q.get();
    args.out = out.get();
    args.counter = counter_.get();
    args.kernel = kernel;
    for (int i = 0; i < launches; ++i) {
      const absl::Status status = FlashAttention(args);
      ASSERT_TRUE(status.ok()) << status;
    }
    SynchronizeDevice();
    const std::vector<uint16_t> got = out.Read();
    const double error = RelativeError(got, want_);
    EXPECT_LT(error, kErrorMax) << FirstBadRow(got);
    for (size_t i = 0; i < got.size(); ++i) {
      if (want_[i] == kPoison) ASSERT_EQ(got[i], kPoison) << "written beside the result, " << i;
    }
    EXPECT_EQ(counter_.Read()[0], 0);
  }

  void CompareAll(int launches = 1) {
    if (FlashTakesWgmma(args_.cache, args_.heads)) Compare(FlashKernel::kWgmma, launches);
    Compare(FlashKernel::kGeneral, launches);
  }

 private:
  std::string FirstBadRow(const std::vector<uint16_t>& got) const {
    std::string bad;
    int count = 0;
    const int head_dim = case_.cache.head_dim;
    for (int t = 0; t < batch_.first_token.back(); ++t) {
      for (int h = 0; h < case_.heads; ++h) {
        const int64_t from = t * args_.out_stride + h * head_dim;
        const std::vector<uint16_t> g(got.begin() + from, got.begin() + from + head_dim);
        const std::vector<uint16_t> w(want_.begin() + from, want_.begin() + from + head_dim);
        const double error = RelativeError(g, w);
        if (error < 3 * kErrorMax) continue;
        if (count++ < 4) {
          absl::StrAppend(&bad, "token ", t, " head ", h, " error ", error, " got ",
                          Bf16ToFloat(g[0]), " ", Bf16ToFloat(g[1]), " want ", Bf16ToFloat(w[0]),
                          " ", Bf16ToFloat(w[1]), "; ");
        }
      }
    }
    return absl::StrCat(bad, count, " rows bad");
  }

  Case case_;
  HostBatch batch_;
  HostCache cache_;
  DeviceBatch device_batch_;
  DeviceArray<uint16_t> device_cache_;
  DeviceArray<int32_t> counter_;
  std::vector<uint16_t> q_, want_, poison_;
  FlashAttentionArgs args_;
};

class FlashAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status device = CheckCudaDevice(0); !device.ok()) {
      GTEST_SKIP() << device.message();
    }
  }
  Rng rng_{83};
};

const std::vector<SequenceSlice> kPrompts = {{0, 1},   {0, 15},  {0, 17},
                                             {0, 128}, {0, 129}, {0, 300}};
const std::vector<SequenceSlice> kChunks = {{77, 40}, {500, 130}, {1000, 3}, {0, 5},   {129, 1},
                                            {4, 0},   {255, 1},   {128, 64}, {2047, 1}};

TEST_F(FlashAttentionTest, OneTile) {
  Comparison(rng_, {1, {16, 1, 128}, {{0, 16}}}).CompareAll();
  Comparison(rng_, {1, {16, 1, 128}, {{0, 128}}}).CompareAll();
  Comparison(rng_, {1, {16, 1, 64}, {{0, 128}}}).CompareAll();
}

TEST_F(FlashAttentionTest, PromptsAndChunks) {
  for (const int head_dim : {64, 128}) {
    for (const auto& slices : {kPrompts, kChunks}) {
      Comparison(rng_, {4, {16, 2, head_dim}, slices}).CompareAll();
    }
  }
}

TEST_F(FlashAttentionTest, Groups) {
  for (const int group : {1, 3, 4, 5, 7, 8, 16, 64}) {
    Comparison(rng_, {group, {16, 1, 128}, {{70, 33}, {0, 50}, {300, 1}}}).CompareAll();
  }
}

TEST_F(FlashAttentionTest, Pages) {
  for (const int page_tokens : {1, 5, 8, 32, 64, 128}) {
    for (const int head_dim : {64, 128}) {
      Comparison(rng_, {2, {page_tokens, 1, head_dim}, {{70, 33}, {0, 150}, {300, 1}}})
          .CompareAll();
    }
  }
}

TEST_F(FlashAttentionTest, OtherHeadSizes) {
  for (const int head_dim : {8, 16, 32, 80, 96, 256}) {
    Comparison(rng_, {4, {16, 2, head_dim}, {{0, 40}, {77, 70}, {130, 1}}}).CompareAll();
  }
}

// Scores far apart: the running maximum changes late, and few positions matter.
TEST_F(FlashAttentionTest, PeakedScores) {
  Comparison(rng_, {2, {16, 1, 128}, {{0, 200}, {700, 20}}, 60}).CompareAll();
}

// More items than blocks, and launches in a row that share the counter.
TEST_F(FlashAttentionTest, ManySequences) {
  std::vector<SequenceSlice> slices;
  for (int i = 0; i < 200; ++i) slices.push_back({(i * 37) % 151, i % 4});
  Comparison(rng_, {8, {16, 4, 128}, slices}).CompareAll(3);
  Comparison(rng_, {8, {16, 4, 64}, slices}).CompareAll(3);
}

// A captured launch serves another batch within its bounds.
TEST_F(FlashAttentionTest, GraphServesOtherContents) {
  const CacheShape shape = {16, 2, 128};
  HostBatch first = MakeBatch(rng_, {{0, 40}, {0, 20}, {3, 9}}, 16);
  HostBatch second = MakeBatch(rng_, {{100, 7}, {0, 0}, {31, 33}}, 16);
  const int tokens = first.first_token.back(), pages = std::max(first.pages, second.pages);
  for (HostBatch* batch : {&first, &second}) batch->page_table.resize(64);
  first.pages = second.pages = pages;
  const HostCache cache(rng_, second, shape, true);
  const std::vector<uint16_t> q = RandomBf16(rng_, tokens * 512, 4);
  DeviceBatch device_batch(first);
  const DeviceArray<uint16_t> device_cache(cache.data), device_q(q);
  std::vector<uint16_t> want(tokens * 512, kPoison);
  DeviceArray<uint16_t> out(want);
  DeviceArray<int32_t> counter(1);
  counter.Fill(0);
  SynchronizeDevice();
  FlashAttentionArgs args;
  args.batch = device_batch.view();
  args.cache = cache.view(device_cache.get());
  args.heads = 4;
  args.scale = 0.1f;
  args.q = device_q.get();
  args.out = out.get();
  args.q_stride = args.out_stride = 512;
  args.counter = counter.get();
  const auto stream = CudaStreamOwner::Create();
  ASSERT_TRUE(stream.ok()) << stream.status();
  args.stream = stream->get();
  args.dependent = true;
  const auto graph = CudaGraph::Capture(args.stream, [&] { return FlashAttention(args); });
  ASSERT_TRUE(graph.ok()) << graph.status();
  device_batch.first_token.Upload(second.first_token.data());
  device_batch.position.Upload(second.position.data());
  device_batch.first_page.Upload(second.first_page.data());
  device_batch.page_table.Upload(second.page_table.data());
  SynchronizeDevice();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(graph->Launch(args.stream).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  args.batch = second.view();
  std::vector<uint16_t> host_cache = cache.data;
  args.cache = cache.view(host_cache.data());
  args.q = q.data();
  args.out = want.data();
  FlashAttentionRef(args);
  EXPECT_LT(RelativeError(out.Read(), want), kErrorMax);
}

TEST(FlashAttentionRef, IsThatOfPagedAttention) {
  Rng rng(5);
  const CacheShape shape = {5, 2, 16};
  const HostBatch batch = MakeBatch(rng, {{7, 6}, {0, 3}}, shape.page_tokens);
  HostCache cache(rng, batch, shape, true);
  const int64_t tokens = batch.first_token.back(), columns = 4 * 16;
  const std::vector<uint16_t> q = RandomBf16(rng, tokens * columns, 4);
  std::vector<uint16_t> out(tokens * columns);
  FlashAttentionArgs args;
  args.batch = batch.view();
  args.cache = cache.view();
  args.heads = 4;
  args.scale = 0.25f;
  args.q = q.data();
  args.out = out.data();
  args.q_stride = args.out_stride = columns;
  FlashAttentionRef(args);
  std::vector<float> plain_q(q.size()), plain_out(q.size());
  for (size_t i = 0; i < q.size(); ++i) plain_q[i] = Bf16ToFloat(q[i]);
  AttentionArgs plain;
  plain.batch = {batch.first_token, batch.position, batch.first_page, batch.page_table};
  plain.q = {plain_q.data(), tokens, columns, columns};
  plain.cache = {cache.data.data(), Dtype::kBf16,   cache.pages,
                 shape.page_tokens, shape.kv_heads, shape.head_dim};
  plain.heads = args.heads;
  plain.scale = args.scale;
  plain.out = {plain_out.data(), tokens, columns, columns};
  PagedAttentionRef(plain);
  for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], FloatToBf16(plain_out[i])) << i;
}

TEST(FlashAttention, RefusesBadArguments) {
  FlashAttentionArgs args;
  EXPECT_EQ(FlashAttention(args).code(), absl::StatusCode::kInvalidArgument);
  alignas(128) static uint16_t memory[4096];
  static const int32_t numbers[4] = {};
  static int32_t counter;
  args.batch = {numbers, numbers, numbers, numbers, 1, 1};
  args.cache = {memory, 1, 16, 1, 64};
  args.heads = 1;
  args.scale = 1;
  args.q = args.out = memory;
  args.q_stride = args.out_stride = 64;
  args.counter = &counter;
  args.variant.window_tokens = 8;
  EXPECT_EQ(FlashAttention(args).code(), absl::StatusCode::kUnimplemented);
  args.variant = {};
  args.cache.page_tokens = 12;
  args.kernel = FlashKernel::kWgmma;
  EXPECT_EQ(FlashAttention(args).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
