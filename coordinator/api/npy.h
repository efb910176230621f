// The .npy format of NumPy, version 1.0: a text header, then the array. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace conclave {

// The header of a little-endian float32 array of `shape` in C order; its length is a multiple
// of 64. Source: NEP 1.
std::string NpyFloatHeader(absl::Span<const int64_t> shape);

}  // namespace conclave
