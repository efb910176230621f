// Random migrations for tests: all that migration.h allows, at sizes at which thousands run in a
// second. A function of the generator's state; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "comm/base/rng.h"
#include "placement/migration/migration.h"

namespace conclave {

enum class FreeMemory { kNone, kLittle, kPlenty };

struct RandomMigrationOptions {
  int ranks_max = 12;
  int layers_max = 4;
  int experts_max = 8;
  int slices_max = 2;
  int copies_max = 3;
  bool even_bytes = false;  // all layers' units have one size
  bool lost_ranks = true;
};

struct RandomMigration {
  MigrationInput input;
  FreeMemory memory = FreeMemory::kNone;
  bool permutation = false;  // each rank holds as many units of each layer after as before
};

// The new map fits; every unit has a live holder or a store.
RandomMigration MakeRandomMigration(const RandomMigrationOptions& options, Rng* rng);

// Adds to free_bytes what a ResourceExhausted message of PlanMigration says would do. Returns how
// many ranks it names.
int GiveWhatItNeeds(absl::string_view message, MigrationInput* input);

// One-layer maps from lists: owners[expert] of each. Ranks are on one node, without free memory or
// a store; a unit has 100 bytes.
MigrationInput MakeMigration(const std::vector<std::vector<int32_t>>& from,
                             const std::vector<std::vector<int32_t>>& to, int ranks);

// `experts` experts in each of `layers`, dealt to `ranks`; `percent` of the units move, each rank
// holding as many as before, with room for one unit more on each rank.
MigrationInput MakeLargeMigration(int layers, int experts, int ranks, int percent, Rng* rng);

}  // namespace conclave
