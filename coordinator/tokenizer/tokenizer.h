// Tokenizer: text to token ids and back, exactly as Hugging Face's tokenizers does for byte-level
// BPE (GPT-2, Llama 3, Qwen, OLMoE, DeepSeek and their kin). Owned by the coordinator's main, read
// from one tokenizer.json. Immutable once made: any thread may call it. IncrementalDecoder, beside
// it, turns a growing sequence into text that is always valid UTF-8.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/tokenizer/tokenizer_json.h"
#include "coordinator/tokenizer/utf8.h"

namespace conclave {

class Tokenizer {
 public:
  // `path`: a tokenizer.json of at most 64 MiB, or the folder that holds it. NotFound when absent;
  // otherwise the errors of Parse.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // InvalidArgument and Unimplemented name `context`, the key and the value.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(absl::string_view json,
                                                          absl::string_view context);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of `text`, at most 64 MiB of UTF-8, in one array. `add_special_tokens` puts the
  // post-processor's tokens around it (Llama 3: <|begin_of_text|> first). Added tokens in the text
  // become their ids. InvalidArgument: not UTF-8, too long.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              bool add_special_tokens = true) const;

  // The text of `ids`; invalid UTF-8 becomes U+FFFD. Unknown ids, and special tokens unless kept,
  // have no text.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special = true) const;

  // The raw bytes of a token, possibly part of a character; empty for an unknown id.
  absl::string_view Bytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;
  // One more than the largest id.
  int id_count() const;

 private:
  struct Parts;
  explicit Tokenizer(std::unique_ptr<Parts> parts);
  std::unique_ptr<const Parts> parts_;
};

// Text of one sequence as its tokens come. Borrows the tokenizer. One thread at a time.
class IncrementalDecoder {
 public:
  explicit IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that `id` completes: "" while a character is unfinished.
  std::string Push(int32_t id);
  // What is left at the end: "" or one U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  Utf8Stream stream_;
};

}  // namespace conclave
