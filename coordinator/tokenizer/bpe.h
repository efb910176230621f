// BpeModel: the merges of a byte-level BPE vocabulary. Turns the bytes of one word into token ids
// by applying the merge of lowest rank, leftmost first, until none applies; with a heap, so that a
// word of n bytes costs n log n. Immutable once made; any thread may call Encode, each with a
// scratch of its own. Source: Sennrich et al. 2016, as in Hugging Face's tokenizers.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

struct VocabEntry {
  std::string token;  // as the file spells it
  int32_t id = 0;
};

// What a tokenizer.json says of its model.
struct BpeSource {
  std::vector<VocabEntry> vocab;                            // ids are unique and not negative
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  bool ignore_merges = false;                               // a word that is a token stays whole
};

class BpeModel {
 public:
  struct Scratch {
    struct Symbol {
      int32_t id = 0;  // -1: merged into the symbol before it
      int32_t previous = 0;
      int32_t next = 0;
    };
    struct Candidate {
      int32_t rank = 0;
      int32_t position = 0;
      int32_t left = 0;
      int32_t right = 0;
      int32_t merged = 0;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // InvalidArgument when a merge names a token that the vocabulary lacks, or when a byte that valid
  // UTF-8 can hold has no token.
  static absl::StatusOr<BpeModel> Build(const BpeSource& source);

  // Appends the ids of `word`, raw bytes of valid UTF-8, at most 2^30 of them.
  void Encode(absl::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    int32_t rank = 0;
    int32_t merged = 0;
  };
  static uint64_t PairKey(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  absl::Status CheckBytes() const;
  void PushCandidate(int32_t position, Scratch* scratch) const;

  std::array<int32_t, 256> byte_ids_ = {};                 // -1: the byte has no token
  absl::flat_hash_map<uint64_t, Merge> merges_;            // looked up only, never iterated
  absl::flat_hash_map<std::string, int32_t> whole_words_;  // bytes -> id; only with ignore_merges
};

}  // namespace conclave
