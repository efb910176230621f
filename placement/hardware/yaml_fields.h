// Typed reads of YAML files from outside: bounded size and depth, known keys only, and errors that
// name the file, the line, the key, the value and the remedy. The one place that includes yaml-cpp,
// whose exceptions never leave it. A YamlFields borrows nothing: its nodes are shared values; one
// thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "yaml-cpp/yaml.h"

namespace conclave {

// What a number may be, and the unit words that may follow it.
enum class YamlUnit : uint8_t { kPlain, kBytes, kBytesPerSecond, kFlops, kSeconds };

struct YamlRange {
  double min = 0;
  double max = 0;
};

// "40GiB" to 40 * 2^30, "400Gbit/s" to 50e9, "3us" to 3e-6; decimal and binary prefixes. False when
// `text` is no such quantity.
bool ParseQuantity(absl::string_view text, YamlUnit unit, double* value);

class YamlFields {
 public:
  // A file of at most 4 MiB whose top is a map.
  static absl::StatusOr<YamlFields> Parse(absl::string_view text, absl::string_view file);

  YamlFields(YAML::Node map, std::string file) : map_(std::move(map)), file_(std::move(file)) {}

  // InvalidArgument for a key that is not among `known`, or stands twice.
  absl::Status CheckKeys(const std::vector<std::string>& known) const;
  bool Has(const std::string& key) const;
  absl::StatusOr<double> Number(const std::string& key, YamlUnit unit, YamlRange range) const;
  absl::StatusOr<double> NumberOr(const std::string& key, YamlUnit unit, YamlRange range,
                                  double fallback) const;
  absl::StatusOr<std::string> String(const std::string& key) const;
  absl::StatusOr<std::string> StringOr(const std::string& key, absl::string_view fallback) const;
  absl::StatusOr<YamlFields> Map(const std::string& key) const;
  // Elements of a list of maps.
  absl::StatusOr<std::vector<YamlFields>> List(const std::string& key) const;
  std::vector<std::string> Keys() const;

  // InvalidArgument: "FILE:LINE: key 'K' is V; WANTED".
  absl::Status Refuse(const std::string& key, absl::string_view wanted) const;

 private:
  YAML::Node map_;
  std::string file_;
};

}  // namespace conclave
