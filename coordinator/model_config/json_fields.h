// Typed reads of untrusted JSON: a bounded file, a depth-limited parse, and fields whose errors
// name the file, the key, the value found and the value wanted. Boost.JSON's own exceptions never
// leave these functions. A JsonFields borrows its object and must not outlive it; any thread may
// use these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "boost/json.hpp"

namespace conclave {

// The whole of a file of at most `bytes_max`. NotFound when it is absent; InvalidArgument when it
// is no regular file or longer.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max);

// Parses strict JSON whose nesting is at most 32. InvalidArgument names `context` and the byte
// offset. The value lives in one arena, freed as a whole.
absl::StatusOr<boost::json::value> ParseJson(absl::string_view text, absl::string_view context);

// `value` as JSON, cut to at most 80 bytes: for messages.
std::string JsonExcerpt(const boost::json::value& value);

struct IntRange {
  int64_t min = 0;
  int64_t max = 0;
};

class JsonFields {
 public:
  JsonFields(const boost::json::object& object, std::string context)
      : object_(object), context_(std::move(context)) {}

  const std::string& context() const { return context_; }

  // nullptr when the key is absent or null: the two mean the same in the files of Hugging Face.
  const boost::json::value* Find(absl::string_view key) const;

  // The Or variants return the default when the key is absent or null; the others refuse that. All
  // are InvalidArgument for a wrong type or a value out of range.
  absl::StatusOr<int64_t> Int(absl::string_view key, IntRange range) const;
  absl::StatusOr<int64_t> IntOr(absl::string_view key, IntRange range, int64_t fallback) const;
  absl::StatusOr<double> Number(absl::string_view key) const;
  absl::StatusOr<double> NumberOr(absl::string_view key, double fallback) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool fallback) const;
  absl::StatusOr<std::string> String(absl::string_view key) const;
  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view fallback) const;
  // nullptr when absent or null; an error when it is not an object / array.
  absl::StatusOr<const boost::json::object*> ObjectOrNull(absl::string_view key) const;
  absl::StatusOr<const boost::json::array*> ArrayOrNull(absl::string_view key) const;
  // One integer or a list of them; empty when absent or null.
  absl::StatusOr<std::vector<int64_t>> IntList(absl::string_view key, IntRange range) const;

  // InvalidArgument: "context: key 'k' is V; wanted".
  absl::Status Refuse(absl::string_view key, absl::string_view wanted) const;

 private:
  const boost::json::object& object_;
  std::string context_;
};

}  // namespace conclave
