#include "worker/weights/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "simdjson.h"
#include "worker/weights/file_io.h"

namespace conclave {
namespace {

constexpr int kRankMax = 8;
constexpr size_t kJsonDepthMax = 16;
constexpr int64_t kLengthBytes = 8;
constexpr const char* kRemedy = "the file is damaged or not safetensors; fetch it again";

absl::Status Refuse(absl::string_view file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what, "; ", kRemedy));
}

// A string of the file as messages may show it: short and printable.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, 128)), "'");
}

absl::Status RefuseTensor(absl::string_view file, absl::string_view tensor,
                          absl::string_view what) {
  return Refuse(file, absl::StrCat("tensor ", Quoted(tensor), " ", what));
}

// The dtypes of the format that Conclave reads; others are legal there.
absl::StatusOr<Dtype> DtypeOf(absl::string_view file, absl::string_view tensor,
                              absl::string_view name) {
  static constexpr std::pair<absl::string_view, Dtype> kNames[] = {
      {"F32", Dtype::kF32}, {"F16", Dtype::kF16}, {"BF16", Dtype::kBf16},
      {"I32", Dtype::kI32}, {"I64", Dtype::kI64}, {"U8", Dtype::kU8}};
  for (const auto& [known, dtype] : kNames) {
    if (name == known) return dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": tensor ", Quoted(tensor), " has dtype ", Quoted(name),
                   ", which is not supported; convert the checkpoint to BF16, F16 or F32"));
}

// A list of non-negative integers.
absl::StatusOr<std::vector<int64_t>> Integers(absl::string_view file, absl::string_view tensor,
                                              absl::string_view field,
                                              simdjson::dom::element value) {
  simdjson::dom::array array;
  if (value.get(array) != simdjson::SUCCESS) {
    return RefuseTensor(file, tensor, absl::StrCat("has a ", field, " that is not a list"));
  }
  std::vector<int64_t> result;
  for (const simdjson::dom::element item : array) {
    int64_t number = 0;
    if (item.get(number) != simdjson::SUCCESS || number < 0 || result.size() == kRankMax) {
      return RefuseTensor(file, tensor,
                          absl::StrCat("has a ", field, " that is not a list of at most ", kRankMax,
                                       " non-negative integers"));
    }
    result.push_back(number);
  }
  return result;
}

absl::StatusOr<int64_t> TensorBytes(absl::string_view file, absl::string_view tensor,
                                    const SafetensorsEntry& entry) {
  int64_t bytes = static_cast<int64_t>(DtypeBytes(entry.dtype));
  for (const int64_t dim : entry.dims) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) {
      return RefuseTensor(file, tensor,
                          absl::StrCat("has shape [", absl::StrJoin(entry.dims, ", "),
                                       "], which is larger than any file"));
    }
  }
  return bytes;
}

// One value of the header; offsets still count from the start of the data.
absl::StatusOr<SafetensorsEntry> ParseEntry(absl::string_view file, absl::string_view tensor,
                                            simdjson::dom::element value) {
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) {
    return RefuseTensor(file, tensor, "is not a JSON object");
  }
  SafetensorsEntry entry;
  std::vector<int64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
  for (const auto field : object) {
    const absl::string_view key(field.key.data(), field.key.size());
    bool* seen = key == "dtype"          ? &has_dtype
                 : key == "shape"        ? &has_shape
                 : key == "data_offsets" ? &has_offsets
                                         : nullptr;
    if (seen == nullptr || std::exchange(*seen, true)) {
      return RefuseTensor(file, tensor,
                          absl::StrCat("has an unknown or repeated key ", Quoted(key)));
    }
    if (seen == &has_dtype) {
      std::string_view name;
      if (field.value.get(name) != simdjson::SUCCESS) {
        return RefuseTensor(file, tensor, "has a dtype that is not a string");
      }
      ASSIGN_OR_RETURN(entry.dtype, DtypeOf(file, tensor, {name.data(), name.size()}));
    } else {
      ASSIGN_OR_RETURN((seen == &has_shape ? entry.dims : offsets),
                       Integers(file, tensor, key, field.value));
    }
  }
  if (!has_dtype || !has_shape || !has_offsets) {
    return RefuseTensor(file, tensor, "lacks one of dtype, shape and data_offsets");
  }
  if (offsets.size() != 2) {
    return RefuseTensor(file, tensor,
                        absl::StrCat("has ", offsets.size(), " data_offsets, expected 2"));
  }
  entry.begin_bytes = offsets[0];
  entry.end_bytes = offsets[1];
  return entry;
}

