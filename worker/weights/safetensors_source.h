// SafetensorsSource: the weights of a Hugging Face folder: model.safetensors, or the shards that
// model.safetensors.index.json names. Headers are read and checked at Open; Read copies byte ranges
// with pread. Owned by the engine; any thread may call it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/weights/file_io.h"
#include "worker/weights/safetensors.h"
#include "worker/weights/weight_source.h"

namespace conclave {

class SafetensorsSource : public WeightSource {
 public:
  // NotFound: no such folder, no safetensors in it, a missing shard. InvalidArgument: a damaged
  // file, or a tensor of the index that its shard lacks.
  static absl::StatusOr<std::unique_ptr<SafetensorsSource>> Open(const std::string& folder);

  absl::StatusOr<TensorInfo> Find(absl::string_view name) const override;
  absl::Status Read(absl::string_view name, const TensorRegion& region, void* out) override;
  int64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  struct Shard {
    std::string path;
    ReadOnlyFile file;
  };
  struct Tensor {
    SafetensorsEntry entry;
    size_t shard = 0;
  };

  explicit SafetensorsSource(std::string folder) : folder_(std::move(folder)) {}

  absl::Status OpenSingle(const std::string& path);
  absl::Status OpenIndex(const std::string& path);
  absl::StatusOr<SafetensorsTable> AddShard(const std::string& path);
  absl::StatusOr<const Tensor*> FindTensor(absl::string_view name) const;

  const std::string folder_;
  std::vector<Shard> shards_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::atomic<int64_t> bytes_read_{0};
};

}  // namespace conclave
