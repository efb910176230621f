// DummySource: random weights of a model's shape, made as they are read (--load-format dummy), for
// measuring without a checkpoint. An element depends on (seed, tensor name, its place) alone, so
// that every placement of a model sees the same weights. Rows are windows of one random table at
// hashed offsets, so reading runs at the speed of memory. Values have a standard deviation of 0.02;
// norm weights are 1. Any thread may call it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "comm/types/model_shape.h"
#include "worker/weights/weight_source.h"

namespace conclave {

class DummySource : public WeightSource {
 public:
  DummySource(const ModelShape& shape, uint64_t seed);

  absl::StatusOr<TensorInfo> Find(absl::string_view name) const override;
  absl::Status Read(absl::string_view name, const TensorRegion& region, void* out) override;
  int64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  const uint64_t seed_;
  const Dtype dtype_;
  const std::string architecture_;
  absl::flat_hash_map<std::string, std::vector<int64_t>> dims_;
  std::vector<uint8_t> table_;  // elements of dtype_
  std::atomic<int64_t> bytes_read_{0};
};

}  // namespace conclave
