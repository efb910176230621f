#include "placement/hardware/yaml_fields.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "yaml-cpp/eventhandler.h"

namespace conclave {
namespace {

constexpr size_t kFileBytesMax = 4 << 20;
constexpr int kDepthMax = 16;
constexpr int kValuesMax = 500'000;
constexpr size_t kExcerptMax = 60;

struct Unit {
  absl::string_view word;
  double factor;
};

const std::vector<Unit>& UnitsOf(YamlUnit unit) {
  static const auto* const kUnits = new std::vector<std::vector<Unit>>{
      {{"", 1}},
      {{"", 1},
       {"B", 1},
       {"KB", 1e3},
       {"MB", 1e6},
       {"GB", 1e9},
       {"TB", 1e12},
       {"KiB", 1024.0},
       {"MiB", 1048576.0},
       {"GiB", 1073741824.0},
       {"TiB", 1099511627776.0}},
      {{"", 1},
       {"B/s", 1},
       {"MB/s", 1e6},
       {"GB/s", 1e9},
       {"TB/s", 1e12},
       {"MiB/s", 1048576.0},
       {"GiB/s", 1073741824.0},
       {"TiB/s", 1099511627776.0},
       {"Mbit/s", 1e6 / 8},
       {"Gbit/s", 1e9 / 8},
       {"Tbit/s", 1e12 / 8}},
      {{"", 1}, {"GFLOPS", 1e9}, {"TFLOPS", 1e12}, {"PFLOPS", 1e15}},
      {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}}};
  return (*kUnits)[static_cast<int>(unit)];
}

std::string Where(const std::string& file, const YAML::Node& node) {
  const YAML::Mark mark = node.Mark();
  return mark.is_null() ? file : absl::StrCat(file, ":", mark.line + 1);
}

std::string Excerpt(const YAML::Node& node) {
  if (node.IsMap()) return "a map";
  if (node.IsSequence()) return "a list";
  if (!node.IsScalar()) return "empty";
  return absl::StrCat("'", node.Scalar().substr(0, kExcerptMax), "'");
}

// Reads a text's events without keeping them, to refuse what would grow without bound as a tree:
// yaml-cpp gives the same empty document for ever after a stray '}' or ']'.
class BoundsChecker : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) Refuse(mark, "a second document; keep one");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { Count(mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { Count(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                const std::string&) override {
    Count(mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    Open(mark);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    Open(mark);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapEnd() override { --depth_; }

 private:
  [[noreturn]] static void Refuse(const YAML::Mark& mark, const std::string& why) {
    throw YAML::ParserException(mark, why);
  }
  void Count(const YAML::Mark& mark) {
    if (++values_ > kValuesMax) Refuse(mark, absl::StrCat("more than ", kValuesMax, " values"));
  }
  void Open(const YAML::Mark& mark) {
    Count(mark);
    if (++depth_ > kDepthMax) {
      Refuse(mark, absl::StrCat("nested deeper than ", kDepthMax, "; flatten it"));
    }
  }

  int documents_ = 0;
  int depth_ = 0;
  int values_ = 0;
};

// Throws YAML::Exception.
void CheckBounds(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  BoundsChecker checker;
  while (parser.HandleNextDocument(checker)) {
  }
}

// Levenshtein distance, for suggestions.
int Distance(absl::string_view a, absl::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int up = row[j];
      row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = up;
    }
  }
  return row[b.size()];
}

}  // namespace

bool ParseQuantity(absl::string_view text, YamlUnit unit, double* value) {
  text = absl::StripAsciiWhitespace(text);
  size_t end = 0;
  const auto is_number = [&](size_t i) {
    const char c = text[i];
    if (absl::ascii_isdigit(c) || c == '.' || c == '+' || c == '-') return true;
    // An exponent needs digits after it: 3e9, not the E of a unit.
    return (c == 'e' || c == 'E') && i > 0 && i + 1 < text.size() &&
           (absl::ascii_isdigit(text[i + 1]) || text[i + 1] == '-' || text[i + 1] == '+');
  };
  while (end < text.size() && is_number(end)) ++end;
  double number = 0;
  if (!absl::SimpleAtod(text.substr(0, end), &number) || !std::isfinite(number)) return false;
  const absl::string_view word = absl::StripAsciiWhitespace(text.substr(end));
  for (const Unit& known : UnitsOf(unit)) {
    if (known.word != word) continue;
    *value = number * known.factor;
    return true;
  }
  return false;
}

absl::StatusOr<YamlFields> YamlFields::Parse(absl::string_view text, absl::string_view file) {
  const std::string name(file);
  if (text.size() > kFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": ", text.size(), " bytes, at most ", kFileBytesMax, "; cut it down"));
  }
  try {
    CheckBounds(std::string(text));
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
    if (documents.size() != 1 || !documents[0].IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":1: the file must be one map of keys to values"));
    }
    return YamlFields(documents[0], name);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(name, ":", error.mark.line + 1,
                                                   ": no YAML: ", error.msg,
                                                   "; mend the line or the ones before"));
  }
}

