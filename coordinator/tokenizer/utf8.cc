#include "coordinator/tokenizer/utf8.h"

#include <algorithm>
#include <cstdint>

namespace conclave {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// What may follow a lead byte: the bounds of the second byte, and the whole length. Length 0: not a
// lead byte.
struct Lead {
  size_t length;
  uint8_t low;
  uint8_t high;
};

Lead LeadOf(uint8_t byte) {
  if (byte >= 0xc2 && byte <= 0xdf) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};  // no surrogates
  if (byte >= 0xe1 && byte <= 0xef) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};  // nothing above U+10FFFF
  return {0, 0, 0};
}

}  // namespace

Utf8Step DecodeUtf8(absl::string_view text) {
  const uint8_t first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return {Utf8Step::Kind::kCharacter, 1, first};
  const Lead lead = LeadOf(first);
  if (lead.length == 0) return {Utf8Step::Kind::kInvalid, 1, 0};
  char32_t code_point = first & (0x7f >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Step::Kind::kIncomplete, i, 0};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xbf;
    if (byte < low || byte > high) return {Utf8Step::Kind::kInvalid, i, 0};
    code_point = (code_point << 6) | (byte & 0x3f);
  }
  return {Utf8Step::Kind::kCharacter, lead.length, code_point};
}

size_t FirstInvalidUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter) return i;
    i += step.bytes;
  }
  return absl::string_view::npos;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto tail = [code_point](int shift) {
    return static_cast<char>(0x80 | ((code_point >> shift) & 0x3f));
  };
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xc0 | (code_point >> 6)));
    out->push_back(tail(0));
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xe0 | (code_point >> 12)));
    out->push_back(tail(6));
    out->push_back(tail(0));
  } else {
    out->push_back(static_cast<char>(0xf0 | (code_point >> 18)));
    out->push_back(tail(12));
    out->push_back(tail(6));
    out->push_back(tail(0));
  }
}

void Utf8Stream::Push(absl::string_view bytes, std::string* out) {
  std::string joined;
  if (!held_.empty()) {
    joined = held_ + std::string(bytes);
    bytes = joined;
  }
  size_t i = 0;
  for (; i < bytes.size();) {
    const Utf8Step step = DecodeUtf8(bytes.substr(i));
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    if (step.kind == Utf8Step::Kind::kCharacter) {
      out->append(bytes.data() + i, step.bytes);
    } else {
      out->append(kReplacement.data(), kReplacement.size());
    }
    i += step.bytes;
  }
  held_ = std::string(bytes.substr(i));
}

void Utf8Stream::Flush(std::string* out) {
  if (!held_.empty()) out->append(kReplacement.data(), kReplacement.size());
  held_.clear();
}

}  // namespace conclave
