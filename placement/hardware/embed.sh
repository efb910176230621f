#!/usr/bin/env bash
# Writes the C++ source of BuiltinProfileTexts from the YAML files given, in their order.
set -euo pipefail
echo '#include "placement/hardware/builtin_profiles.h"'
echo 'namespace conclave {'
echo 'const std::vector<BuiltinProfileText>& BuiltinProfileTexts() {'
echo '  static const auto* const kTexts = new std::vector<BuiltinProfileText>{'
for file in "$@"; do
  name=$(basename "$file" .yaml)
  printf '      {"%s", R"yaml(' "$name"
  cat "$file"
  echo ')yaml"},'
done
echo '  };'
echo '  return *kTexts;'
echo '}'
echo '}  // namespace conclave'
