#include "kernels/attention/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

struct Shape {
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int page_tokens = 16;
  Dtype dtype = Dtype::kF32;
};

std::vector<float> RandomFloats(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(rng.Uniform() * 4 - 2);
  return values;
}

// Sequences of given lengths whose tokens go through attention in any chunking, each computed from
// one cache.
class World {
 public:
  World(const Shape& shape, std::vector<int> lengths)
      : shape_(shape), lengths_(std::move(lengths)) {
    Rng rng(77);
    for (int length : lengths_) {
      pages_.emplace_back((length + shape.page_tokens - 1) / shape.page_tokens);
      for (int32_t& page : pages_.back()) page = page_count_++;
      const uint64_t seed = 1000 * pages_.size();
      q_.push_back(RandomFloats(static_cast<int64_t>(length) * QWidth(), seed));
      k_.push_back(RandomFloats(static_cast<int64_t>(length) * KvWidth(), seed + 1));
      v_.push_back(RandomFloats(static_cast<int64_t>(length) * KvWidth(), seed + 2));
      out_.emplace_back(q_.back().size());
    }
    // Page numbers in no order.
    std::vector<int32_t> shuffled(page_count_);
    for (int i = 0; i < page_count_; ++i) shuffled[i] = i;
    for (int i = page_count_ - 1; i > 0; --i) std::swap(shuffled[i], shuffled[rng.Below(i + 1)]);
    for (auto& pages : pages_) {
      for (int32_t& page : pages) page = shuffled[page];
    }
    cache_ = {nullptr, shape.dtype, page_count_, shape.page_tokens, shape.kv_heads, shape.head_dim};
    memory_.assign(page_count_ * cache_.PageBytes() / 4 + 16, std::nanf(""));
    cache_.data = memory_.data();
  }

  int QWidth() const { return shape_.heads * shape_.head_dim; }
  int KvWidth() const { return shape_.kv_heads * shape_.head_dim; }

  // Computes tokens [begin[s], end[s]) of every sequence s as one batch.
  void Step(const std::vector<int>& begin, const std::vector<int>& end, ComputePool* pool) {
    std::vector<int32_t> first_token = {0}, position, first_page = {0}, table;
    std::vector<float> q, k, v;
    for (size_t s = 0; s < lengths_.size(); ++s) {
      first_token.push_back(first_token.back() + end[s] - begin[s]);
      position.push_back(begin[s]);
      table.insert(table.end(), pages_[s].begin(), pages_[s].end());
      first_page.push_back(static_cast<int32_t>(table.size()));
      const auto append = [&](std::vector<float>& to, const std::vector<float>& from, int width) {
        to.insert(to.end(), from.begin() + begin[s] * width, from.begin() + end[s] * width);
      };
      append(q, q_[s], QWidth());
      append(k, k_[s], KvWidth());
      append(v, v_[s], KvWidth());
    }
    const int64_t tokens = first_token.back();
    const PagedBatch batch{first_token, position, first_page, table};
    WriteKv(batch, {k.data(), tokens, KvWidth(), KvWidth()},
            {v.data(), tokens, KvWidth(), KvWidth()}, cache_);
    std::vector<float> out(q.size());
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    const AttentionArgs args{batch, {q.data(), tokens, QWidth(), QWidth()},  cache_, shape_.heads,
                             scale, {out.data(), tokens, QWidth(), QWidth()}};
    if (pool != nullptr) {
      PagedAttention(args, *pool);
    } else {
      PagedAttentionRef(args);
    }
    for (size_t s = 0; s < lengths_.size(); ++s) {
      std::copy(out.begin() + first_token[s] * QWidth(),
                out.begin() + first_token[s + 1] * QWidth(), out_[s].begin() + begin[s] * QWidth());
    }
  }

  // Every sequence in chunks of `chunk` tokens, all together.
  std::vector<std::vector<float>> Run(int chunk, ComputePool* pool) {
    const int longest = *std::max_element(lengths_.begin(), lengths_.end());
    for (int first = 0; first < longest; first += chunk) {
      std::vector<int> begin, end;
      for (int length : lengths_) {
        begin.push_back(std::min(first, length));
        end.push_back(std::min(first + chunk, length));
      }
      Step(begin, end, pool);
    }
    return out_;
  }

