#include "tools/cli/plan_inputs_json.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

namespace json = boost::json;

constexpr IntRange kCount = {0, 1 << 24};
constexpr IntRange kNodes = {1, 1 << 20};

template <typename T>
struct NumberField {
  const char* key;
  double T::*member;
  bool positive;  // 0 would divide
};
template <typename T>
struct IntField {
  const char* key;
  int T::*member;
};
struct FormatField {
  const char* key;
  NumberFormat ModelDims::*member;
};

constexpr NumberField<HardwareProfile> kProfileNumbers[] = {
    {"memory_bytes", &HardwareProfile::memory_bytes, true},
    {"memory_bandwidth", &HardwareProfile::memory_bandwidth, true},
    {"stream_efficiency", &HardwareProfile::stream_efficiency, true},
    {"gemm_efficiency", &HardwareProfile::gemm_efficiency, true},
    {"attention_efficiency", &HardwareProfile::attention_efficiency, true},
    {"kernel_seconds", &HardwareProfile::kernel_seconds, false},
    {"peer_seconds", &HardwareProfile::peer_seconds, false},
    {"step_seconds", &HardwareProfile::step_seconds, false},
    {"overlap", &HardwareProfile::overlap, false},
    {"product_depth", &HardwareProfile::product_depth, false},
    {"attention_flops", &HardwareProfile::attention_flops, false},
    {"crowded_seconds", &HardwareProfile::crowded_seconds, false},
    {"host_bandwidth", &HardwareProfile::host_bandwidth, false}};

constexpr NumberField<ClusterNode> kNodeNumbers[] = {
    {"dram_bytes", &ClusterNode::dram_bytes, false},
    {"nvme_bytes", &ClusterNode::nvme_bytes, false},
    {"nvme_bandwidth", &ClusterNode::nvme_bandwidth, false},
    {"cost_per_hour", &ClusterNode::cost_per_hour, false}};

struct LinkField {
  const char* key;
  LinkCost ClusterNode::*member;
};
constexpr LinkField kLinks[] = {
    {"fast", &ClusterNode::fast}, {"host", &ClusterNode::host}, {"network", &ClusterNode::network}};

constexpr NumberField<LinkCost> kLinkNumbers[] = {{"alpha", &LinkCost::alpha, false},
                                                  {"bandwidth", &LinkCost::bandwidth, false}};

constexpr IntField<ModelDims> kModelInts[] = {{"layers", &ModelDims::layers},
                                              {"hidden", &ModelDims::hidden},
                                              {"vocab", &ModelDims::vocab},
                                              {"context_tokens", &ModelDims::context_tokens},
                                              {"heads", &ModelDims::heads},
                                              {"kv_heads", &ModelDims::kv_heads},
                                              {"head_dim", &ModelDims::head_dim},
                                              {"q_rank", &ModelDims::q_rank},
                                              {"kv_rank", &ModelDims::kv_rank},
                                              {"rope_dim", &ModelDims::rope_dim},
                                              {"value_dim", &ModelDims::value_dim},
                                              {"ffn", &ModelDims::ffn},
                                              {"ffn_matrices", &ModelDims::ffn_matrices},
                                              {"experts", &ModelDims::experts},
                                              {"top_k", &ModelDims::top_k},
                                              {"expert_ffn", &ModelDims::expert_ffn},
                                              {"shared_ffn", &ModelDims::shared_ffn}};

constexpr FormatField kModelFormats[] = {{"format", &ModelDims::format},
                                         {"expert_format", &ModelDims::expert_format},
                                         {"activation", &ModelDims::activation},
                                         {"kv_format", &ModelDims::kv_format}};

json::string Text(absl::string_view text) { return json::string(text.data(), text.size()); }

template <typename T, size_t N>
void PutNumbers(const T& value, const NumberField<T> (&fields)[N], json::object* out) {
  for (const NumberField<T>& field : fields) (*out)[field.key] = value.*field.member;
}

