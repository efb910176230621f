// The byte alphabet of byte-level BPE: a vocabulary file spells each byte as one printable
// character. Printable Latin-1 bytes stand for themselves; the other 68 become U+0100 and up, in
// order. Source: GPT-2's bytes_to_unicode. Pure functions; any thread may call them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

// The character that spells `byte`.
char32_t ByteLetter(uint8_t byte);

// `bytes` in the alphabet, as UTF-8.
std::string SpellBytes(absl::string_view bytes);

// The bytes that `spelled` stands for. False when it holds a character outside the alphabet.
bool UnspellBytes(absl::string_view spelled, std::string* bytes);

}  // namespace conclave
