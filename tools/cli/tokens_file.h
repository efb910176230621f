// The files of `logits` and `generate --tokens`: {"input_ids": [[...], ...]} in, float32 .npy out.
// Pure but for the reading.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// InvalidArgument names the file, the entry and the remedy.
absl::StatusOr<std::vector<std::vector<int32_t>>> ReadTokensFile(const std::string& path);

// Writes `bytes` to `path` by way of a temporary file beside it and a rename.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes);

}  // namespace conclave