absl::Status CheckExtent(absl::string_view file, absl::string_view tensor,
                         const SafetensorsEntry& entry, int64_t data_bytes) {
  if (entry.begin_bytes > entry.end_bytes || entry.end_bytes > data_bytes) {
    return RefuseTensor(
        file, tensor,
        absl::StrFormat("has data_offsets [%d, %d], but the file holds %d bytes of data",
                        entry.begin_bytes, entry.end_bytes, data_bytes));
  }
  ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(file, tensor, entry));
  if (bytes != entry.end_bytes - entry.begin_bytes) {
    return RefuseTensor(
        file, tensor,
        absl::StrFormat("has data_offsets [%d, %d] of %d bytes, but its shape [%s] of %s takes %d",
                        entry.begin_bytes, entry.end_bytes, entry.end_bytes - entry.begin_bytes,
                        absl::StrJoin(entry.dims, ", "), std::string(DtypeName(entry.dtype)),
                        bytes));
  }
  return absl::OkStatus();
}

// Tensors in the order of their offsets follow one another from 0 to the end of the data.
absl::Status CheckCover(absl::string_view file, const SafetensorsTable& table, int64_t data_bytes) {
  std::vector<const SafetensorsTable::value_type*> order;
  for (const auto& item : table) order.push_back(&item);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin_bytes, a->second.end_bytes) <
           std::pair(b->second.begin_bytes, b->second.end_bytes);
  });
  int64_t end = 0;
  for (const auto* item : order) {
    const auto& [name, entry] = *item;
    if (entry.begin_bytes != end) {
      return RefuseTensor(
          file, name,
          absl::StrFormat("begins at data offset %d, but the tensor before it ends at %d (%s)",
                          entry.begin_bytes, end, entry.begin_bytes < end ? "overlap" : "hole"));
    }
    end = entry.end_bytes;
  }
  if (end != data_bytes) {
    return Refuse(file, absl::StrFormat("%d bytes follow the last tensor", data_bytes - end));
  }
  return absl::OkStatus();
}

// Parses `json` into `object`, which lives as long as `parser`.
absl::Status ParseObject(absl::string_view file, absl::string_view json,
                         simdjson::dom::parser& parser, simdjson::dom::object& object) {
  if (parser.allocate(std::max<size_t>(json.size(), 64), kJsonDepthMax) != simdjson::SUCCESS) {
    return absl::ResourceExhaustedError(
        absl::StrCat(file, ": no memory to parse ", json.size(), " bytes of JSON"));
  }
  if (json.empty() || json[0] != '{') return Refuse(file, "the header is not a JSON object");
  simdjson::dom::element root;
  const simdjson::error_code error = parser.parse(json.data(), json.size()).get(root);
  if (error != simdjson::SUCCESS) {
    return Refuse(
        file, absl::StrCat("the header is not valid JSON (", simdjson::error_message(error), ")"));
  }
  if (root.get(object) != simdjson::SUCCESS) return Refuse(file, "the header is not a JSON object");
  return absl::OkStatus();
}

// A plain file name: nothing that could name a file outside the folder.
bool IsPlainName(absl::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(absl::string_view("/\\\0", 3)) == absl::string_view::npos;
}

}  // namespace

