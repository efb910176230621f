// ParseCluster: the YAML of a cluster. README.md shows a whole file.
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "placement/hardware/cluster_topology.h"
#include "placement/hardware/profile_file.h"

namespace conclave {
namespace {

constexpr int kNodesMax = 65536;
constexpr int kDevicesMax = 65536;

using Profiles = std::map<std::string, ProfileFile>;

// "gpu-[00-15]" to its names; any other text is one name. Empty when the range is no range.
std::vector<std::string> ExpandNames(const std::string& pattern) {
  const size_t open = pattern.find('[');
  if (open == std::string::npos) return {pattern};
  const size_t dash = pattern.find('-', open);
  const size_t close = pattern.find(']', open);
  int first = 0;
  int last = 0;
  if (dash == std::string::npos || close == std::string::npos || dash > close ||
      !absl::SimpleAtoi(pattern.substr(open + 1, dash - open - 1), &first) ||
      !absl::SimpleAtoi(pattern.substr(dash + 1, close - dash - 1), &last) || first < 0 ||
      last < first || last - first >= kNodesMax) {
    return {};
  }
  const int width = static_cast<int>(dash - open - 1);
  std::vector<std::string> names;
  for (int i = first; i <= last; ++i) {
    names.push_back(
        absl::StrFormat("%s%0*d%s", pattern.substr(0, open), width, i, pattern.substr(close + 1)));
  }
  return names;
}

absl::StatusOr<Profiles> ReadProfiles(const YamlFields& file) {
  Profiles profiles;
  if (!file.Has("profiles")) return profiles;
  ASSIGN_OR_RETURN(const std::vector<YamlFields> list, file.List("profiles"));
  for (const YamlFields& item : list) {
    ASSIGN_OR_RETURN(ProfileFile profile, ParseProfileFile(item));
    const std::string name = profile.profile.name;
    if (!profiles.emplace(name, std::move(profile)).second) {
      return item.Refuse("name", "a name that no other profile has");
    }
  }
  return profiles;
}

absl::StatusOr<ProfileFile> FindProfile(const YamlFields& item, const Profiles& own) {
  ASSIGN_OR_RETURN(const std::string name, item.String("profile"));
  const auto found = own.find(name);
  if (found != own.end()) return found->second;
  absl::StatusOr<ProfileFile> builtin = BuiltinProfileFile(name);
  if (builtin.ok()) return builtin;
  return item.Refuse(
      "profile", absl::StrCat("one of the file's own `profiles`; ", builtin.status().message()));
}

absl::StatusOr<std::vector<std::string>> NamesOf(const YamlFields& item, size_t next) {
  if (item.Has("names")) {
    ASSIGN_OR_RETURN(const std::string pattern, item.String("names"));
    std::vector<std::string> names = ExpandNames(pattern);
    if (names.empty()) return item.Refuse("names", "a name, or a range such as node-[00-15]");
    return names;
  }
  ASSIGN_OR_RETURN(const double count, item.NumberOr("count", YamlUnit::kPlain, {1, kNodesMax}, 1));
  std::vector<std::string> names;
  for (int i = 0; i < static_cast<int>(count); ++i) {
    names.push_back(absl::StrFormat("node-%02d", next + i));
  }
  return names;
}

// The profile's place in the cluster, added when new.
int IndexOf(const HardwareProfile& profile, ClusterTopology* cluster) {
  for (size_t i = 0; i < cluster->profiles.size(); ++i) {
    if (cluster->profiles[i] == profile) return static_cast<int>(i);
  }
  cluster->profiles.push_back(profile);
  return static_cast<int>(cluster->profiles.size()) - 1;
}

// What the entries of `nodes` share while they are read.
struct Reading {
  const Profiles& profiles;
  std::map<std::string, int> domains;  // by the user's name of a domain
  std::map<std::string, int> names;
};

absl::Status PlaceInDomain(const YamlFields& item, Reading* reading, ClusterNode* node) {
  ASSIGN_OR_RETURN(const std::string domain, item.StringOr("nvlink_domain", ""));
  if (domain == "none") {
    node->fast_domain = -1;
  } else if (node->fast.bandwidth > 0) {
    const std::string key = domain.empty() ? absl::StrCat("node ", node->name) : domain;
    const int next = static_cast<int>(reading->domains.size());
    node->fast_domain = reading->domains.emplace(key, next).first->second;
  } else if (!domain.empty()) {
    return item.Refuse("nvlink_domain", "none, or `fast` with its bandwidth beside it");
  }
  return absl::OkStatus();
}

absl::Status ReadEntry(const YamlFields& item, Reading* reading, ClusterTopology* cluster) {
  std::vector<std::string> keys = NodeKeys();
  keys.insert(keys.end(), {"names", "count", "profile", "nvlink_domain"});
  RETURN_IF_ERROR(item.CheckKeys(keys));
  ASSIGN_OR_RETURN(const ProfileFile profile, FindProfile(item, reading->profiles));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesOf(item, cluster->nodes.size()));
  ClusterNode node = profile.node;
  RETURN_IF_ERROR(ReadNodeFields(item, &node));
  node.profile = IndexOf(ShareOfNode(profile.profile, node.devices), cluster);
  for (const std::string& name : names) {
    if (!reading->names.emplace(name, 1).second) {
      return item.Refuse(item.Has("names") ? "names" : "count",
                         absl::StrCat("names that are not taken; '", name, "' is"));
    }
    node.name = name;
    RETURN_IF_ERROR(PlaceInDomain(item, reading, &node));
    cluster->nodes.push_back(node);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ClusterTopology> ParseCluster(absl::string_view text, absl::string_view file) {
  ASSIGN_OR_RETURN(const YamlFields fields, YamlFields::Parse(text, file));
  RETURN_IF_ERROR(fields.CheckKeys({"name", "profiles", "nodes"}));
  ClusterTopology cluster;
  ASSIGN_OR_RETURN(cluster.name, fields.StringOr("name", file));
  ASSIGN_OR_RETURN(const Profiles profiles, ReadProfiles(fields));
  ASSIGN_OR_RETURN(const std::vector<YamlFields> entries, fields.List("nodes"));
  Reading reading{profiles, {}, {}};
  for (const YamlFields& entry : entries) {
    RETURN_IF_ERROR(ReadEntry(entry, &reading, &cluster));
    if (cluster.nodes.size() > kNodesMax || cluster.DeviceCount() > kDevicesMax) {
      return fields.Refuse("nodes", absl::StrCat("at most ", kDevicesMax, " devices"));
    }
  }
  return cluster;
}

}  // namespace conclave
