// FieldCheck: collects the first thing wrong with a frame while its fields are read. Every accessor
// returns a value within the bounds it was given, so that reading goes on harmlessly; the caller
// asks status() at the end. A value of one Decode call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace conclave {

inline constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
inline constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();

// An inclusive range.
struct Bounds {
  int64_t low = 0;
  int64_t high = kInt64Max;
};

class FieldCheck {
 public:
  bool ok() const { return error_.empty(); }
  absl::Status status() const {
    return ok() ? absl::OkStatus() : absl::InvalidArgumentError(error_);
  }

  // The first complaint stands.
  void Refuse(absl::string_view field, absl::string_view problem) {
    if (ok()) error_ = absl::StrCat("frame: ", field, ": ", problem);
  }

  void Require(bool holds, absl::string_view field, absl::string_view problem) {
    if (!holds) Refuse(field, problem);
  }

  int64_t Int64(absl::string_view field, int64_t value, Bounds bounds = {}) {
    if (value >= bounds.low && value <= bounds.high) return value;
    RefuseRange(field, value, bounds);
    return bounds.low;
  }

  int32_t Int32(absl::string_view field, int32_t value, Bounds bounds = {0, kInt32Max}) {
    return static_cast<int32_t>(Int64(field, value, bounds));
  }

  // `value` is the raw enumerant: a newer peer may know more of them.
  template <typename Enum, typename Wire>
  Enum Enumerant(absl::string_view field, Wire value, Enum last) {
    const Bounds bounds = {0, static_cast<int64_t>(last)};
    return static_cast<Enum>(Int64(field, static_cast<uint16_t>(value), bounds));
  }

  // The count itself, or 0 when it is above `count_max`: the list is then not read.
  size_t Count(absl::string_view field, size_t count, size_t count_max) {
    if (count <= count_max) return count;
    Refuse(field, absl::StrCat(count, " items; at most ", count_max, " are allowed"));
    return 0;
  }

  std::string Text(absl::string_view field, absl::string_view text, size_t bytes_max) {
    if (text.size() <= bytes_max) return std::string(text);
    Refuse(field,
           absl::StrCat("a text of ", text.size(), " bytes; at most ", bytes_max, " are allowed"));
    return std::string();
  }

 private:
  void RefuseRange(absl::string_view field, int64_t value, Bounds bounds) {
    Refuse(field, absl::StrCat("value ", value, " is not within ", bounds.low, "..", bounds.high));
  }

  std::string error_;
};

}  // namespace conclave
