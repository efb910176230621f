// qkv_post and the rope table against their double references: norms, head sizes, pages, chunks
// with context before them, memory beside the results untouched.
#include "kernels/qkv_post/qkv_post.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/qkv_post/attention_test_kit.h"
#include "kernels/qkv_post/rope_table.h"
#include "kernels/rope/rope.h"

namespace conclave {
namespace {

class QkvPostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status device = CheckCudaDevice(0); !device.ok()) {
      GTEST_SKIP() << device.message();
    }
  }
  Rng rng_{71};
};

TEST_F(QkvPostTest, FillsTheRopeTable) {
  for (const int head_dim : {16, 100, 128}) {
    const int positions = head_dim == 128 ? 131072 : 517;
    const std::vector<float> frequencies = RopeFrequencies({head_dim, 1e6});
    std::vector<float> want(int64_t{positions} * head_dim);
    FillRopeTableRef({frequencies.data(), positions, head_dim, want.data()});
    const DeviceArray<float> device_frequencies(frequencies);
    DeviceArray<float> table(static_cast<int64_t>(want.size()));
    table.Fill(0xff);
    ASSERT_TRUE(FillRopeTable({device_frequencies.get(), positions, head_dim, table.get()}).ok());
    SynchronizeDevice();
    const std::vector<float> got = table.Read();
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_LE(std::abs(got[i] - want[i]), 6.1e-8f) << head_dim << " at " << i;
      ASSERT_FALSE(std::isnan(got[i])) << i;
    }
  }
}

struct Case {
  int heads;
  CacheShape cache;
  GpuQkNorm norm;
  bool rope = true;
  bool in_place = false;
};

void CheckCase(Rng& rng, const Case& c) {
  SCOPED_TRACE(absl::StrCat(c.heads, "/", c.cache.kv_heads, " heads of ", c.cache.head_dim,
                            ", pages of ", c.cache.page_tokens, ", norm ", static_cast<int>(c.norm),
                            c.in_place ? ", in place" : ""));
  const int head_dim = c.cache.head_dim, q_width = c.heads * head_dim;
  const int k_width = c.cache.kv_heads * head_dim;
  const HostBatch batch =
      MakeBatch(rng, {{0, 9}, {37, 1}, {3, 0}, {129, 40}, {5, 3}}, c.cache.page_tokens);
  HostCache cache(rng, batch, c.cache, false);
  const int tokens = batch.first_token.back();
  const int64_t stride = (q_width + 2 * k_width + 7) / 8 * 8 + 8;
  std::vector<uint16_t> qkv = RandomBf16(rng, tokens * stride, 2);
  const int norm_q = c.norm == GpuQkNorm::kFullWidth ? q_width : head_dim;
  const int norm_k = c.norm == GpuQkNorm::kFullWidth ? k_width : head_dim;
  const std::vector<float> q_weights = RandomFloats(rng, norm_q, 2);
  const std::vector<float> k_weights = RandomFloats(rng, norm_k, 2);
  const std::vector<float> frequencies = RopeFrequencies({head_dim, 1e4});
  std::vector<float> rope(256 * head_dim);
  FillRopeTableRef({frequencies.data(), 256, head_dim, rope.data()});
  const int64_t q_stride = c.in_place ? stride : q_width + 16;
  std::vector<uint16_t> q(tokens * q_stride, kPoison);

  const DeviceBatch device_batch(batch);
  DeviceArray<uint16_t> device_cache(cache.data), device_qkv(qkv), device_q(q);
  const DeviceArray<float> device_q_weights(q_weights), device_k_weights(k_weights);
  const DeviceArray<float> device_rope(rope);
  QkvPostArgs args;
  args.batch = device_batch.view();
  args.batch.tokens += 2;  // a bound
  args.cache = cache.view(device_cache.get());
  args.heads = c.heads;
  args.qkv = device_qkv.get();
  args.qkv_stride = stride;
  args.q = c.in_place ? device_qkv.get() : device_q.get();
  args.q_stride = q_stride;
  args.norm = {c.norm, device_q_weights.get(), device_k_weights.get(), 1e-6f};
  args.rope = c.rope ? device_rope.get() : nullptr;
  const absl::Status status = QkvPost(args);
  ASSERT_TRUE(status.ok()) << status;
  SynchronizeDevice();

  args.batch = batch.view();
  args.cache = cache.view();
  args.qkv = qkv.data();
  std::vector<uint16_t> in_place = qkv;
  args.q = c.in_place ? in_place.data() : q.data();
  args.norm = {c.norm, q_weights.data(), k_weights.data(), 1e-6f};
  args.rope = c.rope ? rope.data() : nullptr;
  QkvPostRef(args);
  const std::vector<uint16_t> got_q = c.in_place ? device_qkv.Read() : device_q.Read();
  EXPECT_EQ(DescribeMismatch(got_q, c.in_place ? in_place : q), "") << "q";
  EXPECT_EQ(DescribeMismatch(device_cache.Read(), cache.data), "") << "cache";
}

TEST_F(QkvPostTest, MatchesTheReference) {
  for (const GpuQkNorm norm : {GpuQkNorm::kNone, GpuQkNorm::kPerHead, GpuQkNorm::kFullWidth}) {
    CheckCase(rng_, {32, {16, 4, 128}, norm, true, true});
    CheckCase(rng_, {16, {16, 16, 128}, norm});
    CheckCase(rng_, {4, {16, 2, 16}, norm});
    CheckCase(rng_, {6, {32, 3, 32}, norm, true, true});
    CheckCase(rng_, {5, {16, 1, 80}, norm});
    CheckCase(rng_, {8, {7, 2, 64}, norm, false});
    CheckCase(rng_, {3, {64, 1, 256}, norm});
    CheckCase(rng_, {2, {16, 2, 8}, norm});
  }
}

TEST(QkvPost, RefusesBadArguments) {
  QkvPostArgs args;
  EXPECT_EQ(QkvPost(args).code(), absl::StatusCode::kInvalidArgument);
  alignas(128) static uint16_t memory[128];
  args.cache = {memory, 1, 16, 2, 12};
  args.heads = 2;
  EXPECT_EQ(QkvPost(args).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
