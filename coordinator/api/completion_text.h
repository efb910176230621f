// CompletionText: turns the tokens of one completion into text, a piece at a time, and ends it at a
// stop string of which no part is ever given out. Owned by one completion; one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/tokenizer/tokenizer.h"

namespace conclave {

// Finds stop strings in text that comes in pieces.
class StopMatcher {
 public:
  // `stops`: UTF-8, none empty.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // What of the text so far is certain to lie before any stop string and was not yet given out.
  std::string Push(absl::string_view text);
  // What was held back, once no more text comes.
  std::string Flush();
  // A stop string was found; Push and Flush then give nothing more.
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;  // a proper prefix of some stop string
  bool stopped_ = false;
};

class CompletionText {
 public:
  // `tokenizer` may be null: the text then stays empty. Tokens in `silent` end the text and have no
  // text themselves.
  CompletionText(const Tokenizer* tokenizer, std::vector<std::string> stops,
                 std::vector<int32_t> silent);

  // The text that `token` adds.
  std::string Push(int32_t token);
  // The rest, at the end.
  std::string Flush();
  bool stopped() const { return stops_.stopped(); }

 private:
  std::optional<IncrementalDecoder> decoder_;
  StopMatcher stops_;
  const std::vector<int32_t> silent_;
};

}  // namespace conclave
