// UTF-8 checks and a lossy stream decoder: bytes in, valid text out, as the Unicode standard's
// table 3-7 defines it and with one U+FFFD for each maximal invalid part. Values; any thread may
// use them.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

// One step of decoding at the start of a non-empty text.
struct Utf8Step {
  enum class Kind { kCharacter, kInvalid, kIncomplete };
  Kind kind = Kind::kInvalid;
  size_t bytes = 0;         // of the character, or of the part that is invalid or incomplete
  char32_t code_point = 0;  // of a character
};
Utf8Step DecodeUtf8(absl::string_view text);

// Offset of the first byte that is not part of valid UTF-8; npos when there is none.
size_t FirstInvalidUtf8(absl::string_view text);

void AppendUtf8(char32_t code_point, std::string* out);

// Turns bytes that arrive in pieces into text. Holds back at most 3 bytes of an unfinished
// character.
class Utf8Stream {
 public:
  // Appends to `out` what `bytes` completes.
  void Push(absl::string_view bytes, std::string* out);
  // Ends the stream: an unfinished character becomes one U+FFFD.
  void Flush(std::string* out);

 private:
  std::string held_;
};

}  // namespace conclave
