#include "worker/weights/safetensors_source.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "comm/base/status.h"
#include "worker/weights/tensor_region.h"

namespace conclave {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

bool Exists(const std::string& path) {
  std::error_code ignored;  // whatever stands in the way shows when the file is opened
  return std::filesystem::exists(path, ignored);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsSource>> SafetensorsSource::Open(
    const std::string& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    return absl::NotFoundError(absl::StrCat("model folder '", folder,
                                            "' does not exist on this machine or is not a folder; "
                                            "give the path of a Hugging Face checkpoint"));
  }
  auto source = std::unique_ptr<SafetensorsSource>(new SafetensorsSource(folder));
  const std::string single = absl::StrCat(folder, "/", kSingleFile);
  const std::string index = absl::StrCat(folder, "/", kIndexFile);
  if (Exists(single)) {
    RETURN_IF_ERROR(source->OpenSingle(single));
  } else if (Exists(index)) {
    RETURN_IF_ERROR(source->OpenIndex(index));
  } else {
    return absl::NotFoundError(absl::StrCat("model folder '", folder, "' holds neither ",
                                            kSingleFile, " nor ", kIndexFile,
                                            "; fetch the checkpoint in safetensors format"));
  }
  return source;
}

absl::StatusOr<SafetensorsTable> SafetensorsSource::AddShard(const std::string& path) {
  ASSIGN_OR_RETURN(ReadOnlyFile file, ReadOnlyFile::Open(path));
  ASSIGN_OR_RETURN(SafetensorsTable table, ReadSafetensorsHeader(path, file.fd()));
  shards_.push_back({path, std::move(file)});
  return table;
}

absl::Status SafetensorsSource::OpenSingle(const std::string& path) {
  ASSIGN_OR_RETURN(SafetensorsTable table, AddShard(path));
  for (auto& [name, entry] : table) tensors_.emplace(name, Tensor{std::move(entry), 0});
  return absl::OkStatus();
}

absl::Status SafetensorsSource::OpenIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string json, ReadWholeFile(path, kSafetensorsHeaderBytesMax));
  ASSIGN_OR_RETURN(const auto shard_of_tensor, ParseSafetensorsIndex(path, json));
  std::map<std::string, std::vector<std::string>> tensors_of_shard;
  for (const auto& [tensor, shard] : shard_of_tensor) tensors_of_shard[shard].push_back(tensor);
  for (const auto& [shard, names] : tensors_of_shard) {
    auto table = AddShard(absl::StrCat(folder_, "/", shard));
    if (!table.ok()) {
      return WithContext(table.status(), absl::StrCat("shard '", shard, "' that ", path,
                                                      " names for '", names[0], "'"));
    }
    for (const std::string& name : names) {
      const auto found = table->find(name);
      if (found == table->end()) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": tensor '", name, "' is said to lie in '", shard,
                         "', which does not have it; fetch the checkpoint again"));
      }
      tensors_.emplace(name, Tensor{std::move(found->second), shards_.size() - 1});
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<const SafetensorsSource::Tensor*> SafetensorsSource::FindTensor(
    absl::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second;
  return absl::NotFoundError(absl::StrCat("the checkpoint in '", folder_, "' has no tensor '", name,
                                          "'; it is incomplete, or config.json names another "
                                          "architecture than its weights"));
}

absl::StatusOr<TensorInfo> SafetensorsSource::Find(absl::string_view name) const {
  ASSIGN_OR_RETURN(const Tensor* tensor, FindTensor(name));
  return TensorInfo{tensor->entry.dtype, tensor->entry.dims};
}

absl::Status SafetensorsSource::Read(absl::string_view name, const TensorRegion& region,
                                     void* out) {
  ASSIGN_OR_RETURN(const Tensor* tensor, FindTensor(name));
  RETURN_IF_ERROR(CheckRegion(name, tensor->entry.dims, region));
  const Shard& shard = shards_[tensor->shard];
  const int64_t element_bytes = static_cast<int64_t>(DtypeBytes(tensor->entry.dtype));
  const int64_t row_bytes = RowElements(tensor->entry.dims) * element_bytes;
  const int64_t cut_bytes = (region.col_end - region.col_begin) * element_bytes;
  const int64_t rows = region.row_end - region.row_begin;
  const int64_t first =
      tensor->entry.begin_bytes + region.row_begin * row_bytes + region.col_begin * element_bytes;
  // Whole rows are one range of the file.
  const int64_t reads = cut_bytes == row_bytes ? 1 : rows;
  const int64_t read_bytes = cut_bytes == row_bytes ? rows * row_bytes : cut_bytes;
  for (int64_t i = 0; i < reads; ++i) {
    RETURN_IF_ERROR(ReadAt(shard.file.fd(), shard.path, first + i * row_bytes, read_bytes,
                           static_cast<char*>(out) + i * read_bytes));
  }
  bytes_read_.fetch_add(reads * read_bytes, std::memory_order_relaxed);
  return absl::OkStatus();
}

}  // namespace conclave
