// The command line of `doctor`: flags, help, and what runs. main.cc adds it to its verbs; no state
// of its own.
#pragma once

#include <CLI/CLI.hpp>

#include "tools/cli/bench_fabric_flags.h"

namespace conclave {

void AddDoctor(CLI::App& root, const ChooseLongVerb& choose);

}  // namespace conclave
