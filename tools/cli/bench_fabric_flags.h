// The command line of `bench fabric`: flags, help, and what runs. main.cc adds it to its benches;
// no state of its own.
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace conclave {

// Called when a verb was parsed that can be interrupted: its name, and what runs it.
using ChooseLongVerb =
    std::function<void(const std::string& verb,
                       std::function<absl::Status(const std::atomic<bool>& cancelled)> run)>;

void AddBenchFabric(CLI::App& bench, const ChooseLongVerb& choose);

}  // namespace conclave
