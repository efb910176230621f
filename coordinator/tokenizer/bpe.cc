#include "coordinator/tokenizer/bpe.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "coordinator/tokenizer/byte_alphabet.h"
#include "glog/logging.h"

namespace conclave {
namespace {

using Candidate = BpeModel::Scratch::Candidate;
using Symbol = BpeModel::Scratch::Symbol;

constexpr int32_t kNone = -1;

// Order of a max-heap whose top is the lowest rank, then the leftmost.
bool Later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

// Bytes that no valid UTF-8 holds need no token.
bool OccursInUtf8(int byte) { return byte < 0xc0 || (byte >= 0xc2 && byte <= 0xf4); }

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Build(const BpeSource& source) {
  BpeModel model;
  model.byte_ids_.fill(kNone);
  absl::flat_hash_map<absl::string_view, int32_t> by_token;
  by_token.reserve(source.vocab.size());
  std::string bytes;
  for (const VocabEntry& entry : source.vocab) {
    by_token.emplace(entry.token, entry.id);
    if (!UnspellBytes(entry.token, &bytes)) continue;  // an added token: never made by merging
    if (bytes.size() == 1) model.byte_ids_[static_cast<uint8_t>(bytes[0])] = entry.id;
    if (source.ignore_merges) model.whole_words_.emplace(bytes, entry.id);
  }
  RETURN_IF_ERROR(model.CheckBytes());
  model.merges_.reserve(source.merges.size());
  for (size_t rank = 0; rank < source.merges.size(); ++rank) {
    const auto& [left, right] = source.merges[rank];
    const std::string joined = left + right;
    int32_t ids[3];
    const absl::string_view tokens[3] = {left, right, joined};
    for (int i = 0; i < 3; ++i) {
      const auto found = by_token.find(tokens[i]);
      if (found == by_token.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("key 'model.merges', entry ", rank, " ('", left, "' + '", right,
                         "'): token '", tokens[i], "' is not in model.vocab; add it"));
      }
      ids[i] = found->second;
    }
    // Of two merges of one pair the last counts, as in the reference.
    model.merges_[PairKey(ids[0], ids[1])] = Merge{static_cast<int32_t>(rank), ids[2]};
  }
  return model;
}

absl::Status BpeModel::CheckBytes() const {
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] != kNone || !OccursInUtf8(byte)) continue;
    const char raw = static_cast<char>(byte);
    return absl::InvalidArgumentError(absl::StrCat(
        "key 'model.vocab': byte ", byte, " (spelled '", SpellBytes(absl::string_view(&raw, 1)),
        "') has no token; only vocabularies with all bytes are supported"));
  }
  return absl::OkStatus();
}

void BpeModel::PushCandidate(int32_t position, Scratch* scratch) const {
  const Symbol& symbol = scratch->symbols[position];
  if (symbol.next == kNone) return;
  const int32_t right = scratch->symbols[symbol.next].id;
  const auto found = merges_.find(PairKey(symbol.id, right));
  if (found == merges_.end()) return;
  scratch->heap.push_back({found->second.rank, position, symbol.id, right, found->second.merged});
  std::push_heap(scratch->heap.begin(), scratch->heap.end(), Later);
}

void BpeModel::Encode(absl::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  CHECK_LE(word.size(), size_t{1} << 30);
  if (!whole_words_.empty()) {
    const auto found = whole_words_.find(word);
    if (found != whole_words_.end()) {
      ids->push_back(found->second);
      return;
    }
  }
  const int32_t size = static_cast<int32_t>(word.size());
  std::vector<Symbol>& symbols = scratch->symbols;
  symbols.resize(word.size());
  for (int32_t i = 0; i < size; ++i) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(word[i])];
    CHECK_NE(id, kNone) << "the text is not UTF-8";
    symbols[i] = {id, i - 1, i + 1 < size ? i + 1 : kNone};
  }
  scratch->heap.clear();
  for (int32_t i = 0; i + 1 < size; ++i) PushCandidate(i, scratch);
  while (!scratch->heap.empty()) {
    std::pop_heap(scratch->heap.begin(), scratch->heap.end(), Later);
    const Candidate candidate = scratch->heap.back();
    scratch->heap.pop_back();
    Symbol& left = symbols[candidate.position];
    // An earlier merge may have taken either side.
    if (left.id != candidate.left || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    if (right.id != candidate.right) continue;
    left.id = candidate.merged;
    right.id = kNone;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = candidate.position;
    if (left.previous != kNone) PushCandidate(left.previous, scratch);
    PushCandidate(candidate.position, scratch);
  }
  for (int32_t i = size > 0 ? 0 : kNone; i != kNone; i = symbols[i].next) {
    ids->push_back(symbols[i].id);
  }
}

}  // namespace conclave
