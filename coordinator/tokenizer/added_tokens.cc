#include "coordinator/tokenizer/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <utility>

#include "coordinator/tokenizer/utf8.h"

namespace conclave {
namespace {

uint64_t EdgeKey(int32_t node, char byte) {
  return (static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(byte);
}

bool IsWordCharacter(char32_t c) {
  const auto code = static_cast<UChar32>(c);
  constexpr uint32_t kMarksDigitsConnectors =
      U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;  // \w of UTS #18, with Alphabetic and joiners
  return u_hasBinaryProperty(code, UCHAR_ALPHABETIC) ||
         (U_GET_GC_MASK(code) & kMarksDigitsConnectors) != 0 ||
         u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL);
}

// Where the last character of a non-empty valid text begins.
size_t LastCharacter(absl::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xc0) == 0x80) --begin;
  return begin;
}

bool EndsWithWord(absl::string_view text) {
  return !text.empty() && IsWordCharacter(DecodeUtf8(text.substr(LastCharacter(text))).code_point);
}

bool StartsWithWord(absl::string_view text) {
  return !text.empty() && IsWordCharacter(DecodeUtf8(text).code_point);
}

size_t SpaceBytesAtStart(absl::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Step step = DecodeUtf8(text.substr(bytes));
    if (!u_isUWhiteSpace(static_cast<UChar32>(step.code_point))) break;
    bytes += step.bytes;
  }
  return bytes;
}

size_t SpaceBytesAtEnd(absl::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t begin = LastCharacter(text.substr(0, end));
    const char32_t c = DecodeUtf8(text.substr(begin)).code_point;
    if (!u_isUWhiteSpace(static_cast<UChar32>(c))) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_(1, -1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    for (char byte : tokens_[i].content) {
      const auto [edge, added] =
          edges_.try_emplace(EdgeKey(node, byte), static_cast<int32_t>(token_at_.size()));
      if (added) token_at_.push_back(-1);
      node = edge->second;
    }
    token_at_[node] = static_cast<int>(i);
  }
}

int AddedTokenMatcher::LongestAt(absl::string_view text) const {
  int longest = -1;
  int32_t node = 0;
  for (char byte : text) {
    const auto edge = edges_.find(EdgeKey(node, byte));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_[node] >= 0) longest = token_at_[node];
  }
  return longest;
}

void AddedTokenMatcher::Split(absl::string_view text, std::vector<TextSegment>* segments) const {
  size_t done = 0;  // segments cover [0, done)
  const size_t end = tokens_.empty() ? 0 : text.size();
  for (size_t i = 0; i < end;) {
    const int found = LongestAt(text.substr(i));
    if (found < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = i;
    size_t stop = i + token.content.size();
    i = stop;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(stop)))) {
      continue;
    }
    if (token.lstrip) begin -= SpaceBytesAtEnd(text.substr(done, begin - done));
    if (token.rstrip) stop += SpaceBytesAtStart(text.substr(stop));
    if (begin > done) segments->push_back({text.substr(done, begin - done), -1});
    segments->push_back({text.substr(begin, stop - begin), token.id});
    i = done = stop;
  }
  if (done < text.size()) segments->push_back({text.substr(done), -1});
}

}  // namespace conclave
