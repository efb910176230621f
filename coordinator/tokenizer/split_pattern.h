// SplitPattern: a pre-tokenizer's regular expression, compiled with PCRE2 (UTF, UCP, JIT) so that
// its classes mean what Oniguruma, which Hugging Face's tokenizers use, means by them. Immutable
// once made: any thread may call Split, each with a scratch of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Working memory of matches: one for each thread that splits.
class SplitScratch {
 public:
  SplitScratch();
  ~SplitScratch();
  SplitScratch(const SplitScratch&) = delete;
  SplitScratch& operator=(const SplitScratch&) = delete;

 private:
  friend class SplitPattern;
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

class SplitPattern {
 public:
  // InvalidArgument for a pattern that does not compile; Unimplemented for one whose meaning
  // differs between the two engines (\w, \b).
  static absl::StatusOr<std::unique_ptr<SplitPattern>> Compile(absl::string_view pattern);
  ~SplitPattern();
  SplitPattern(const SplitPattern&) = delete;
  SplitPattern& operator=(const SplitPattern&) = delete;

  // Appends the matches in `text` and, unless `matches_only`, what lies between them, in order;
  // never an empty piece. `text` is valid UTF-8. ResourceExhausted when a match takes more steps
  // than the limit.
  absl::Status Split(absl::string_view text, bool matches_only, SplitScratch* scratch,
                     std::vector<absl::string_view>* pieces) const;

 private:
  struct Code;
  explicit SplitPattern(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace conclave
