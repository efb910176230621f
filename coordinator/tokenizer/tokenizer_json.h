// Reads a tokenizer.json of Hugging Face's tokenizers into a TokenizerSpec, refusing what
// byte-level BPE as implemented here would do differently. A pure function; any thread may call it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/tokenizer/added_tokens.h"
#include "coordinator/tokenizer/bpe.h"

namespace conclave {

// One step of the pre-tokenizer: put a space before a piece that has none, then split it.
struct PreTokenizerStep {
  std::string pattern;        // empty: no split
  bool matches_only = false;  // drop what lies between matches
  bool prefix_space = false;
};

struct TokenizerSpec {
  BpeSource bpe;
  std::vector<AddedToken> added;  // ascending by id
  bool nfc = false;               // normalize to NFC
  std::vector<PreTokenizerStep> steps;
  std::vector<int32_t> prefix_ids;  // the post-processor puts these around a text
  std::vector<int32_t> suffix_ids;
};

constexpr int32_t kTokenIdMax = (1 << 22) - 1;

// InvalidArgument (broken or contradictory) and Unimplemented (another kind of tokenizer) name
// `context`, the key and the value.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view json, absl::string_view context);

}  // namespace conclave
