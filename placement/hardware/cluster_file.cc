// Clusters from YAML files and from PROFILE:COUNT. A file has `name`, `profiles` (a map of profiles
// as profiles/*.yaml has them) and `nodes`, a list of entries with the keys of kEntryKeys and
// NodeKeys(); what an entry does not say is that of its profile's usual node.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"
#include "placement/hardware/cluster_topology.h"
#include "placement/hardware/profile_file.h"

namespace conclave {
namespace {

constexpr int kDevicesMax = 65536;  // of a cluster; so are its nodes
constexpr size_t kNumberDigitsMax = 9;
constexpr const char* kEntryKeys[] = {"name",    "names",         "count",
                                      "profile", "nvlink_domain", "domain_devices"};

// Profiles by name: those of the file, and the built-in ones that it used so far.
using ProfileTable = std::map<std::string, ProfileFile>;

bool ReadDigits(absl::string_view text, int* number) {
  return !text.empty() && text.size() <= kNumberDigitsMax &&
         text.find_first_not_of("0123456789") == absl::string_view::npos &&
         absl::SimpleAtoi(text, number);
}

// Appends the names that "3-7" or "05" mean between `before` and `after`; false when it is no range
// or means too many.
bool AppendRange(absl::string_view range, absl::string_view before, absl::string_view after,
                 std::vector<std::string>* names) {
  const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
  int first = 0;
  int last = 0;
  if (ends.size() > 2 || !ReadDigits(ends.front(), &first) || !ReadDigits(ends.back(), &last) ||
      last < first || last - first >= kDevicesMax - static_cast<int>(names->size())) {
    return false;
  }
  const int digits = static_cast<int>(ends.front().size());
  for (int number = first; number <= last; ++number) {
    names->push_back(absl::StrCat(before, absl::StrFormat("%0*d", digits, number), after));
  }
  return true;
}

// "node-[00-03,07]" to the names that it means, numbers as wide as their range's begin; a text
// without brackets is itself. Empty for a broken pattern.
std::vector<std::string> ExpandNames(absl::string_view pattern) {
  const size_t open = pattern.find('[');
  const size_t close = pattern.find(']');
  if (open == absl::string_view::npos && close == absl::string_view::npos) {
    return {std::string(pattern)};
  }
  const bool one_pair = open != absl::string_view::npos && close != absl::string_view::npos &&
                        open < close && pattern.find('[', open + 1) == absl::string_view::npos &&
                        pattern.find(']', close + 1) == absl::string_view::npos;
  if (!one_pair) return {};
  std::vector<std::string> names;
  const absl::string_view ranges = pattern.substr(open + 1, close - open - 1);
  for (const absl::string_view range : absl::StrSplit(ranges, ',')) {
    if (!AppendRange(range, pattern.substr(0, open), pattern.substr(close + 1), &names)) return {};
  }
  return names;
}

// A cluster that grows node by node: each distinct profile once, fast domains numbered as they
// come.
class ClusterBuilder {
 public:
  struct NodeSpec {
    HardwareProfile profile;  // whole, not yet a share
    ClusterNode node;         // with its name; fast_domain 0: one of its own, -1: none
    int domain_devices = 0;   // more than the node's: consecutive nodes share a domain
    std::string domain_name;  // nodes that name one domain share it
  };

  explicit ClusterBuilder(absl::string_view name) { cluster_.name = std::string(name); }

  // InvalidArgument for a name that is taken, or too many devices.
  absl::Status Add(const NodeSpec& spec) {
    ClusterNode node = spec.node;
    if (!names_.insert(node.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("node '", node.name, "' is there already; give each node its own name"));
    }
    if (node.devices > kDevicesMax - devices_) {
      return absl::InvalidArgumentError(absl::StrCat("node '", node.name, "' makes more than ",
                                                     kDevicesMax,
                                                     " devices; give a smaller cluster"));
    }
    devices_ += node.devices;
    node.profile = ProfileIndex(ShareOfNode(spec.profile, node.devices));
    node.fast_domain = DomainOf(spec, node.profile);
    if (node.fast_domain < 0) node.fast = {};
    cluster_.nodes.push_back(std::move(node));
    return absl::OkStatus();
  }

  int node_count() const { return static_cast<int>(cluster_.nodes.size()); }

  ClusterTopology Take() {
    cluster_.IndexDevices();
    return std::move(cluster_);
  }

 private:
  // The domain that spans nodes and may have room for another.
  struct OpenDomain {
    int id = -1;
    int profile = -1;
    int size = 0;
    int used = 0;
  };

  int ProfileIndex(const HardwareProfile& profile) {
    auto& profiles = cluster_.profiles;
    const auto found = std::find(profiles.begin(), profiles.end(), profile);
    if (found != profiles.end()) return static_cast<int>(found - profiles.begin());
    profiles.push_back(profile);
    return static_cast<int>(profiles.size()) - 1;
  }

