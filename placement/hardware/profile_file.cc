#include "placement/hardware/profile_file.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "placement/hardware/builtin_profiles.h"

namespace conclave {
namespace {

constexpr YamlRange kBytes = {1, 1e18};
constexpr YamlRange kRate = {1, 1e18};
constexpr YamlRange kShare = {0.01, 1};
constexpr YamlRange kDelay = {0, 10};
constexpr YamlRange kFlops = {1, 1e21};
constexpr int kDevicesMax = 1024;

absl::StatusOr<LinkCost> ReadLink(const YamlFields& fields, const std::string& key,
                                  const LinkCost& fallback) {
  ASSIGN_OR_RETURN(const YamlFields link, fields.Map(key));
  RETURN_IF_ERROR(link.CheckKeys({"alpha", "bandwidth"}));
  LinkCost cost;
  ASSIGN_OR_RETURN(cost.alpha, link.NumberOr("alpha", YamlUnit::kSeconds, kDelay, fallback.alpha));
  if (fallback.bandwidth > 0) {
    ASSIGN_OR_RETURN(cost.bandwidth, link.NumberOr("bandwidth", YamlUnit::kBytesPerSecond, kRate,
                                                   fallback.bandwidth));
  } else {
    ASSIGN_OR_RETURN(cost.bandwidth, link.Number("bandwidth", YamlUnit::kBytesPerSecond, kRate));
  }
  return cost;
}

absl::Status ReadFlops(const YamlFields& fields, HardwareProfile* profile) {
  ASSIGN_OR_RETURN(const YamlFields flops, fields.Map("flops"));
  for (const std::string& key : flops.Keys()) {
    const absl::StatusOr<NumberFormat> format = ParseNumberFormat(key);
    if (!format.ok()) return flops.Refuse(key, format.status().message());
    ASSIGN_OR_RETURN(profile->flops[*format], flops.Number(key, YamlUnit::kFlops, kFlops));
  }
  if (profile->flops.empty()) return fields.Refuse("flops", "one rate at least, such as bf16");
  return absl::OkStatus();
}

absl::Status ReadEfficiencies(const YamlFields& fields, HardwareProfile* profile) {
  ASSIGN_OR_RETURN(profile->stream_efficiency,
                   fields.NumberOr("stream_efficiency", YamlUnit::kPlain, kShare, 1));
  ASSIGN_OR_RETURN(profile->gemm_efficiency,
                   fields.NumberOr("gemm_efficiency", YamlUnit::kPlain, kShare, 1));
  ASSIGN_OR_RETURN(profile->attention_efficiency,
                   fields.NumberOr("attention_efficiency", YamlUnit::kPlain, kShare, 1));
  ASSIGN_OR_RETURN(profile->kernel_seconds,
                   fields.NumberOr("kernel_seconds", YamlUnit::kSeconds, kDelay, 0));
  ASSIGN_OR_RETURN(profile->peer_seconds,
                   fields.NumberOr("peer_seconds", YamlUnit::kSeconds, kDelay, 0));
  ASSIGN_OR_RETURN(profile->step_seconds,
                   fields.NumberOr("step_seconds", YamlUnit::kSeconds, kDelay, 0));
  ASSIGN_OR_RETURN(const double shared,
                   fields.NumberOr("shared_by_node", YamlUnit::kPlain, {0, 1}, 0));
  profile->shared_by_node = shared > 0 ? 1 : 0;
  return absl::OkStatus();
}

absl::Status ReadFixedWork(const YamlFields& fields, HardwareProfile* profile) {
  ASSIGN_OR_RETURN(profile->overlap, fields.NumberOr("overlap", YamlUnit::kPlain, {0, 1}, 1));
  ASSIGN_OR_RETURN(profile->product_depth,
                   fields.NumberOr("product_depth", YamlUnit::kPlain, {0, 1e6}, 0));
  ASSIGN_OR_RETURN(profile->attention_flops,
                   fields.NumberOr("attention_flops", YamlUnit::kFlops, {0, 1e21}, 0));
  ASSIGN_OR_RETURN(const double cores, fields.NumberOr("cores", YamlUnit::kPlain, {0, 65536}, 0));
  profile->cores = static_cast<int>(cores);
  if (cores != profile->cores) return fields.Refuse("cores", "a whole number");
  ASSIGN_OR_RETURN(profile->crowded_seconds,
                   fields.NumberOr("crowded_seconds", YamlUnit::kSeconds, kDelay, 0));
  return absl::OkStatus();
}

}  // namespace

const std::vector<std::string>& NodeKeys() {
  static const auto* const kKeys = new std::vector<std::string>{
      "devices",       "fast", "host", "network",        "nics",
      "nic_bandwidth", "dram", "nvme", "nvme_bandwidth", "cost_per_hour"};
  return *kKeys;
}

absl::Status ReadNodeFields(const YamlFields& fields, ClusterNode* node) {
  ASSIGN_OR_RETURN(const double devices,
                   fields.NumberOr("devices", YamlUnit::kPlain, {1, kDevicesMax}, node->devices));
  node->devices = static_cast<int>(devices);
  if (devices != node->devices) return fields.Refuse("devices", "a whole number");
  if (fields.Has("fast")) {
    ASSIGN_OR_RETURN(node->fast, ReadLink(fields, "fast", node->fast));
    if (node->fast_domain < 0) node->fast_domain = 0;
  }
  if (fields.Has("host")) {
    ASSIGN_OR_RETURN(node->host, ReadLink(fields, "host", node->host));
  }
  if (fields.Has("network")) {
    ASSIGN_OR_RETURN(node->network, ReadLink(fields, "network", node->network));
  }
  if (fields.Has("nics") || fields.Has("nic_bandwidth")) {
    ASSIGN_OR_RETURN(const double nics, fields.Number("nics", YamlUnit::kPlain, {1, kDevicesMax}));
    ASSIGN_OR_RETURN(const double each,
                     fields.Number("nic_bandwidth", YamlUnit::kBytesPerSecond, kRate));
    node->network.bandwidth = nics * each / node->devices;
  }
  ASSIGN_OR_RETURN(node->dram_bytes,
                   fields.NumberOr("dram", YamlUnit::kBytes, {0, 1e18}, node->dram_bytes));
  ASSIGN_OR_RETURN(node->nvme_bytes,
                   fields.NumberOr("nvme", YamlUnit::kBytes, {0, 1e18}, node->nvme_bytes));
  ASSIGN_OR_RETURN(node->nvme_bandwidth,
                   fields.NumberOr("nvme_bandwidth", YamlUnit::kBytesPerSecond, {0, 1e15},
                                   node->nvme_bandwidth));
  ASSIGN_OR_RETURN(node->cost_per_hour, fields.NumberOr("cost_per_hour", YamlUnit::kPlain, {0, 1e9},
                                                        node->cost_per_hour));
  return absl::OkStatus();
}

absl::StatusOr<ProfileFile> ParseProfileFile(const YamlFields& fields, absl::string_view name) {
  RETURN_IF_ERROR(fields.CheckKeys({"name",
                                    "source",
                                    "memory",
                                    "memory_bandwidth",
                                    "flops",
                                    "stream_efficiency",
                                    "gemm_efficiency",
                                    "attention_efficiency",
                                    "kernel_seconds",
                                    "peer_seconds",
                                    "step_seconds",
                                    "overlap",
                                    "product_depth",
                                    "attention_flops",
                                    "cores",
                                    "crowded_seconds",
                                    "shared_by_node",
                                    "host_bandwidth",
                                    "node",
                                    "domain_devices"}));
  ProfileFile file;
  HardwareProfile& profile = file.profile;
  if (name.empty() || fields.Has("name")) {
    ASSIGN_OR_RETURN(profile.name, fields.String("name"));
    if (!name.empty() && profile.name != name) {
      return fields.Refuse("name", absl::StrCat("'", name, "', under which it stands, or no name"));
    }
  }
  if (profile.name.empty()) profile.name = std::string(name);
  ASSIGN_OR_RETURN(profile.source, fields.StringOr("source", ""));
  ASSIGN_OR_RETURN(profile.memory_bytes, fields.Number("memory", YamlUnit::kBytes, kBytes));
  ASSIGN_OR_RETURN(profile.memory_bandwidth,
                   fields.Number("memory_bandwidth", YamlUnit::kBytesPerSecond, kRate));
  ASSIGN_OR_RETURN(profile.host_bandwidth,
                   fields.NumberOr("host_bandwidth", YamlUnit::kBytesPerSecond, kRate, 0));
  RETURN_IF_ERROR(ReadFlops(fields, &profile));
  RETURN_IF_ERROR(ReadEfficiencies(fields, &profile));
  RETURN_IF_ERROR(ReadFixedWork(fields, &profile));
  file.node.devices = 1;
  file.node.host = {10e-6, 10e9};
  file.node.network = {20e-6, 1.25e9};
  if (fields.Has("node")) {
    ASSIGN_OR_RETURN(const YamlFields node, fields.Map("node"));
    RETURN_IF_ERROR(node.CheckKeys(NodeKeys()));
    RETURN_IF_ERROR(ReadNodeFields(node, &file.node));
  }
  ASSIGN_OR_RETURN(const double domain,
                   fields.NumberOr("domain_devices", YamlUnit::kPlain, {0, 65536}, 0));
  file.domain_devices = static_cast<int>(domain);
  return file;
}

absl::StatusOr<ProfileFile> BuiltinProfileFile(absl::string_view name) {
  for (const BuiltinProfileText& builtin : BuiltinProfileTexts()) {
    if (builtin.name != name) continue;
    ASSIGN_OR_RETURN(const YamlFields fields,
                     YamlFields::Parse(builtin.text, absl::StrCat(name, ".yaml")));
    return ParseProfileFile(fields, "");
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "hardware profile '", name, "' is unknown; the profiles are ",
      absl::StrJoin(BuiltinProfileNames(), ", "), "; or describe the devices in a cluster file"));
}

HardwareProfile ShareOfNode(HardwareProfile profile, int devices) {
  if (profile.shared_by_node == 0 || devices <= 1) return profile;
  profile.memory_bytes /= devices;
  profile.memory_bandwidth /= devices;
  for (auto& [format, rate] : profile.flops) rate /= devices;
  profile.attention_flops /= devices;
  return profile;
}

}  // namespace conclave
