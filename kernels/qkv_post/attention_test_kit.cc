#include "kernels/qkv_post/attention_test_kit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "comm/base/dtype.h"

namespace conclave {

GpuBatch HostBatch::view() const {
  return {first_token.data(),
          position.data(),
          first_page.data(),
          page_table.data(),
          static_cast<int32_t>(position.size()),
          first_token.back()};
}

HostBatch MakeBatch(Rng& rng, const std::vector<SequenceSlice>& slices, int page_tokens) {
  HostBatch batch;
  batch.first_token = {0};
  batch.first_page = {0};
  for (const SequenceSlice& slice : slices) {
    const int needed = (slice.position + slice.tokens + page_tokens - 1) / page_tokens;
    batch.first_token.push_back(batch.first_token.back() + slice.tokens);
    batch.position.push_back(slice.position);
    batch.first_page.push_back(batch.first_page.back() + std::max(needed, 0) + 1);
  }
  batch.pages = batch.first_page.back() + 3;
  std::vector<int32_t> pages(batch.pages);
  std::iota(pages.begin(), pages.end(), 0);
  for (int i = batch.pages - 1; i > 0; --i) std::swap(pages[i], pages[rng.Below(i + 1)]);
  batch.page_table.assign(pages.begin(), pages.begin() + batch.first_page.back());
  return batch;
}

DeviceBatch::DeviceBatch(const HostBatch& batch)
    : first_token(batch.first_token),
      position(batch.position),
      first_page(batch.first_page),
      page_table(batch.page_table),
      sequences(static_cast<int32_t>(batch.position.size())),
      tokens(batch.first_token.back()) {}

GpuBatch DeviceBatch::view() const {
  return {first_token.get(), position.get(), first_page.get(), page_table.get(), sequences, tokens};
}

HostCache::HostCache(Rng& rng, const HostBatch& batch, const CacheShape& cache_shape, bool written)
    : shape(cache_shape), pages(batch.pages) {
  const int64_t head_elements = int64_t{shape.page_tokens} * shape.head_dim;
  data.assign(pages * 2 * shape.kv_heads * head_elements, kPoison);
  for (size_t s = 0; s < batch.position.size(); ++s) {
    const int end =
        batch.position[s] + (written ? batch.first_token[s + 1] - batch.first_token[s] : 0);
    for (int p = 0; p < end; ++p) {
      const int64_t page = batch.page_table[batch.first_page[s] + p / shape.page_tokens];
      for (int head = 0; head < 2 * shape.kv_heads; ++head) {
        uint16_t* row = data.data() + (page * 2 * shape.kv_heads + head) * head_elements +
                        p % shape.page_tokens * shape.head_dim;
        for (int i = 0; i < shape.head_dim; ++i) {
          row[i] = FloatToBf16(static_cast<float>(rng.Uniform() * 2 - 1));
        }
      }
    }
  }
}

GpuKvLayer HostCache::view(void* at) const {
  return {at, pages, shape.page_tokens, shape.kv_heads, shape.head_dim};
}

double RelativeError(const std::vector<uint16_t>& got, const std::vector<uint16_t>& want) {
  double wrong = 0, all = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double g = Bf16ToFloat(got[i]), w = Bf16ToFloat(want[i]);
    if (std::isnan(g) && std::isnan(w)) continue;
    if (std::isnan(g) || std::isnan(w)) return std::numeric_limits<double>::infinity();
    wrong += (g - w) * (g - w);
    all += w * w;
  }
  return std::sqrt(wrong / std::max(all, 1e-30));
}

std::string DescribeMismatch(const std::vector<uint16_t>& got, const std::vector<uint16_t>& want) {
  int64_t count = 0;
  std::string first;
  for (size_t i = 0; i < want.size(); ++i) {
    const float g = Bf16ToFloat(got[i]), w = Bf16ToFloat(want[i]);
    if (std::isnan(w) ? got[i] == want[i] : std::abs(g - w) <= 0.008f * std::abs(w) + 1e-4f) {
      continue;
    }
    if (count++ == 0) first = absl::StrCat("at ", i, " ", g, " instead of ", w);
  }
  return count == 0 ? "" : absl::StrCat(first, ", ", count, " of ", want.size(), " wrong");
}

}  // namespace conclave