  int DomainOf(const NodeSpec& spec, int profile) {
    if (spec.node.fast_domain < 0) return -1;
    if (!spec.domain_name.empty()) {
      const auto [found, is_new] = named_domains_.emplace(spec.domain_name, domains_);
      if (is_new) ++domains_;
      return found->second;
    }
    if (spec.domain_devices <= spec.node.devices) return domains_++;
    const bool fits = open_.profile == profile && open_.size == spec.domain_devices &&
                      open_.used + spec.node.devices <= open_.size;
    if (!fits) open_ = {domains_++, profile, spec.domain_devices, 0};
    open_.used += spec.node.devices;
    return open_.id;
  }

  ClusterTopology cluster_;
  int devices_ = 0;
  int domains_ = 0;
  OpenDomain open_;
  std::map<std::string, int> named_domains_;
  std::set<std::string> names_;
};

// The profile's usual node with another number of devices: DRAM, NVMe and price in proportion (a
// part of a node, or a larger one). Devices that share their node's memory system share its NIC
// instead, and the rest stays the node's.
ClusterNode NodeOfDevices(const ProfileFile& file, int devices) {
  ClusterNode node = file.node;
  const double share = static_cast<double>(devices) / node.devices;
  if (file.profile.shared_by_node != 0) {
    node.network.bandwidth /= share;
  } else {
    node.dram_bytes *= share;
    node.nvme_bytes *= share;
    node.nvme_bandwidth *= share;
    node.cost_per_hour *= share;
  }
  node.devices = devices;
  return node;
}

absl::Status ReadProfiles(const YamlFields& top, ProfileTable* table) {
  if (!top.Has("profiles")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const YamlFields profiles, top.Map("profiles"));
  RETURN_IF_ERROR(profiles.CheckKeys(profiles.Keys()));
  for (const std::string& name : profiles.Keys()) {
    ASSIGN_OR_RETURN(const YamlFields fields, profiles.Map(name));
    ASSIGN_OR_RETURN((*table)[name], ParseProfileFile(fields, name));
  }
  return absl::OkStatus();
}

// Of one entry: a map of its own, or the name of a profile of the file or built in.
absl::StatusOr<ProfileFile> ProfileOfEntry(const YamlFields& entry, ProfileTable* table) {
  const absl::StatusOr<YamlFields> map = entry.Map("profile");
  if (map.ok()) return ParseProfileFile(*map, "");
  const absl::StatusOr<std::string> name = entry.String("profile");
  if (name.ok()) {
    const auto found = table->find(*name);
    if (found != table->end()) return found->second;
    const absl::StatusOr<ProfileFile> builtin = BuiltinProfileFile(*name);
    if (builtin.ok()) {
      table->emplace(*name, *builtin);
      return builtin;
    }
  }
  std::vector<std::string> local;
  for (const auto& [known, file] : *table) local.push_back(known);
  return entry.Refuse(
      "profile", absl::StrCat("one of ", absl::StrJoin(BuiltinProfileNames(), ", "),
                              ", the name of one under profiles:", local.empty() ? "" : " (",
                              absl::StrJoin(local, ", "), local.empty() ? "" : ")", ", or a map"));
}

// A whole number of `key`; `fallback` without the key.
absl::StatusOr<int> IntOr(const YamlFields& fields, const char* key, YamlRange range,
                          int fallback) {
  ASSIGN_OR_RETURN(const double number, fields.NumberOr(key, YamlUnit::kPlain, range, fallback));
  if (number != static_cast<int>(number)) return fields.Refuse(key, "a whole number");
  return static_cast<int>(number);
}

// What `name` means, `count` numbered nodes, or both: numbered nodes with that name before.
absl::StatusOr<std::vector<std::string>> NamesOfEntry(const YamlFields& entry, int nodes_before) {
  ASSIGN_OR_RETURN(const int count, IntOr(entry, "count", {1, kDevicesMax}, 1));
  std::string prefix = "node";
  int first = nodes_before;
  const char* key = entry.Has("names") ? "names" : "name";
  if (entry.Has("names") && entry.Has("name")) {
    return entry.Refuse("names", "either name or names, not both");
  }
  if (entry.Has(key)) {
    ASSIGN_OR_RETURN(prefix, entry.String(key));
    std::vector<std::string> names = ExpandNames(prefix);
    if (names.empty()) {
      return entry.Refuse(key, "a name, or a pattern such as node-[00-15] or node-[00-15,20]");
    }
    const bool is_pattern = names.size() > 1 || names[0] != prefix;
    if (is_pattern && entry.Has("count") && static_cast<int>(names.size()) != count) {
      return entry.Refuse("count", absl::StrCat(names.size(),
                                                ", as many as the pattern means, or no "
                                                "count"));
    }
    if (is_pattern || count == 1) return names;
    first = 0;
  }
  const int digits = static_cast<int>(absl::StrCat(first + count - 1).size());
  std::vector<std::string> names;
  for (int i = first; i < first + count; ++i) {
    names.push_back(absl::StrCat(prefix, "-", absl::StrFormat("%0*d", digits, i)));
  }
  return names;
}

absl::Status ReadDomain(const YamlFields& entry, int usual_domain_devices,
                        ClusterBuilder::NodeSpec* spec) {
  ASSIGN_OR_RETURN(spec->domain_devices,
                   IntOr(entry, "domain_devices", {0, kDevicesMax}, usual_domain_devices));
  if (!entry.Has("nvlink_domain")) return absl::OkStatus();
  ASSIGN_OR_RETURN(spec->domain_name, entry.String("nvlink_domain"));
  if (spec->domain_name == "none") {
    if (entry.Has("fast")) {
      return entry.Refuse("nvlink_domain", "the name of a domain, or remove fast");
    }
    spec->node.fast_domain = -1;
    spec->domain_name.clear();
  } else if (spec->node.fast.bandwidth == 0) {
    return entry.Refuse("nvlink_domain",
                        "none, or the links too, such as fast: {alpha: 3us, "
                        "bandwidth: 450GB/s}: the profile has none");
  } else {
    spec->node.fast_domain = 0;
  }
  return absl::OkStatus();
}

absl::Status ReadEntry(const YamlFields& entry, ProfileTable* table, ClusterBuilder* builder) {
  std::vector<std::string> keys(std::begin(kEntryKeys), std::end(kEntryKeys));
  keys.insert(keys.end(), NodeKeys().begin(), NodeKeys().end());
  RETURN_IF_ERROR(entry.CheckKeys(keys));
  ASSIGN_OR_RETURN(const ProfileFile profile, ProfileOfEntry(entry, table));
  ASSIGN_OR_RETURN(const std::vector<std::string> names,
                   NamesOfEntry(entry, builder->node_count()));
  ASSIGN_OR_RETURN(const int devices,
                   IntOr(entry, "devices", {1, kDevicesMax}, profile.node.devices));
  ClusterBuilder::NodeSpec spec;
  spec.profile = profile.profile;
  spec.node = NodeOfDevices(profile, devices);
  RETURN_IF_ERROR(ReadNodeFields(entry, &spec.node));
  RETURN_IF_ERROR(ReadDomain(entry, profile.domain_devices, &spec));
  for (const std::string& name : names) {
    spec.node.name = name;
    const absl::Status added = builder->Add(spec);
    if (!added.ok()) return entry.Refuse("profile", absl::StrCat("other nodes: ", added.message()));
  }
  return absl::OkStatus();
}

// "h200:16" as nodes; the last may be smaller.
absl::Status AddBuiltin(absl::string_view part, ClusterBuilder* builder) {
  const std::vector<absl::string_view> pair = absl::StrSplit(part, ':');
  int count = 0;
  if (pair.size() != 2 || !ReadDigits(pair[1], &count) || count < 1 || count > kDevicesMax) {
    return absl::InvalidArgumentError(absl::StrCat("'", part.substr(0, 60),
                                                   "' is no PROFILE:COUNT with a count from 1 to ",
                                                   kDevicesMax, "; write for example h200:16"));
  }
  ASSIGN_OR_RETURN(const ProfileFile profile, BuiltinProfileFile(pair[0]));
  const int usual = profile.profile.shared_by_node != 0 ? count : profile.node.devices;
  ClusterBuilder::NodeSpec spec;
  spec.profile = profile.profile;
  spec.domain_devices = profile.domain_devices;
  for (int left = count; left > 0; left -= spec.node.devices) {
    spec.node = NodeOfDevices(profile, std::min(usual, left));
    spec.node.name = absl::StrCat("node-", builder->node_count());
    RETURN_IF_ERROR(builder->Add(spec));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ClusterTopology> ParseCluster(absl::string_view text, absl::string_view file) {
  ASSIGN_OR_RETURN(const YamlFields top, YamlFields::Parse(text, file));
  RETURN_IF_ERROR(top.CheckKeys({"name", "profiles", "nodes"}));
  ASSIGN_OR_RETURN(const std::string name, top.StringOr("name", file));
  ProfileTable table;
  RETURN_IF_ERROR(ReadProfiles(top, &table));
  ASSIGN_OR_RETURN(const std::vector<YamlFields> nodes, top.List("nodes"));
  ClusterBuilder builder(name);
  for (const YamlFields& entry : nodes) {
    RETURN_IF_ERROR(ReadEntry(entry, &table, &builder));
  }
  return builder.Take();
}

absl::StatusOr<ClusterTopology> BuiltinCluster(absl::string_view spec) {
  ClusterBuilder builder(spec);
  for (const absl::string_view part : absl::StrSplit(spec, ',')) {
    RETURN_IF_ERROR(AddBuiltin(part, &builder));
  }
  return builder.Take();
}

}  // namespace conclave
