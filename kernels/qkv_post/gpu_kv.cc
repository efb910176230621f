#include "kernels/qkv_post/gpu_kv.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

bool Aligned(const void* p, int64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

}  // namespace

absl::Status CheckGpuCache(const GpuKvLayer& cache, int32_t heads) {
  const int64_t rows = 2LL * cache.pages * cache.kv_heads * cache.page_tokens;
  if (cache.data == nullptr || !Aligned(cache.data, 128) || cache.pages < 1 ||
      cache.page_tokens < 1 || cache.kv_heads < 1 || rows > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV cache of ", cache.pages, " pages of ", cache.page_tokens, " tokens, ", cache.kv_heads,
        " heads: it must be given, 128-byte aligned, and have less than 2^31 rows"));
  }
  if (cache.head_dim < 8 || cache.head_dim > kGpuHeadDimMax || cache.head_dim % 8 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim ", cache.head_dim, " is not a multiple of 8 up to ", kGpuHeadDimMax));
  }
  if (heads < cache.kv_heads || heads % cache.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(heads, " query heads are no multiple of ", cache.kv_heads, " KV heads"));
  }
  return absl::OkStatus();
}

absl::Status CheckGpuBatch(const GpuBatch& batch) {
  if (batch.first_page == nullptr || batch.position == nullptr || batch.page_table == nullptr ||
      batch.tokens < 0 || batch.sequences < 0 || batch.sequences > kGpuSequencesMax) {
    return absl::InvalidArgumentError(absl::StrCat("batch of ", batch.tokens, " tokens in ",
                                                   batch.sequences, " sequences: at most ",
                                                   kGpuSequencesMax, ", with all its arrays"));
  }
  return absl::OkStatus();
}

absl::Status CheckGpuRows(const GpuRows& rows, int64_t columns) {
  if (rows.data == nullptr || !Aligned(rows.data, 16) || rows.stride < columns ||
      rows.stride % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(rows.name, " of stride ", rows.stride, " for ", columns,
                     " columns: 16-byte aligned rows of a multiple of 8 elements"));
  }
  return absl::OkStatus();
}

absl::Status CheckQkNorm(const QkNormWeights& norm) {
  if (norm.kind == GpuQkNorm::kNone) return absl::OkStatus();
  if (norm.q == nullptr || norm.k == nullptr || !Aligned(norm.q, 16) || !Aligned(norm.k, 16)) {
    return absl::InvalidArgumentError("qk norm without weights of q and k, 16-byte aligned");
  }
  return absl::OkStatus();
}

}  // namespace conclave
