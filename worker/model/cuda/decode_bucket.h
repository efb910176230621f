// Batches of decode steps are rounded up to buckets, each of which has its captured graph; padding
// is made of sequences that nobody asked for. Pure functions; any thread.
#pragma once

#include <cstdint>

namespace conclave {

// Largest batch that decodes by a graph; larger ones run without.
inline constexpr int32_t kDecodeTokensMax = 256;

// The smallest bucket that holds `tokens` (1..kDecodeTokensMax). Exact for small batches, where a
// padding row would make experts be read for nothing.
constexpr int32_t DecodeBucket(int32_t tokens) {
  const int32_t step = tokens <= 32 ? 1 : tokens <= 64 ? 4 : 16;
  return (tokens + step - 1) / step * step;
}

// Contexts are bucketed by powers of two from here on: a graph's split of the context is made for
// the upper end of its bucket.
inline constexpr int32_t kContextBucketMin = 512;
constexpr int32_t ContextBucket(int32_t context_tokens) {
  int32_t bucket = kContextBucketMin;
  while (bucket < context_tokens) bucket *= 2;
  return bucket;
}

}  // namespace conclave