absl::StatusOr<double> ReadNumber(const JsonFields& fields, const char* key, bool positive) {
  ASSIGN_OR_RETURN(const double number, fields.Number(key));
  if (positive ? number > 0 : number >= 0) return number;
  return fields.Refuse(key, positive ? "give a number above 0" : "give a number of at least 0");
}

template <typename T, size_t N>
absl::Status GetNumbers(const JsonFields& fields, const NumberField<T> (&list)[N], T* out) {
  for (const NumberField<T>& field : list) {
    ASSIGN_OR_RETURN(out->*field.member, ReadNumber(fields, field.key, field.positive));
  }
  return absl::OkStatus();
}

absl::StatusOr<NumberFormat> ReadFormat(const JsonFields& fields, const char* key) {
  ASSIGN_OR_RETURN(const std::string name, fields.String(key));
  const absl::StatusOr<NumberFormat> format = ParseNumberFormat(name);
  if (!format.ok()) return fields.Refuse(key, format.status().message());
  return *format;
}

absl::StatusOr<const json::object*> Object(const JsonFields& fields, const char* key) {
  ASSIGN_OR_RETURN(const json::object* object, fields.ObjectOrNull(key));
  if (object == nullptr) return fields.Refuse(key, "give an object");
  return object;
}

// Calls `read` with the fields of each entry of the list `key`.
template <typename Read>
absl::Status ForEach(const JsonFields& fields, const char* key, Read read) {
  ASSIGN_OR_RETURN(const json::array* items, fields.ArrayOrNull(key));
  if (items == nullptr || items->empty()) return fields.Refuse(key, "give a list of objects");
  int index = 0;
  for (const json::value& item : *items) {
    if (!item.is_object()) return fields.Refuse(key, "every entry: give an object");
    const std::string context = absl::StrCat(fields.context(), ": ", key, " ", index++);
    RETURN_IF_ERROR(read(JsonFields(item.get_object(), context)));
  }
  return absl::OkStatus();
}

json::object ProfileToJson(const HardwareProfile& profile) {
  json::object out;
  out["name"] = Text(profile.name);
  out["source"] = Text(profile.source);
  PutNumbers(profile, kProfileNumbers, &out);
  out["shared_by_node"] = profile.shared_by_node;
  out["cores"] = profile.cores;
  json::object flops;
  for (const auto& [format, rate] : profile.flops) {
    const absl::string_view name = NumberFormatName(format);
    flops[json::string_view(name.data(), name.size())] = rate;
  }
  out["flops"] = std::move(flops);
  return out;
}

absl::StatusOr<HardwareProfile> ProfileFromJson(const JsonFields& fields) {
  HardwareProfile profile;
  ASSIGN_OR_RETURN(profile.name, fields.String("name"));
  ASSIGN_OR_RETURN(profile.source, fields.StringOr("source", ""));
  RETURN_IF_ERROR(GetNumbers(fields, kProfileNumbers, &profile));
  ASSIGN_OR_RETURN(const int64_t shared, fields.Int("shared_by_node", kCount));
  profile.shared_by_node = static_cast<int>(shared);
  ASSIGN_OR_RETURN(const int64_t cores, fields.Int("cores", kCount));
  profile.cores = static_cast<int>(cores);
  ASSIGN_OR_RETURN(const json::object* flops, Object(fields, "flops"));
  const JsonFields rates(*flops, absl::StrCat(fields.context(), ": flops"));
  for (const auto& member : *flops) {
    const std::string name(member.key().data(), member.key().size());
    const absl::StatusOr<NumberFormat> format = ParseNumberFormat(name);
    if (!format.ok()) return rates.Refuse(name, format.status().message());
    ASSIGN_OR_RETURN(profile.flops[*format], ReadNumber(rates, name.c_str(), true));
  }
  if (profile.flops.empty()) return fields.Refuse("flops", "give the FLOP/s of a format");
  return profile;
}

