#include "coordinator/tokenizer/byte_alphabet.h"

#include <array>

#include "coordinator/tokenizer/utf8.h"

namespace conclave {
namespace {

constexpr char32_t kLetterEnd = 0x100 + 68;

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr std::array<char32_t, 256> MakeLetters() {
  std::array<char32_t, 256> letters = {};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    letters[byte] = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return letters;
}

constexpr std::array<char32_t, 256> kLetters = MakeLetters();

// The byte of each letter; -1 for code points that are no letter.
constexpr std::array<int16_t, kLetterEnd> MakeBytes() {
  std::array<int16_t, kLetterEnd> bytes = {};
  for (int16_t& byte : bytes) byte = -1;
  for (int byte = 0; byte < 256; ++byte) bytes[kLetters[byte]] = static_cast<int16_t>(byte);
  return bytes;
}

constexpr std::array<int16_t, kLetterEnd> kBytes = MakeBytes();

}  // namespace

char32_t ByteLetter(uint8_t byte) { return kLetters[byte]; }

std::string SpellBytes(absl::string_view bytes) {
  std::string spelled;
  for (char byte : bytes) AppendUtf8(kLetters[static_cast<uint8_t>(byte)], &spelled);
  return spelled;
}

bool UnspellBytes(absl::string_view spelled, std::string* bytes) {
  bytes->clear();
  for (size_t i = 0; i < spelled.size();) {
    const Utf8Step step = DecodeUtf8(spelled.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter || step.code_point >= kLetterEnd ||
        kBytes[step.code_point] < 0) {
      return false;
    }
    bytes->push_back(static_cast<char>(kBytes[step.code_point]));
    i += step.bytes;
  }
  return true;
}

}  // namespace conclave
