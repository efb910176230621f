// What PlanMigration demands of its input. Pure; any thread.
#pragma once

#include "absl/status/status.h"
#include "placement/migration/migration.h"

namespace conclave {

// InvalidArgument names the field, the value and the remedy.
absl::Status CheckMigrationInput(const MigrationInput& input);

}  // namespace conclave
