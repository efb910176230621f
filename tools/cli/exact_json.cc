#include "tools/cli/exact_json.h"

#include <simdjson.h>

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

namespace json = boost::json;

constexpr int kDepthMax = 32;
// From here on neighbouring doubles lie further apart than 1: digits would promise more.
constexpr double kIntegersEnd = 0x1p53;

absl::StatusOr<json::value> Convert(const simdjson::dom::element& element, int depth);

absl::StatusOr<json::value> ConvertArray(const simdjson::dom::array& items, int depth) {
  json::array out;
  for (const simdjson::dom::element item : items) {
    ASSIGN_OR_RETURN(json::value value, Convert(item, depth + 1));
    out.push_back(std::move(value));
  }
  return json::value(std::move(out));
}

absl::StatusOr<json::value> ConvertObject(const simdjson::dom::object& members, int depth) {
  json::object out;
  for (const auto& [key, member] : members) {
    ASSIGN_OR_RETURN(json::value value, Convert(member, depth + 1));
    out[json::string_view(key.data(), key.size())] = std::move(value);
  }
  return json::value(std::move(out));
}

absl::StatusOr<json::value> Convert(const simdjson::dom::element& element, int depth) {
  if (depth > kDepthMax) {
    return absl::InvalidArgumentError(absl::StrCat("nested more than ", kDepthMax, " deep"));
  }
  using Type = simdjson::dom::element_type;
  switch (element.type()) {
    case Type::ARRAY:
      return ConvertArray(simdjson::dom::array(element), depth);
    case Type::OBJECT:
      return ConvertObject(simdjson::dom::object(element), depth);
    case Type::INT64:
      return json::value(int64_t(element));
    case Type::UINT64:
      return json::value(uint64_t(element));
    case Type::DOUBLE:
      return json::value(double(element));
    case Type::BOOL:
      return json::value(bool(element));
    case Type::NULL_VALUE:
      return json::value(nullptr);
    case Type::STRING: {
      const std::string_view text(element);
      return json::value(json::string(text.data(), text.size()));
    }
  }
  return absl::InvalidArgumentError("a value of no known kind");
}

void AppendDouble(double number, std::string* out) {
  if (!std::isfinite(number)) {
    out->append("null");
    return;
  }
  char digits[32];
  const auto end =
      std::fabs(number) < kIntegersEnd
          ? std::to_chars(digits, digits + sizeof(digits), number)
          : std::to_chars(digits, digits + sizeof(digits), number, std::chars_format::scientific);
  out->append(digits, end.ptr);
}

bool IsPlain(const json::value& value) { return !value.is_object() && !value.is_array(); }

bool HoldsPlainValues(const json::array& items) {
  for (const json::value& item : items) {
    if (!IsPlain(item)) return false;
  }
  return true;
}

void Append(const json::value& value, int indent, std::string* out);

void AppendArray(const json::array& items, int indent, std::string* out) {
  const bool one_line = HoldsPlainValues(items);
  out->push_back('[');
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out->append(one_line ? ", " : ",");
    if (!one_line) absl::StrAppend(out, "\n", std::string(indent + 2, ' '));
    Append(items[i], indent + 2, out);
  }
  if (!one_line) absl::StrAppend(out, "\n", std::string(indent, ' '));
  out->push_back(']');
}

void Append(const json::value& value, int indent, std::string* out) {
  if (value.is_double()) {
    AppendDouble(value.get_double(), out);
  } else if (const json::array* items = value.if_array()) {
    AppendArray(*items, indent, out);
  } else if (const json::object* members = value.if_object()) {
    out->push_back('{');
    bool first = true;
    for (const auto& member : *members) {
      absl::StrAppend(out, first ? "\n" : ",\n", std::string(indent + 2, ' '),
                      json::serialize(json::value(member.key())), ": ");
      Append(member.value(), indent + 2, out);
      first = false;
    }
    if (!first) absl::StrAppend(out, "\n", std::string(indent, ' '));
    out->push_back('}');
  } else {
    out->append(json::serialize(value));
  }
}

}  // namespace

absl::StatusOr<json::value> ParseExactJson(absl::string_view text, absl::string_view context) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  const simdjson::error_code error = parser.parse(text.data(), text.size()).get(root);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(
        context, ": not valid JSON: ", simdjson::error_message(error), "; correct the text"));
  }
  absl::StatusOr<json::value> value = Convert(root, 0);
  if (!value.ok()) return WithContext(value.status(), context);
  return value;
}

std::string PrettyJson(const json::value& value) {
  std::string out;
  Append(value, 0, &out);
  out.push_back('\n');
  return out;
}

}  // namespace conclave