json::object NodeToJson(const ClusterNode& node) {
  json::object out;
  out["name"] = Text(node.name);
  out["profile"] = node.profile;
  out["devices"] = node.devices;
  out["fast_domain"] = node.fast_domain;
  for (const LinkField& link : kLinks) {
    json::object cost;
    PutNumbers(node.*link.member, kLinkNumbers, &cost);
    out[link.key] = std::move(cost);
  }
  PutNumbers(node, kNodeNumbers, &out);
  return out;
}

absl::StatusOr<ClusterNode> NodeFromJson(const JsonFields& fields, int profiles) {
  ClusterNode node;
  ASSIGN_OR_RETURN(node.name, fields.String("name"));
  ASSIGN_OR_RETURN(const int64_t profile, fields.Int("profile", {0, profiles - 1}));
  ASSIGN_OR_RETURN(const int64_t devices, fields.Int("devices", {1, 1 << 16}));
  ASSIGN_OR_RETURN(const int64_t domain, fields.Int("fast_domain", {-1, 1 << 20}));
  node.profile = static_cast<int>(profile);
  node.devices = static_cast<int>(devices);
  node.fast_domain = static_cast<int>(domain);
  for (const LinkField& link : kLinks) {
    ASSIGN_OR_RETURN(const json::object* object, Object(fields, link.key));
    const JsonFields cost(*object, absl::StrCat(fields.context(), ": ", link.key));
    RETURN_IF_ERROR(GetNumbers(cost, kLinkNumbers, &(node.*link.member)));
  }
  RETURN_IF_ERROR(GetNumbers(fields, kNodeNumbers, &node));
  return node;
}

json::object ClusterToJson(const ClusterTopology& cluster) {
  json::object out;
  out["name"] = Text(cluster.name);
  json::array profiles;
  for (const HardwareProfile& profile : cluster.profiles) {
    profiles.push_back(ProfileToJson(profile));
  }
  out["profiles"] = std::move(profiles);
  json::array nodes;
  for (const ClusterNode& node : cluster.nodes) nodes.push_back(NodeToJson(node));
  out["nodes"] = std::move(nodes);
  return out;
}

absl::StatusOr<ClusterTopology> ClusterFromJson(const JsonFields& fields) {
  ClusterTopology cluster;
  ASSIGN_OR_RETURN(cluster.name, fields.String("name"));
  RETURN_IF_ERROR(ForEach(fields, "profiles", [&](const JsonFields& entry) -> absl::Status {
    ASSIGN_OR_RETURN(HardwareProfile profile, ProfileFromJson(entry));
    cluster.profiles.push_back(std::move(profile));
    return absl::OkStatus();
  }));
  int64_t devices = 0;
  const int profiles = static_cast<int>(cluster.profiles.size());
  RETURN_IF_ERROR(ForEach(fields, "nodes", [&](const JsonFields& entry) -> absl::Status {
    ASSIGN_OR_RETURN(ClusterNode node, NodeFromJson(entry, profiles));
    devices += node.devices;
    if (devices > kNodes.max) {
      return entry.Refuse("devices", absl::StrCat("at most ", kNodes.max, " devices in all"));
    }
    cluster.nodes.push_back(std::move(node));
    return absl::OkStatus();
  }));
  return cluster;
}

json::object ModelToJson(const ModelDims& model) {
  json::object out;
  out["name"] = Text(model.name);
  for (const auto& field : kModelInts) out[field.key] = model.*field.member;
  out["tied_embeddings"] = model.tied_embeddings;
  for (const FormatField& field : kModelFormats) {
    out[field.key] = Text(NumberFormatName(model.*field.member));
  }
  json::array layers;
  for (int layer = 0; layer < model.layers; ++layer) {
    if (model.moe_layers[layer]) layers.push_back(layer);
  }
  out["moe_layers"] = std::move(layers);
  return out;
}

