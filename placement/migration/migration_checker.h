// Replays a migration plan and checks every promise of migration.h: owners at every prefix and in
// every order within a wave, memory, sources, the new map at the end, and the predicted figures.
// Shares no state with the planner. For tests and the simulator. Pure; any thread.
#pragma once

#include "absl/status/status.h"
#include "placement/migration/migration.h"

namespace conclave {

// `input` is one that PlanMigration accepts. FailedPrecondition names the first move, wave or
// figure that is wrong.
absl::Status CheckMigration(const MigrationInput& input, const MigrationPlan& plan);

}  // namespace conclave
