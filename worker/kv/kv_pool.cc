#include "worker/kv/kv_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr int64_t kAlignBytes = 64;

std::string Mib(int64_t bytes) { return absl::StrFormat("%.1f MiB", bytes / 1048576.0); }

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

absl::Status CheckCache(const CacheOptions& cache) {
  if (cache.page_tokens < 1 || cache.page_tokens > 4096) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cache: page_tokens %d is outside 1..4096; use 16", cache.page_tokens));
  }
  if (cache.dtype != Dtype::kF32 && cache.dtype != Dtype::kF16 && cache.dtype != Dtype::kBf16) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "cache: dtype %s cannot hold keys and values; use float32, float16 or bfloat16",
        std::string(DtypeName(cache.dtype))));
  }
  if (cache.memory_bytes < 0 || cache.pages_max < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cache: memory_bytes %d and pages_max %d must be 0 (no bound) or more",
                        cache.memory_bytes, cache.pages_max));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t KvGeometry::PageBytes() const {
  return 2LL * layers * kv_heads * page_tokens * head_dim * static_cast<int64_t>(DtypeBytes(dtype));
}

absl::StatusOr<int32_t> KvPagesFor(const KvGeometry& geometry, const CacheOptions& cache,
                                   int64_t memory_bytes, int64_t weight_bytes) {
  RETURN_IF_ERROR(CheckCache(cache));
  const int64_t page_bytes = geometry.PageBytes();
  CHECK_GT(page_bytes, 0);
  int64_t pages = kKvPagesUnbounded;
  if (cache.memory_bytes > 0) {
    pages = cache.memory_bytes / page_bytes;
    if (pages < 1) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("KV cache: its budget of %s holds no page of %s; raise the cache memory",
                          Mib(cache.memory_bytes), Mib(page_bytes)));
    }
  } else if (memory_bytes > 0) {
    pages = (memory_bytes - weight_bytes) / page_bytes;
    if (memory_bytes < weight_bytes || pages < 1) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "memory budget of %s is too small: the weights take %s and one KV page %s; raise the "
          "worker's memory to at least %s, or use more workers",
          Mib(memory_bytes), Mib(weight_bytes), Mib(page_bytes), Mib(weight_bytes + page_bytes)));
    }
  }
  if (cache.pages_max > 0) pages = std::min<int64_t>(pages, cache.pages_max);
  // Page numbers and token positions within the pool stay inside int32.
  constexpr int64_t kPagesMax = 1 << 24;
  return static_cast<int32_t>(std::min(pages, kPagesMax));
}

int64_t KvPool::LayerBytes() const {
  return RoundUp(pages_ * (geometry_.PageBytes() / geometry_.layers), kAlignBytes);
}

absl::StatusOr<std::unique_ptr<KvPool>> KvPool::Create(const KvGeometry& geometry, int32_t pages) {
  CHECK_GT(pages, 0);
  CHECK_GT(geometry.PageBytes(), 0);
  const int64_t layer_bytes =
      RoundUp(pages * (geometry.PageBytes() / geometry.layers), kAlignBytes);
  const int64_t bytes = layer_bytes * geometry.layers;
  // Pages of memory come as they are written: the reservation itself costs nothing.
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("KV cache: cannot reserve %s for %d pages: %s; lower the cache memory",
                        Mib(bytes), pages, std::strerror(errno)));
  }
  return std::unique_ptr<KvPool>(new KvPool(geometry, pages, static_cast<uint8_t*>(data), bytes));
}

KvPool::~KvPool() { PCHECK(munmap(data_, mapped_bytes_) == 0); }

KvLayer KvPool::Layer(int index) const {
  CHECK_GE(index, 0);
  CHECK_LT(index, geometry_.layers);
  KvLayer layer;
  layer.data = data_ + index * LayerBytes();
  layer.dtype = geometry_.dtype;
  layer.pages = pages_;
  layer.page_tokens = geometry_.page_tokens;
  layer.kv_heads = geometry_.kv_heads;
  layer.head_dim = geometry_.head_dim;
  return layer;
}

}  // namespace conclave