absl::StatusOr<SafetensorsTable> ParseSafetensorsHeader(absl::string_view file,
                                                        absl::string_view json,
                                                        int64_t file_bytes) {
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  RETURN_IF_ERROR(ParseObject(file, json, parser, object));
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(json.size());
  const int64_t data_bytes = file_bytes - data_begin;
  SafetensorsTable table;
  bool metadata = false;
  for (const auto field : object) {
    const absl::string_view name(field.key.data(), field.key.size());
    if (name == "__metadata__") {
      if (std::exchange(metadata, true)) return Refuse(file, "the key '__metadata__' is repeated");
      continue;
    }
    ASSIGN_OR_RETURN(SafetensorsEntry entry, ParseEntry(file, name, field.value));
    RETURN_IF_ERROR(CheckExtent(file, name, entry, data_bytes));
    if (!table.emplace(name, std::move(entry)).second) {
      return RefuseTensor(file, name, "is listed twice");
    }
  }
  RETURN_IF_ERROR(CheckCover(file, table, data_bytes));
  for (auto& [name, entry] : table) {
    entry.begin_bytes += data_begin;
    entry.end_bytes += data_begin;
  }
  return table;
}

absl::StatusOr<SafetensorsTable> ReadSafetensorsHeader(const std::string& file, int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot stat ", file, ": ", std::strerror(errno)));
  }
  const int64_t file_bytes = info.st_size;
  if (!S_ISREG(info.st_mode) || file_bytes < kLengthBytes) {
    return Refuse(file, absl::StrCat("holds ", file_bytes, " bytes, fewer than a header needs"));
  }
  char length_bytes[kLengthBytes];
  RETURN_IF_ERROR(ReadAt(fd, file, 0, kLengthBytes, length_bytes));
  uint64_t length = 0;  // little-endian
  for (int i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(static_cast<uint8_t>(length_bytes[i])) << (8 * i);
  }
  if (length > static_cast<uint64_t>(kSafetensorsHeaderBytesMax)) {
    return Refuse(file, absl::StrCat("the header claims ", length, " bytes, more than the ",
                                     kSafetensorsHeaderBytesMax, " allowed"));
  }
  const int64_t header_bytes = static_cast<int64_t>(length);
  if (header_bytes > file_bytes - kLengthBytes) {
    return Refuse(file,
                  absl::StrCat("the header claims ", header_bytes, " bytes, but the file has ",
                               file_bytes, " in all (truncated?)"));
  }
  std::string json(header_bytes, '\0');
  RETURN_IF_ERROR(ReadAt(fd, file, kLengthBytes, header_bytes, json.data()));
  return ParseSafetensorsHeader(file, json, file_bytes);
}

absl::StatusOr<std::map<std::string, std::string, std::less<>>> ParseSafetensorsIndex(
    absl::string_view file, absl::string_view json) {
  simdjson::dom::parser parser;
  simdjson::dom::object root, weight_map;
  RETURN_IF_ERROR(ParseObject(file, json, parser, root));
  if (root["weight_map"].get(weight_map) != simdjson::SUCCESS) {
    return Refuse(file, "there is no object 'weight_map'");
  }
  std::map<std::string, std::string, std::less<>> shards;
  for (const auto field : weight_map) {
    const absl::string_view tensor(field.key.data(), field.key.size());
    std::string_view shard;
    if (field.value.get(shard) != simdjson::SUCCESS) {
      return RefuseTensor(file, tensor, "has a shard that is not a string");
    }
    const absl::string_view shard_name(shard.data(), shard.size());
    if (!IsPlainName(shard_name)) {
      return RefuseTensor(file, tensor,
                          absl::StrCat("lies in ", Quoted(shard_name),
                                       ", which is not the name of a file beside the index"));
    }
    if (!shards.emplace(tensor, shard_name).second) {
      return RefuseTensor(file, tensor, "is listed twice in weight_map");
    }
  }
  return shards;
}

}  // namespace conclave
