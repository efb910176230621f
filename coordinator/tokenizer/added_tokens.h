// Added tokens: texts such as <|endoftext|> that stand for one id wherever they occur and are cut
// out before the pre-tokenizer sees the text. The matcher takes the leftmost occurrence, of those
// the longest. Immutable once made; any thread may call Split. Source: AddedVocabulary of Hugging
// Face's tokenizers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace conclave {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // left out of decoded text
  bool normalized = false;   // sought after normalization instead of before
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space to its left / right with it
  bool rstrip = false;
};

// A stretch of text: one added token, or (id -1) text between.
struct TextSegment {
  absl::string_view text;
  int32_t id = -1;
};

class AddedTokenMatcher {
 public:
  // Contents are distinct and not empty.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Appends the segments of `text`, valid UTF-8, in order; none is empty.
  void Split(absl::string_view text, std::vector<TextSegment>* segments) const;

 private:
  // Index of the longest token at the start of `text`; -1 when there is none.
  int LongestAt(absl::string_view text) const;

  std::vector<AddedToken> tokens_;
  // A trie: (node << 8 | byte) -> node; node 0 is the root. Looked up only, never iterated.
  absl::flat_hash_map<uint64_t, int32_t> edges_;
  std::vector<int> token_at_;  // [nodes] index into tokens_, or -1
};

}  // namespace conclave