 private:
  Shape shape_;
  std::vector<int> lengths_;
  std::vector<std::vector<int32_t>> pages_;
  std::vector<std::vector<float>> q_, k_, v_, out_;
  int32_t page_count_ = 0;
  std::vector<float> memory_;
  KvLayer cache_;
};

void ExpectClose(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-5) << i;
}

std::vector<Shape> Shapes() {
  return {{4, 2, 32, 16, Dtype::kF32},  {4, 4, 128, 16, Dtype::kBf16}, {8, 2, 64, 32, Dtype::kF16},
          {3, 1, 4, 1, Dtype::kF32},    {6, 3, 20, 5, Dtype::kBf16},   {2, 1, 36, 64, Dtype::kF16},
          {40, 1, 256, 7, Dtype::kF32}, {5, 5, 80, 8, Dtype::kF16}};
}

TEST(PagedAttention, MatchesTheReference) {
  ComputePool pool(2);
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(shape.head_dim);
    World world(shape, {37, 1, 70});
    const auto got = world.Run(100, &pool);
    const auto want = world.Run(100, nullptr);
    for (size_t s = 0; s < got.size(); ++s) ExpectClose(got[s], want[s]);
  }
}

TEST(PagedAttention, BitsDependOnNothingButThePrefix) {
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(shape.head_dim);
    std::vector<std::vector<float>> first;
    ForEachTarget([&](const std::string& target) {
      SCOPED_TRACE(target);
      for (int threads : {1, 3}) {
        ComputePool pool(threads);
        for (int chunk : {1, 3, 100}) {
          World world(shape, {37, 1, 70});
          const auto got = world.Run(chunk, &pool);
          if (first.empty()) first = got;
          EXPECT_EQ(got, first) << "chunk " << chunk << ", threads " << threads;
        }
      }
      ComputePool pool(2);
      World alone(shape, {37});
      EXPECT_EQ(alone.Run(37, &pool)[0], first[0]);
    });
  }
}

TEST(PagedAttention, LargeScoresStayFinite) {
  const float q[4] = {3e4f, 0, 0, 0}, v[4] = {1, 2, 3, 4};
  const std::vector<float> k = {3e4f, 0, 0, 0};
  std::vector<float> memory(64), out(4);
  const KvLayer cache{memory.data(), Dtype::kF32, 1, 8, 1, 4};
  const std::vector<int32_t> first_token = {0, 1}, position = {0}, first_page = {0, 1}, table = {0};
  const PagedBatch batch{first_token, position, first_page, table};
  WriteKv(batch, {k.data(), 1, 4, 4}, {v, 1, 4, 4}, cache);
  ComputePool pool(1);
  PagedAttention({batch, {q, 1, 4, 4}, cache, 1, 0.5f, {out.data(), 1, 4, 4}}, pool);
  EXPECT_EQ(out, (std::vector<float>{1, 2, 3, 4}));
}

TEST(PagedAttention, AnEmptyBatchIsLegal) {
  std::vector<float> memory(64);
  const KvLayer cache{memory.data(), Dtype::kF32, 1, 8, 1, 4};
  const std::vector<int32_t> first = {0};
  const PagedBatch batch{first, {}, first, {}};
  ComputePool pool(1);
  WriteKv(batch, {nullptr, 0, 4, 4}, {nullptr, 0, 4, 4}, cache);
  PagedAttention({batch, {nullptr, 0, 4, 4}, cache, 1, 0.5f, {nullptr, 0, 4, 4}}, pool);
}

TEST(PagedAttentionDeathTest, RefusesAPageBeyondTheCache) {
  std::vector<float> memory(64);
  const KvLayer cache{memory.data(), Dtype::kF32, 1, 8, 1, 4};
  const std::vector<int32_t> first_token = {0, 1}, position = {0}, first_page = {0, 1}, table = {1};
  const PagedBatch batch{first_token, position, first_page, table};
  const float k[4] = {};
  EXPECT_DEATH(WriteKv(batch, {k, 1, 4, 4}, {k, 1, 4, 4}, cache), "");
}

}  // namespace
}  // namespace conclave
