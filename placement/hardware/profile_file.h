// ProfileFile: a profile as its YAML holds it: the device, and the node it usually sits in, whose
// figures a cluster takes where its own file is silent. A value; any thread.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "placement/hardware/cluster_topology.h"
#include "placement/hardware/yaml_fields.h"

namespace conclave {

struct ProfileFile {
  HardwareProfile profile;
  ClusterNode node;        // without a name; devices: of a whole node; fast_domain: 0 or -1
  int domain_devices = 0;  // devices that share fast links; 0: those of a node
};

// `name`: of a profile that stands under its name in another file, which need not repeat it; empty:
// the map must name it.
absl::StatusOr<ProfileFile> ParseProfileFile(const YamlFields& fields, absl::string_view name);
absl::StatusOr<ProfileFile> BuiltinProfileFile(absl::string_view name);

// Overwrites what `fields` (a node of a cluster file, or `node` of a profile) says of `node`.
absl::Status ReadNodeFields(const YamlFields& fields, ClusterNode* node);

// "nodes", "devices", ... that ReadNodeFields understands.
const std::vector<std::string>& NodeKeys();

// A device of a machine whose workers share one memory system gets its part of it.
HardwareProfile ShareOfNode(HardwareProfile profile, int devices);

}  // namespace conclave
