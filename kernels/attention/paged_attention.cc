#include "kernels/attention/paged_attention.h"

#include <algorithm>
#include <vector>

#include "glog/logging.h"
#include "kernels/attention/attend_block.h"

namespace conclave {
namespace {

constexpr int kPageTokensMax = 64;
constexpr int kHeadDimMax = 256;

void CheckCache(const KvLayer& cache) {
  CHECK(cache.data != nullptr);
  CHECK(cache.dtype == Dtype::kF32 || cache.dtype == Dtype::kF16 || cache.dtype == Dtype::kBf16);
  CHECK(cache.page_tokens > 0 && cache.page_tokens <= kPageTokensMax) << cache.page_tokens;
  CHECK(cache.head_dim > 0 && cache.head_dim <= kHeadDimMax) << cache.head_dim;
  CHECK_EQ(cache.head_dim % 4, 0);
  CHECK_GT(cache.kv_heads, 0);
}

// Every token of the batch has a page of the cache.
void CheckBatch(const PagedBatch& batch, int64_t tokens, const KvLayer& cache) {
  const int sequences = batch.sequences();
  CHECK_EQ(batch.first_token.size(), sequences + 1u);
  CHECK_EQ(batch.first_page.size(), sequences + 1u);
  CHECK_EQ(batch.first_token[0], 0);
  CHECK_EQ(batch.first_token[sequences], tokens);
  CHECK_LE(batch.first_page[sequences], static_cast<int64_t>(batch.page_table.size()));
  for (int s = 0; s < sequences; ++s) {
    const int64_t end = batch.position[s] + batch.first_token[s + 1] - batch.first_token[s];
    CHECK_GE(batch.position[s], 0);
    CHECK_LE(end, static_cast<int64_t>(batch.first_page[s + 1] - batch.first_page[s]) *
                      cache.page_tokens);
  }
  for (int32_t page : batch.page_table) CHECK(page >= 0 && page < cache.pages) << page;
}

void CheckArgs(const AttentionArgs& args) {
  CheckCache(args.cache);
  CheckBatch(args.batch, args.q.rows, args.cache);
  CHECK_GT(args.heads, 0);
  CHECK_EQ(args.heads % args.cache.kv_heads, 0);
  CHECK_EQ(args.q.cols, static_cast<int64_t>(args.heads) * args.cache.head_dim);
  CHECK_EQ(args.out.cols, args.q.cols);
  CHECK_EQ(args.out.rows, args.q.rows);
}

// Element offset of (page, K or V, kv head, token 0) in the cache.
int64_t HeadOffset(const KvLayer& cache, int32_t page, int which, int kv_head) {
  return ((static_cast<int64_t>(page) * 2 + which) * cache.kv_heads + kv_head) * cache.page_tokens *
         cache.head_dim;
}

void StoreHead(const float* source, const KvLayer& cache, int64_t offset) {
  switch (cache.dtype) {
    case Dtype::kF32:
      std::copy_n(source, cache.head_dim, static_cast<float*>(cache.data) + offset);
      return;
    case Dtype::kF16:
      std::transform(source, source + cache.head_dim, static_cast<uint16_t*>(cache.data) + offset,
                     FloatToF16);
      return;
    case Dtype::kBf16:
      std::transform(source, source + cache.head_dim, static_cast<uint16_t*>(cache.data) + offset,
                     FloatToBf16);
      return;
    default:
      LOG(FATAL) << "a KV cache cannot be " << DtypeName(cache.dtype);
  }
}

}  // namespace

void WriteKv(const PagedBatch& batch, ConstRows k, ConstRows v, const KvLayer& cache) {
  CheckCache(cache);
  CheckBatch(batch, k.rows, cache);
  CHECK_EQ(k.cols, static_cast<int64_t>(cache.kv_heads) * cache.head_dim);
  CHECK_EQ(v.cols, k.cols);
  CHECK_EQ(v.rows, k.rows);
  for (int s = 0; s < batch.sequences(); ++s) {
    for (int32_t t = batch.first_token[s]; t < batch.first_token[s + 1]; ++t) {
      const int32_t position = batch.position[s] + t - batch.first_token[s];
      const int32_t page = batch.page_table[batch.first_page[s] + position / cache.page_tokens];
      const int64_t within = static_cast<int64_t>(position % cache.page_tokens) * cache.head_dim;
      for (int head = 0; head < cache.kv_heads; ++head) {
        const int64_t column = static_cast<int64_t>(head) * cache.head_dim;
        StoreHead(k.row(t) + column, cache, HeadOffset(cache, page, 0, head) + within);
        StoreHead(v.row(t) + column, cache, HeadOffset(cache, page, 1, head) + within);
      }
    }
  }
}

void PagedAttention(const AttentionArgs& args, ComputePool& pool) {
  CheckArgs(args);
  const int group = args.heads / args.cache.kv_heads;
  // A block is up to kAttendRows (token, query head) pairs that share a sequence and a kv head.
  std::vector<AttendBlock> blocks;
  for (int s = 0; s < args.batch.sequences(); ++s) {
    const int64_t tokens = args.batch.first_token[s + 1] - args.batch.first_token[s];
    for (int head = 0; head < args.cache.kv_heads; ++head) {
      for (int64_t row = 0; row < tokens * group; row += kAttendRows) {
        const int64_t end = std::min<int64_t>(row + kAttendRows, tokens * group);
        blocks.push_back({s, head, row, end});
      }
    }
  }
  pool.ParallelFor(static_cast<int64_t>(blocks.size()),
                   [&](int64_t i) { RunAttendBlock(args, blocks[i]); });
}

}  // namespace conclave