absl::Status YamlFields::CheckKeys(const std::vector<std::string>& known) const {
  std::vector<std::string> seen;
  for (const auto& entry : map_) {
    if (!entry.first.IsScalar()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Where(file_, entry.first), ": a key must be a word"));
    }
    const std::string& key = entry.first.Scalar();
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Where(file_, entry.first), ": key '", key, "' stands twice; keep one"));
    }
    seen.push_back(key);
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const auto nearer = [&](const std::string& a, const std::string& b) {
      return Distance(a, key) < Distance(b, key);
    };
    return absl::InvalidArgumentError(
        absl::StrCat(Where(file_, entry.first), ": unknown key '", key.substr(0, kExcerptMax),
                     "'; did you mean '", *std::min_element(known.begin(), known.end(), nearer),
                     "'? The keys here are ", absl::StrJoin(known, ", ")));
  }
  return absl::OkStatus();
}

bool YamlFields::Has(const std::string& key) const {
  const YAML::Node node = map_[key];
  return node.IsDefined() && !node.IsNull();
}

absl::Status YamlFields::Refuse(const std::string& key, absl::string_view wanted) const {
  const YAML::Node node = map_[key];
  if (!node.IsDefined()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Where(file_, map_), ": key '", key, "' is missing; give ", wanted));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Where(file_, node), ": key '", key, "' is ", Excerpt(node), "; give ", wanted));
}

absl::StatusOr<double> YamlFields::Number(const std::string& key, YamlUnit unit,
                                          YamlRange range) const {
  const YAML::Node node = map_[key];
  double value = 0;
  if (node.IsDefined() && node.IsScalar() && ParseQuantity(node.Scalar(), unit, &value) &&
      value >= range.min && value <= range.max) {
    return value;
  }
  std::vector<absl::string_view> words;
  for (const Unit& known : UnitsOf(unit)) {
    if (!known.word.empty()) words.push_back(known.word);
  }
  std::string wanted = absl::StrCat("a number from ", range.min, " to ", range.max);
  if (!words.empty()) absl::StrAppend(&wanted, ", alone or with ", absl::StrJoin(words, ", "));
  return Refuse(key, wanted);
}

absl::StatusOr<double> YamlFields::NumberOr(const std::string& key, YamlUnit unit, YamlRange range,
                                            double fallback) const {
  if (!Has(key)) return fallback;
  return Number(key, unit, range);
}

absl::StatusOr<std::string> YamlFields::String(const std::string& key) const {
  const YAML::Node node = map_[key];
  if (!Has(key) || !node.IsScalar() || node.Scalar().empty()) return Refuse(key, "a word");
  return node.Scalar();
}

absl::StatusOr<std::string> YamlFields::StringOr(const std::string& key,
                                                 absl::string_view fallback) const {
  if (!Has(key)) return std::string(fallback);
  return String(key);
}

absl::StatusOr<YamlFields> YamlFields::Map(const std::string& key) const {
  const YAML::Node node = map_[key];
  if (!Has(key) || !node.IsMap()) return Refuse(key, "a map of keys to values");
  return YamlFields(node, file_);
}

absl::StatusOr<std::vector<YamlFields>> YamlFields::List(const std::string& key) const {
  const YAML::Node node = map_[key];
  if (!Has(key) || !node.IsSequence() || node.size() == 0) return Refuse(key, "a list of maps");
  std::vector<YamlFields> items;
  for (const YAML::Node& item : node) {
    if (!item.IsMap()) {
      return absl::InvalidArgumentError(absl::StrCat(Where(file_, item), ": an element of '", key,
                                                     "' is ", Excerpt(item), "; give a map"));
    }
    items.emplace_back(item, file_);
  }
  return items;
}

std::vector<std::string> YamlFields::Keys() const {
  std::vector<std::string> keys;
  for (const auto& entry : map_) keys.push_back(entry.first.as<std::string>(""));
  return keys;
}

}  // namespace conclave
