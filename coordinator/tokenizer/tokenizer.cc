#include "coordinator/tokenizer/tokenizer.h"

#include <sys/stat.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "coordinator/model_config/json_fields.h"
#include "coordinator/tokenizer/byte_alphabet.h"
#include "coordinator/tokenizer/split_pattern.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr size_t kFileBytesMax = 64 << 20;
constexpr size_t kTextBytesMax = 64 << 20;

absl::StatusOr<const icu::Normalizer2*> NfcNormalizer() {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  if (U_FAILURE(error) != 0) {
    return absl::UnavailableError(absl::StrCat("ICU has no NFC data: ", u_errorName(error)));
  }
  return nfc;
}

std::string Normalized(const icu::Normalizer2& nfc, absl::string_view text) {
  std::string out;
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  UErrorCode error = U_ZERO_ERROR;
  nfc.normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                    nullptr, error);
  CHECK(U_FAILURE(error) == 0) << u_errorName(error);  // valid UTF-8 always normalizes
  return out;
}

struct CompiledStep {
  std::unique_ptr<SplitPattern> pattern;  // null: no split
  bool matches_only = false;
  bool prefix_space = false;
};

}  // namespace

struct Tokenizer::Parts {
  BpeModel bpe;
  AddedTokenMatcher raw_added;            // sought before normalization
  AddedTokenMatcher normalized_added;     // after it
  const icu::Normalizer2* nfc = nullptr;  // owned by ICU; null: text stays as it is
  std::vector<CompiledStep> steps;
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
  std::vector<std::string> bytes;  // [id_count]
  std::vector<bool> special;       // [id_count]
};

namespace {

// The work of one Encode: pieces of text and the memory that holds those that were rewritten.
struct EncodeJob {
  std::vector<int32_t> ids;
  std::deque<std::string> rewritten;
  std::vector<absl::string_view> pieces, next;
  BpeModel::Scratch bpe;
  SplitScratch split;
};

absl::Status EncodePlain(absl::string_view text, const std::vector<CompiledStep>& steps,
                         const BpeModel& bpe, EncodeJob* job) {
  job->pieces.assign(1, text);
  for (const CompiledStep& step : steps) {
    job->next.clear();
    for (absl::string_view piece : job->pieces) {
      if (step.prefix_space && piece[0] != ' ') {
        piece = job->rewritten.emplace_back(absl::StrCat(" ", piece));
      }
      if (step.pattern == nullptr) {
        job->next.push_back(piece);
        continue;
      }
      RETURN_IF_ERROR(step.pattern->Split(piece, step.matches_only, &job->split, &job->next));
    }
    job->pieces.swap(job->next);
  }
  for (absl::string_view piece : job->pieces) bpe.Encode(piece, &job->bpe, &job->ids);
  return absl::OkStatus();
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  struct stat info;
  std::string file = path;
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) file += "/tokenizer.json";
  ASSIGN_OR_RETURN(const std::string json, ReadTextFile(file, kFileBytesMax));
  return Parse(json, file);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(absl::string_view json,
                                                            absl::string_view context) {
  if (json.size() > kFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(context, ": ", json.size(), " bytes; at most ", kFileBytesMax, " are read"));
  }
  ASSIGN_OR_RETURN(TokenizerSpec spec, ParseTokenizerJson(json, context));
  absl::StatusOr<BpeModel> bpe = BpeModel::Build(spec.bpe);
  if (!bpe.ok()) return WithContext(bpe.status(), context);
  const icu::Normalizer2* nfc = nullptr;
  if (spec.nfc) {
    ASSIGN_OR_RETURN(nfc, NfcNormalizer());
  }
  int32_t id_max = 0;
  for (const VocabEntry& entry : spec.bpe.vocab) id_max = std::max(id_max, entry.id);
  for (const AddedToken& token : spec.added) id_max = std::max(id_max, token.id);
  std::vector<std::string> bytes(id_max + 1);
  std::vector<bool> special(id_max + 1, false);
  for (const VocabEntry& entry : spec.bpe.vocab) {
    // A token outside the alphabet stands for itself, as in the reference.
    if (!UnspellBytes(entry.token, &bytes[entry.id])) bytes[entry.id] = entry.token;
  }
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : spec.added) {
    bytes[token.id] = token.content;
    special[token.id] = token.special;
    if (token.normalized && nfc != nullptr) token.content = Normalized(*nfc, token.content);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  std::vector<CompiledStep> steps;
  for (const PreTokenizerStep& step : spec.steps) {
    CompiledStep& compiled = steps.emplace_back();
    compiled.matches_only = step.matches_only;
    compiled.prefix_space = step.prefix_space;
    if (step.pattern.empty()) continue;
    absl::StatusOr<std::unique_ptr<SplitPattern>> pattern = SplitPattern::Compile(step.pattern);
    if (!pattern.ok())
      return WithContext(pattern.status(), absl::StrCat(context, ": pre_tokenizer"));
    compiled.pattern = *std::move(pattern);
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::unique_ptr<Parts>(new Parts{
      *std::move(bpe), AddedTokenMatcher(std::move(raw)), AddedTokenMatcher(std::move(normalized)),
      nfc, std::move(steps), std::move(spec.prefix_ids), std::move(spec.suffix_ids),
      std::move(bytes), std::move(special)})));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text,
                                                       bool add_special_tokens) const {
  if (text.size() > kTextBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a text of ", text.size(), " bytes; give at most ", kTextBytesMax));
  }
  const size_t invalid = FirstInvalidUtf8(text);
  if (invalid != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text is not UTF-8 at byte ", invalid, "; encode it as UTF-8"));
  }
  EncodeJob job;
  if (add_special_tokens) job.ids = parts_->prefix_ids;
  std::vector<TextSegment> segments, inner;
  parts_->raw_added.Split(text, &segments);
  for (const TextSegment& segment : segments) {
    if (segment.id >= 0) {
      job.ids.push_back(segment.id);
      continue;
    }
    absl::string_view plain = segment.text;
    if (parts_->nfc != nullptr) plain = job.rewritten.emplace_back(Normalized(*parts_->nfc, plain));
    inner.clear();
    parts_->normalized_added.Split(plain, &inner);
    for (const TextSegment& part : inner) {
      if (part.id >= 0) {
        job.ids.push_back(part.id);
      } else {
        RETURN_IF_ERROR(EncodePlain(part.text, parts_->steps, parts_->bpe, &job));
      }
    }
  }
  if (add_special_tokens) {
    job.ids.insert(job.ids.end(), parts_->suffix_ids.begin(), parts_->suffix_ids.end());
  }
  return std::move(job.ids);
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string text;
  Utf8Stream stream;
  for (int32_t id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    stream.Push(Bytes(id), &text);
  }
  stream.Flush(&text);
  return text;
}

absl::string_view Tokenizer::Bytes(int32_t id) const {
  if (id < 0 || id >= id_count()) return {};
  return parts_->bytes[id];
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < id_count() && parts_->special[id];
}

int Tokenizer::id_count() const { return static_cast<int>(parts_->bytes.size()); }

std::string IncrementalDecoder::Push(int32_t id) {
  std::string text;
  if (!skip_special_ || !tokenizer_.IsSpecial(id)) stream_.Push(tokenizer_.Bytes(id), &text);
  return text;
}

std::string IncrementalDecoder::Flush() {
  std::string text;
  stream_.Flush(&text);
  return text;
}

}  // namespace conclave