absl::StatusOr<ModelDims> ModelFromJson(const JsonFields& fields) {
  ModelDims model;
  ASSIGN_OR_RETURN(model.name, fields.String("name"));
  for (const auto& field : kModelInts) {
    ASSIGN_OR_RETURN(const int64_t number, fields.Int(field.key, kCount));
    model.*field.member = static_cast<int>(number);
  }
  for (const char* key :
       {"layers", "hidden", "vocab", "heads", "kv_heads", "head_dim", "ffn_matrices"}) {
    RETURN_IF_ERROR(fields.Int(key, {1, key[0] == 'l' ? 100000 : kCount.max}).status());
  }
  ASSIGN_OR_RETURN(model.tied_embeddings, fields.BoolOr("tied_embeddings", false));
  for (const FormatField& field : kModelFormats) {
    ASSIGN_OR_RETURN(model.*field.member, ReadFormat(fields, field.key));
  }
  model.moe_layers.assign(model.layers, false);
  ASSIGN_OR_RETURN(const std::vector<int64_t> layers,
                   fields.IntList("moe_layers", {0, model.layers - 1}));
  for (const int64_t layer : layers) model.moe_layers[layer] = true;
  if (model.IsMoe() == layers.empty()) {
    return fields.Refuse("moe_layers", "list the layers with experts, none in a dense model");
  }
  if (model.IsMoe()) {
    RETURN_IF_ERROR(fields.Int("top_k", {1, model.experts}).status());
    RETURN_IF_ERROR(fields.Int("expert_ffn", {1, kCount.max}).status());
  }
  return model;
}

json::array LoadToJson(const LoadProfile& load) {
  json::array rows;
  for (int layer = 0; layer < load.layers(); ++layer) {
    json::array row;
    for (int expert = 0; expert < load.experts(); ++expert) row.push_back(load.at(layer, expert));
    rows.push_back(std::move(row));
  }
  return rows;
}

absl::StatusOr<LoadProfile> LoadFromJson(const JsonFields& fields, const ModelDims& model) {
  const json::value* rows = fields.Find("expert_load");
  if (rows == nullptr || (rows->is_array() && rows->get_array().empty())) return LoadProfile();
  return ParseLoadTrace(json::serialize(*rows), absl::StrCat(fields.context(), ": expert_load"),
                        model);
}

absl::Status ReadSearch(const JsonFields& fields, SearchInput* search) {
  ASSIGN_OR_RETURN(const std::string objective, fields.String("objective"));
  const absl::StatusOr<Objective> parsed = ParseObjective(objective);
  if (!parsed.ok()) return fields.Refuse("objective", parsed.status().message());
  search->objective = *parsed;
  ASSIGN_OR_RETURN(search->mix.concurrency, ReadNumber(fields, "concurrency", false));
  ASSIGN_OR_RETURN(search->mix.prompt_tokens, ReadNumber(fields, "prompt_tokens", true));
  ASSIGN_OR_RETURN(search->mix.output_tokens, ReadNumber(fields, "output_tokens", true));
  ASSIGN_OR_RETURN(search->ttft_seconds, ReadNumber(fields, "ttft_seconds", false));
  ASSIGN_OR_RETURN(search->tpot_seconds, ReadNumber(fields, "tpot_seconds", false));
  ASSIGN_OR_RETURN(const json::object* spec, fields.ObjectOrNull("parallel"));
  if (spec != nullptr) {
    ASSIGN_OR_RETURN(search->spec,
                     SpecFromJson(JsonFields(*spec, absl::StrCat(fields.context(), ": parallel"))));
  }
  ASSIGN_OR_RETURN(const std::string exchange, fields.StringOr("exchange", "auto"));
  ASSIGN_OR_RETURN(search->schedule, ParseSchedule("exchange", exchange));
  ASSIGN_OR_RETURN(search->uneven, fields.BoolOr("uneven", true));
  ASSIGN_OR_RETURN(const int64_t runners, fields.Int("runners_up", {0, 1000}));
  search->runners_up = static_cast<int>(runners);
  return absl::OkStatus();
}

}  // namespace

