// The command line of `plan` and `simulate`: flags, help, and which function runs. main.cc adds it
// to its verbs; no state of its own.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace conclave {

// Called when a verb was parsed: its name, and what runs it.
using ChooseVerb = std::function<void(const std::string& verb, std::function<absl::Status()> run)>;

void AddPlanVerbs(CLI::App& root, const ChooseVerb& choose);

}  // namespace conclave
