#include "kernels/exact/exact_attention.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "comm/base/rng.h"
#include "comm/device/compute_pool.h"
#include "kernels/exact/exact_test_kit.h"

namespace conclave {
namespace {

constexpr int64_t kGap = 4;

struct Shape {
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int page_tokens = 16;
  Dtype dtype = Dtype::kF32;
};

// Sequences whose tokens go through both sides in steps of a few tokens, over caches of their own.
class World {
 public:
  World(const Shape& shape, std::vector<int> lengths)
      : shape_(shape),
        lengths_(std::move(lengths)),
        memory_(Memory(shape, lengths_)),
        device_memory_(memory_) {
    host_ = {memory_.data(),    shape.dtype,    Pages(shape, lengths_),
             shape.page_tokens, shape.kv_heads, shape.head_dim};
    device_ = host_;
    device_.data = device_memory_.get();
    // Page numbers in falling order, sequence by sequence.
    int32_t next = host_.pages;
    first_page_ = {0};
    for (const int length : lengths_) {
      const int pages = (length + shape.page_tokens - 1) / shape.page_tokens;
      for (int i = 0; i < pages; ++i) table_.push_back(--next);
      first_page_.push_back(static_cast<int32_t>(table_.size()));
    }
  }

  // Tokens [begin, end) of every sequence, as far as it has them, as one batch.
  void Step(int begin, int end, const std::string& what) {
    std::vector<int32_t> first_token = {0}, position;
    for (const int length : lengths_) {
      const int from = std::min(begin, length), to = std::min(end, length);
      first_token.push_back(first_token.back() + to - from);
      position.push_back(from);
    }
    const int64_t tokens = first_token.back();
    const int64_t q_cols = int64_t{shape_.heads} * shape_.head_dim;
    const int64_t kv_cols = int64_t{shape_.kv_heads} * shape_.head_dim;
    const int64_t stride = q_cols + 2 * kv_cols + kGap, out_stride = q_cols + kGap;
    std::vector<float> qkv = UniformFloats(tokens * stride, begin + 1);
    for (float& v : qkv) v *= 3;
    std::vector<float> want = OnDevice<float>::Poison(tokens * out_stride);
    const auto part = [&](const float* data, int64_t first, int64_t cols) {
      return ConstRows{data + first, tokens, cols, stride};
    };
    const PagedBatch batch = {first_token, position, first_page_, table_};
    WriteKv(batch, part(qkv.data(), q_cols, kv_cols), part(qkv.data(), q_cols + kv_cols, kv_cols),
            host_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    PagedAttention({batch,
                    part(qkv.data(), 0, q_cols),
                    host_,
                    shape_.heads,
                    scale,
                    {want.data(), tokens, q_cols, out_stride}},
                   pool_);

    const OnDevice<int32_t> dt(first_token), dp(position), df(first_page_), dtable(table_);
    const OnDevice<float> dq(qkv), out = OnDevice<float>::Poisoned(tokens * out_stride);
    ExactPages pages = {dt.get(), dp.get(), df.get(), dtable.get()};
    pages.sequences = static_cast<int32_t>(lengths_.size());
    pages.tokens = static_cast<int32_t>(tokens);
    const auto device_part = [&](int64_t first, int64_t cols) {
      return ExactRows{dq.get() + first, tokens, cols, stride};
    };
    ExpectOk(ExactWriteKv(
        {pages, device_part(q_cols, kv_cols), device_part(q_cols + kv_cols, kv_cols), device_},
        nullptr));
    ExpectOk(ExactPagedAttention({pages,
                                  device_part(0, q_cols),
                                  device_,
                                  shape_.heads,
                                  scale,
                                  {out.get(), tokens, q_cols, out_stride}},
                                 nullptr));
    ExpectSameBits(out.Read(), want, what);
    EXPECT_EQ(device_memory_.Read(), memory_) << what << ", cache";
  }

  void Run(int chunk) {
    const int longest = *std::max_element(lengths_.begin(), lengths_.end());
    for (int begin = 0; begin < longest; begin += chunk) {
      Step(begin, begin + chunk,
           absl::StrCat("head_dim ", shape_.head_dim, " heads ", shape_.heads, "/", shape_.kv_heads,
                        " page ", shape_.page_tokens, " ", DtypeName(shape_.dtype), " tokens ",
                        begin, " + ", chunk));
    }
  }

 private:
  static int32_t Pages(const Shape& shape, const std::vector<int>& lengths) {
    int32_t pages = 0;
    for (const int length : lengths) pages += (length + shape.page_tokens - 1) / shape.page_tokens;
    return pages;
  }
  static std::vector<uint8_t> Memory(const Shape& shape, const std::vector<int>& lengths) {
    const KvLayer layer = {nullptr,           shape.dtype,    1,
                           shape.page_tokens, shape.kv_heads, shape.head_dim};
    return OnDevice<uint8_t>::Poison(Pages(shape, lengths) * layer.PageBytes());
  }

  Shape shape_;
  std::vector<int> lengths_;
  std::vector<uint8_t> memory_;
  OnDevice<uint8_t> device_memory_;
  KvLayer host_, device_;
  std::vector<int32_t> first_page_, table_;
  ComputePool pool_{2};
};

using ExactAttentionTest = ExactTest;

TEST_F(ExactAttentionTest, HasTheBitsOfTheCpu) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
    for (const Shape& shape :
         {Shape{4, 2, 32, 16, dtype}, Shape{4, 4, 128, 16, dtype}, Shape{8, 2, 64, 8, dtype},
          Shape{3, 1, 4, 1, dtype}, Shape{6, 3, 20, 5, dtype}, Shape{2, 1, 36, 64, dtype},
          Shape{40, 1, 256, 7, dtype}, Shape{5, 5, 80, 8, dtype}, Shape{4, 2, 16, 8, dtype},
          Shape{32, 4, 128, 16, dtype}}) {
      for (const int chunk : {7, 200}) {
        World world(shape, {37, 1, 70, 0, 200});
        world.Run(chunk);
      }
    }
  }
}

TEST_F(ExactAttentionTest, DecodeAfterALongPrefixHasThem) {
  for (const Shape& shape :
       {Shape{32, 4, 128, 16, Dtype::kBf16}, Shape{16, 16, 128, 16, Dtype::kF32}}) {
    World world(shape, std::vector<int>(3, 1002));
    world.Step(0, 1000, "prefix of 1000");
    world.Step(1000, 1001, "token 1000");
    world.Step(1001, 1002, "token 1001");
  }
}

TEST_F(ExactAttentionTest, ManySequencesHaveThem) {
  std::vector<int> lengths;
  Rng rng(3);
  for (int i = 0; i < 90; ++i) lengths.push_back(static_cast<int>(rng.Below(30)));
  World world({4, 2, 32, 8, Dtype::kBf16}, lengths);
  world.Run(9);
}

TEST_F(ExactAttentionTest, RoundsLikeTheCpuToF16AndBf16) {
  // Ties, subnormals, overflow, both signs.
  const std::vector<float> values = {1.0f + 0x1p-11f, 1.0f + 0x3p-11f, 0x1p-24f,  0x1p-25f,
                                     0x1.8p-25f,      65519.0f,        65520.0f,  1e30f,
                                     -0.0f,           0x1p-15f,        3e-5f,     -65504.0f,
                                     1.0f + 0x1p-8f,  1.0f + 0x3p-8f,  0x1p-140f, -0x1.9p-24f};
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBf16}) {
    std::vector<uint16_t> memory = OnDevice<uint16_t>::Poison(2 * 16);
    const OnDevice<uint16_t> device_memory(memory);
    const std::vector<int32_t> first = {0, 1}, position = {0}, table = {0};
    KvLayer cache = {memory.data(), dtype, 1, 1, 1, 16};
    WriteKv({first, position, first, table}, {values.data(), 1, 16, 16}, {values.data(), 1, 16, 16},
            cache);
    const OnDevice<float> dv(values);
    const OnDevice<int32_t> df(first), dp(position), dt(table);
    cache.data = device_memory.get();
    const ExactRows rows = {dv.get(), 1, 16, 16};
    ExpectOk(
        ExactWriteKv({{df.get(), dp.get(), df.get(), dt.get(), 1, 1}, rows, rows, cache}, nullptr));
    EXPECT_EQ(device_memory.Read(), memory) << DtypeName(dtype);
  }
}

}  // namespace
}  // namespace conclave
