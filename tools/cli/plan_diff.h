// What changes from one plan to another: the question, the figures, and the weights that must move
// between devices, with bytes and seconds. Devices are matched by node name and number, so grids,
// stages and clusters may all differ. Pure; deterministic; any thread.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "placement/migration/migration.h"
#include "tools/cli/plan_view.h"

namespace conclave {

struct FieldChange {
  std::string name;
  std::string before;
  std::string after;
  bool operator==(const FieldChange&) const = default;
};

// One device's part of a migration.
struct DeviceMoves {
  std::string device;  // "node-0/3"
  int gains = 0;       // units
  int drops = 0;
  double gains_bytes = 0;
  bool operator==(const DeviceMoves&) const = default;
};

struct PlanDiff {
  std::vector<FieldChange> changes;  // of inputs, grid and figures; equal ones are left out
  // OK: `migration` says how experts move. Else why they cannot, or need not be looked at.
  absl::Status movable;
  MigrationPlan migration;
  std::vector<std::string> devices;    // names of the migration's ranks
  std::vector<DeviceMoves> by_device;  // those with moves, most gained bytes first
  double other_bytes = 0;    // of attention, dense FFNs, tables: read anew where the slice changed
  double other_seconds = 0;  // of the device that reads longest
};

absl::StatusOr<PlanDiff> DiffPlans(const PlanDocument& before, const PlanDocument& after);

std::string RenderDiff(const PlanDiff& diff, const TextStyle& style);
// With every move.
boost::json::object DiffToJson(const PlanDiff& diff);

}  // namespace conclave
