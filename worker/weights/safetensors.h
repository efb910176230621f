// The header of a safetensors file: which tensor lies where. Files come from outside, so nothing in
// them is trusted: sizes, offsets and shapes are checked before they are used, and an error names
// the file, the tensor, the value and the remedy. Format:
// https://github.com/huggingface/safetensors#format (8 bytes of header length, a JSON object, the
// data; tensors cover the data without overlaps or holes). Values and pure functions; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/base/dtype.h"

namespace conclave {

// Longest header accepted, and longest index file. 900,000 tensors need about this much.
inline constexpr int64_t kSafetensorsHeaderBytesMax = 32 << 20;

struct SafetensorsEntry {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> dims;
  int64_t begin_bytes = 0;  // from the start of the file
  int64_t end_bytes = 0;

  bool operator==(const SafetensorsEntry&) const = default;
};

using SafetensorsTable = std::map<std::string, SafetensorsEntry, std::less<>>;

// `json`: the header without its length; the file has `file_bytes` in all, and is called `file` in
// errors. InvalidArgument for whatever the format forbids.
absl::StatusOr<SafetensorsTable> ParseSafetensorsHeader(absl::string_view file,
                                                        absl::string_view json, int64_t file_bytes);

// Reads the header of an open file from its start. Unavailable when the disk fails.
absl::StatusOr<SafetensorsTable> ReadSafetensorsHeader(const std::string& file, int fd);

// The weight_map of a model.safetensors.index.json: tensor name -> name of a file beside the index.
// Names that leave the folder are refused.
absl::StatusOr<std::map<std::string, std::string, std::less<>>> ParseSafetensorsIndex(
    absl::string_view file, absl::string_view json);

}  // namespace conclave
