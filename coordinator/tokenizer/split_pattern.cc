#include "coordinator/tokenizer/split_pattern.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "coordinator/tokenizer/utf8.h"
#include "glog/logging.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace conclave {
namespace {

constexpr size_t kPatternBytesMax = 64 << 10;
constexpr uint32_t kMatchStepsMax = 100'000'000;
constexpr uint32_t kHeapKibMax = 256 << 10;
constexpr size_t kJitStackBytesMin = 32 << 10;
constexpr size_t kJitStackBytesMax = 16 << 20;

// PCRE2's \s also matches U+180E, Oniguruma's is the Unicode property White_Space: say that
// instead, in and out of character classes.
absl::StatusOr<std::string> Translate(absl::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      out.push_back(pattern[i]);
      continue;
    }
    const char kind = pattern[++i];
    if (kind == 's') {
      out += "\\p{White_Space}";
    } else if (kind == 'S') {
      out += "\\P{White_Space}";
    } else if (kind == 'w' || kind == 'W' || kind == 'b' || kind == 'B') {
      return absl::UnimplementedError(
          absl::StrCat("pattern '", pattern, "': \\", std::string(1, kind),
                       " is not supported; spell the class with \\p{...}"));
    } else {
      out.push_back('\\');
      out.push_back(kind);
    }
  }
  return out;
}

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct SplitScratch::Memory {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackBytesMin, kJitStackBytesMax, nullptr);
};

SplitScratch::SplitScratch() : memory_(std::make_unique<Memory>()) {
  CHECK(memory_->data != nullptr && memory_->context != nullptr) << "out of memory for matches";
  pcre2_set_match_limit(memory_->context, kMatchStepsMax);
  pcre2_set_heap_limit(memory_->context, kHeapKibMax);
  // Without a stack of its own (JIT not available) PCRE2 falls back on the machine's.
  if (memory_->stack != nullptr) {
    pcre2_jit_stack_assign(memory_->context, nullptr, memory_->stack);
  }
}

SplitScratch::~SplitScratch() {
  pcre2_jit_stack_free(memory_->stack);
  pcre2_match_context_free(memory_->context);
  pcre2_match_data_free(memory_->data);
}

struct SplitPattern::Code {
  std::string text;
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

SplitPattern::SplitPattern(std::unique_ptr<Code> code) : code_(std::move(code)) {}
SplitPattern::~SplitPattern() = default;

absl::StatusOr<std::unique_ptr<SplitPattern>> SplitPattern::Compile(absl::string_view pattern) {
  if (pattern.empty() || pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("pattern of ", pattern.size(), " bytes; give 1 to ", kPatternBytesMax));
  }
  ASSIGN_OR_RETURN(const std::string translated, Translate(pattern));
  auto code = std::make_unique<Code>();
  code->text = std::string(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code->code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pattern '", pattern, "' does not compile: ", ErrorText(error), " at byte ", offset));
  }
  // The interpreter serves where JIT is not available; results are the same.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  return std::unique_ptr<SplitPattern>(new SplitPattern(std::move(code)));
}

absl::Status SplitPattern::Split(absl::string_view text, bool matches_only, SplitScratch* scratch,
                                 std::vector<absl::string_view>* pieces) const {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  SplitScratch::Memory& memory = *scratch->memory_;
  size_t done = 0;   // pieces cover [0, done)
  size_t start = 0;  // where the next match is sought
  while (start < text.size()) {
    const int count = pcre2_match(code_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK,
                                  memory.data, memory.context);
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("pattern '", code_->text, "' gave up at byte ", start, " of ", text.size(),
                       ": ", ErrorText(count), "; shorten the text"));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(memory.data);
    const size_t begin = bounds[0];
    const size_t end = bounds[1];
    if (begin > done && !matches_only) pieces->push_back(text.substr(done, begin - done));
    if (end > begin) pieces->push_back(text.substr(begin, end - begin));
    done = std::max(done, end);
    // An empty match splits, then the search moves on by one character.
    start = end > begin           ? end
            : begin < text.size() ? begin + DecodeUtf8(text.substr(begin)).bytes
                                  : text.size();
  }
  if (done < text.size() && !matches_only) pieces->push_back(text.substr(done));
  return absl::OkStatus();
}

}  // namespace conclave
