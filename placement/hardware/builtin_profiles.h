// The texts of profiles/*.yaml, compiled in so that planning reads no files. Any thread.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace conclave {

struct BuiltinProfileText {
  absl::string_view name;  // of the file, without .yaml
  absl::string_view text;
};

// By name, ascending.
const std::vector<BuiltinProfileText>& BuiltinProfileTexts();

}  // namespace conclave