json::array NumbersToJson(const std::vector<double>& numbers) {
  return json::array(numbers.begin(), numbers.end());
}

absl::StatusOr<std::vector<double>> NumbersFromJson(const JsonFields& fields, const char* key) {
  ASSIGN_OR_RETURN(const json::array* items, fields.ArrayOrNull(key));
  if (items == nullptr) return fields.Refuse(key, "give a list of numbers");
  std::vector<double> numbers;
  for (const json::value& item : *items) {
    json::object cell;
    cell[key] = item;
    const JsonFields one(cell, fields.context());
    ASSIGN_OR_RETURN(const double number, ReadNumber(one, key, false));
    numbers.push_back(number);
  }
  return numbers;
}

json::object SpecToJson(const ParallelSpec& spec) {
  return {
      {"tp", spec.tp}, {"dp", spec.dp}, {"pp", spec.pp}, {"ep", spec.ep}, {"slices", spec.slices}};
}

absl::StatusOr<ParallelSpec> SpecFromJson(const JsonFields& fields) {
  ParallelSpec spec;
  const struct {
    const char* key;
    int* value;
  } kKeys[] = {{"tp", &spec.tp}, {"dp", &spec.dp}, {"pp", &spec.pp}, {"slices", &spec.slices}};
  int64_t workers = 1;
  for (const auto& key : kKeys) {
    ASSIGN_OR_RETURN(const int64_t number, fields.Int(key.key, kNodes));
    *key.value = static_cast<int>(number);
    if (key.value != &spec.slices) workers *= number;
    if (workers > kNodes.max) return fields.Refuse(key.key, "the grid has too many workers");
  }
  ASSIGN_OR_RETURN(const int64_t ep, fields.Int("ep", {0, kNodes.max}));
  spec.ep = static_cast<int>(ep);
  const bool whole = spec.StageSize() % spec.slices == 0;
  if (ep != 0 && (!whole || ep != spec.StageSize() / spec.slices)) {
    return fields.Refuse("ep", "give tp * dp / slices, or 0 for a dense model");
  }
  return spec;
}

json::object InputsToJson(const PlanInputs& inputs) {
  const SearchInput& search = inputs.search;
  json::object out;
  out["model"] = ModelToJson(search.model);
  out["cluster"] = ClusterToJson(search.cluster);
  out["objective"] = Text(ObjectiveName(search.objective));
  out["concurrency"] = search.mix.concurrency;
  out["prompt_tokens"] = search.mix.prompt_tokens;
  out["output_tokens"] = search.mix.output_tokens;
  out["ttft_seconds"] = search.ttft_seconds;
  out["tpot_seconds"] = search.tpot_seconds;
  out["parallel"] = search.spec ? json::value(SpecToJson(*search.spec)) : json::value(nullptr);
  out["exchange"] = search.schedule ? Text(ScheduleName(*search.schedule)) : json::string("auto");
  out["uneven"] = search.uneven;
  out["runners_up"] = search.runners_up;
  out["expert_load"] = LoadToJson(inputs.load);
  return out;
}

absl::StatusOr<PlanInputs> InputsFromJson(const JsonFields& fields) {
  PlanInputs inputs;
  ASSIGN_OR_RETURN(const json::object* model, Object(fields, "model"));
  ASSIGN_OR_RETURN(inputs.search.model,
                   ModelFromJson(JsonFields(*model, absl::StrCat(fields.context(), ": model"))));
  ASSIGN_OR_RETURN(const json::object* cluster, Object(fields, "cluster"));
  ASSIGN_OR_RETURN(
      inputs.search.cluster,
      ClusterFromJson(JsonFields(*cluster, absl::StrCat(fields.context(), ": cluster"))));
  RETURN_IF_ERROR(ReadSearch(fields, &inputs.search));
  ASSIGN_OR_RETURN(inputs.load, LoadFromJson(fields, inputs.search.model));
  return inputs;
}

}  // namespace conclave
