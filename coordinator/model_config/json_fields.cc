#include "coordinator/model_config/json_fields.h"

#include <sys/stat.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr size_t kExcerptBytes = 80;

boost::json::string_view ToBoost(absl::string_view text) { return {text.data(), text.size()}; }

std::string RangeText(IntRange range) {
  return absl::StrCat("give an integer from ", range.min, " to ", range.max);
}

// False when `value` is no integer of the range.
bool ReadInt(const boost::json::value& value, IntRange range, int64_t* out) {
  if (const int64_t* number = value.if_int64()) {
    *out = *number;
    return *out >= range.min && *out <= range.max;
  }
  return false;  // uint64 is used only beyond int64's range, which no field allows
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return absl::NotFoundError(absl::StrCat("file '", path, "' cannot be found; check the path"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is not a regular file"));
  }
  if (static_cast<uint64_t>(info.st_size) > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat("file '", path, "' has ", info.st_size,
                                                   " bytes; at most ", bytes_max, " are read"));
  }
  std::ifstream in(path, std::ios::binary);
  std::string text(static_cast<size_t>(info.st_size), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!in || in.gcount() != info.st_size) {
    return absl::UnavailableError(absl::StrCat("file '", path, "' cannot be read in full"));
  }
  return text;
}

absl::StatusOr<boost::json::value> ParseJson(absl::string_view text, absl::string_view context) {
  boost::json::stream_parser parser(
      boost::json::make_shared_resource<boost::json::monotonic_resource>());
  boost::json::error_code error;
  const size_t parsed = parser.write_some(text.data(), text.size(), error);
  size_t offset = parsed;
  if (!error && parsed < text.size()) {
    offset = text.find_first_not_of(" \t\r\n", parsed);
    if (offset != absl::string_view::npos) error = boost::json::error::extra_data;
  }
  if (!error) parser.finish(error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(context, ": not valid JSON near byte ", offset,
                                                   ": ", error.message(), "; correct the text"));
  }
  return parser.release();
}

std::string JsonExcerpt(const boost::json::value& value) {
  // Long strings and containers are cut before they are printed, not after.
  if (const boost::json::string* text = value.if_string(); text && text->size() > kExcerptBytes) {
    return absl::StrCat("a string of ", text->size(), " bytes");
  }
  if (const boost::json::array* list = value.if_array(); list && list->size() > kExcerptBytes) {
    return absl::StrCat("a list of ", list->size());
  }
  if (const boost::json::object* map = value.if_object(); map && map->size() > kExcerptBytes) {
    return absl::StrCat("an object of ", map->size(), " keys");
  }
  std::string text = boost::json::serialize(value);
  if (text.size() > kExcerptBytes) {
    size_t end = kExcerptBytes;
    while (end > 0 && (text[end] & 0xc0) == 0x80) --end;  // do not cut a character in two
    text = text.substr(0, end) + "...";
  }
  return text;
}

const boost::json::value* JsonFields::Find(absl::string_view key) const {
  const boost::json::value* value = object_.if_contains(ToBoost(key));
  return value == nullptr || value->is_null() ? nullptr : value;
}

absl::Status JsonFields::Refuse(absl::string_view key, absl::string_view wanted) const {
  const boost::json::value* value = object_.if_contains(ToBoost(key));
  return absl::InvalidArgumentError(absl::StrCat(context_, ": key '", key, "' is ",
                                                 value == nullptr ? "missing" : JsonExcerpt(*value),
                                                 "; ", wanted));
}

absl::StatusOr<int64_t> JsonFields::Int(absl::string_view key, IntRange range) const {
  const boost::json::value* value = Find(key);
  int64_t number = 0;
  if (value == nullptr || !ReadInt(*value, range, &number)) return Refuse(key, RangeText(range));
  return number;
}

absl::StatusOr<int64_t> JsonFields::IntOr(absl::string_view key, IntRange range,
                                          int64_t fallback) const {
  if (Find(key) == nullptr) return fallback;
  return Int(key, range);
}

absl::StatusOr<double> JsonFields::Number(absl::string_view key) const {
  const boost::json::value* value = Find(key);
  double number = NAN;
  if (value != nullptr && value->is_number()) {
    number = value->is_double()  ? value->get_double()
             : value->is_int64() ? static_cast<double>(value->get_int64())
                                 : static_cast<double>(value->get_uint64());
  }
  if (!std::isfinite(number)) return Refuse(key, "give a finite number");
  return number;
}

absl::StatusOr<double> JsonFields::NumberOr(absl::string_view key, double fallback) const {
  if (Find(key) == nullptr) return fallback;
  return Number(key);
}

absl::StatusOr<bool> JsonFields::BoolOr(absl::string_view key, bool fallback) const {
  const boost::json::value* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) return Refuse(key, "give true or false");
  return value->get_bool();
}

absl::StatusOr<std::string> JsonFields::String(absl::string_view key) const {
  const boost::json::value* value = Find(key);
  if (value == nullptr || !value->is_string()) return Refuse(key, "give a string");
  return std::string(value->get_string().data(), value->get_string().size());
}

absl::StatusOr<std::string> JsonFields::StringOr(absl::string_view key,
                                                 absl::string_view fallback) const {
  if (Find(key) == nullptr) return std::string(fallback);
  return String(key);
}

absl::StatusOr<const boost::json::object*> JsonFields::ObjectOrNull(absl::string_view key) const {
  const boost::json::value* value = Find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) return Refuse(key, "give an object");
  return &value->get_object();
}

absl::StatusOr<const boost::json::array*> JsonFields::ArrayOrNull(absl::string_view key) const {
  const boost::json::value* value = Find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) return Refuse(key, "give a list");
  return &value->get_array();
}

absl::StatusOr<std::vector<int64_t>> JsonFields::IntList(absl::string_view key,
                                                         IntRange range) const {
  const boost::json::value* value = Find(key);
  std::vector<int64_t> numbers;
  if (value == nullptr) return numbers;
  if (!value->is_array()) {
    ASSIGN_OR_RETURN(const int64_t number, Int(key, range));
    numbers.push_back(number);
    return numbers;
  }
  for (const boost::json::value& item : value->get_array()) {
    int64_t number = 0;
    if (!ReadInt(item, range, &number)) {
      return Refuse(key, absl::StrCat("every entry: ", RangeText(range)));
    }
    numbers.push_back(number);
  }
  return numbers;
}

}  // namespace conclave
