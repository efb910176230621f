#include "coordinator/api/status_codec.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace conclave {
namespace {

namespace json = boost::json;

json::string Text(absl::string_view text) { return json::string(text.data(), text.size()); }

json::object ShapeJson(const ModelShape& shape) {
  const auto list = [](const std::vector<int>& values) {
    return json::array(values.begin(), values.end());
  };
  return {{"architecture", Text(ArchitectureName(shape.architecture))},
          {"name", shape.name},
          {"layers", shape.layers},
          {"hidden", shape.hidden},
          {"heads", shape.heads},
          {"kv_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"ffn", shape.ffn},
          {"vocab", shape.vocab},
          {"context_tokens", shape.context_tokens},
          {"weight_dtype", Text(DtypeName(shape.weight_dtype))},
          {"experts", shape.moe.experts},
          {"top_k", shape.moe.top_k},
          {"expert_ffn", shape.moe.ffn},
          {"dense_layers", list(shape.dense_layers)},
          {"eos_token_ids", list(shape.eos_token_ids)},
          {"parameters", shape.TotalParameters()}};
}

// What each rank of the stage holds of one layer. One pass over the owners: units * copies.
json::array RanksJson(const LayerExperts& layer, int stage_size) {
  std::vector<std::vector<std::vector<int>>> held(
      stage_size, std::vector<std::vector<int>>(layer.slices()));  // [rank][slice] experts
  for (int expert = 0; expert < layer.experts(); ++expert) {
    for (int slice = 0; slice < layer.slices(); ++slice) {
      for (int32_t rank : layer.Owners({expert, slice})) {
        if (rank >= 0 && rank < stage_size) held[rank][slice].push_back(expert);
      }
    }
  }
  json::array ranks;
  for (const auto& slices : held) {
    std::string text;
    for (size_t slice = 0; slice < slices.size(); ++slice) {
      if (slices[slice].empty()) continue;
      absl::StrAppend(&text, text.empty() ? "" : " ", RangesText(slices[slice]));
      if (layer.slices() > 1) absl::StrAppend(&text, "/", slice);
    }
    ranks.push_back(Text(text));
  }
  return ranks;
}

json::array ExpertsJson(const ParallelPlan& plan) {
  json::array entries;
  const std::vector<LayerExperts>& layers = plan.experts.layers;
  for (size_t begin = 0, end = 0; begin < layers.size(); begin = end) {
    for (end = begin + 1; end < layers.size() && layers[end] == layers[begin]; ++end) {
    }
    if (layers[begin].experts() == 0) continue;
    std::string range = absl::StrCat(begin);
    if (end - begin > 1) absl::StrAppend(&range, "-", end - 1);
    entries.push_back(json::object{{"layers", range},
                                   {"ranks", RanksJson(layers[begin], plan.spec.StageSize())}});
  }
  return entries;
}

json::object PlanJson(const ParallelPlan& plan) {
  json::array workers;
  for (WorkerId worker : plan.workers) workers.push_back(Text(worker.ToString()));
  json::array stages;
  for (const LayerRange& stage : plan.stages) {
    stages.push_back(json::object{{"begin", stage.begin}, {"end", stage.end}});
  }
  return {{"parallel", plan.spec.ToString()},
          {"tp", plan.spec.tp},
          {"dp", plan.spec.dp},
          {"pp", plan.spec.pp},
          {"ep", plan.spec.ep},
          {"slices", plan.spec.slices},
          {"exchange", ExchangeKindName(plan.exchange)},
          {"exchange_dtype", PayloadFormatName(plan.payload)},
          {"workers", std::move(workers)},
          {"stages", std::move(stages)},
          {"experts", ExpertsJson(plan)}};
}

json::object ExchangeJson(const ExchangeStats& stats) {
  return {{"exchanges", stats.exchanges},
          {"peers_max", stats.peers_max},
          {"messages", stats.messages},
          {"bytes", stats.bytes},
          {"naive_peers_max", stats.naive_peers_max},
          {"naive_messages", stats.naive_messages},
          {"naive_bytes", stats.naive_bytes},
          {"gather_bytes", stats.gather_bytes}};
}

void AddExchange(const ExchangeStats& stats, ExchangeStats* total) {
  total->exchanges = std::max(total->exchanges, stats.exchanges);  // each rank takes part in all
  total->peers_max = std::max(total->peers_max, stats.peers_max);
  total->messages += stats.messages;
  total->bytes += stats.bytes;
  total->naive_peers_max = std::max(total->naive_peers_max, stats.naive_peers_max);
  total->naive_messages += stats.naive_messages;
  total->naive_bytes += stats.naive_bytes;
  total->gather_bytes += stats.gather_bytes;
}

json::object TimingsJson(const StepTimings& timings) {
  return {{"total_us", timings.total_us},           {"attention_us", timings.attention_us},
          {"experts_us", timings.experts_us},       {"exchange_us", timings.exchange_us},
          {"collective_us", timings.collective_us}, {"head_us", timings.head_us}};
}

json::object WorkerJson(const WorkerStatus& worker) {
  const Prepared& prepared = worker.prepared;
  return {{"id", worker.id.ToString()},
          {"name", worker.hello.name},
          {"node", worker.hello.node},
          {"device", worker.hello.device},
          {"memory_bytes", worker.hello.memory_bytes},
          {"threads", worker.hello.threads},
          {"process", worker.hello.process},
          {"version", worker.hello.version},
          {"state", WorkerStateName(worker.state)},
          {"rank", worker.rank},
          {"pp", worker.position.pp},
          {"dp", worker.position.dp},
          {"tp", worker.position.tp},
          {"weight_bytes", prepared.weight_bytes},
          {"checkpoint_bytes_read", prepared.checkpoint_bytes_read},
          {"checkpoint_bytes_share", prepared.checkpoint_bytes_share},
          {"load_us", prepared.load_us},
          {"kv_pages", prepared.kv_pages},
          {"kv_pages_used", worker.kv_pages_used},
          {"heartbeat_age_us", worker.heartbeat_age_us},
          {"exchange", ExchangeJson(worker.exchange)},
          {"last_step", TimingsJson(worker.last_step)}};
}

}  // namespace

std::string RangesText(const std::vector<int>& numbers) {
  std::string text;
  for (size_t begin = 0, end = 0; begin < numbers.size(); begin = end) {
    for (end = begin + 1; end < numbers.size() && numbers[end] == numbers[end - 1] + 1; ++end) {
    }
    absl::StrAppend(&text, text.empty() ? "" : ",", numbers[begin]);
    if (end - begin > 1) absl::StrAppend(&text, "-", numbers[end - 1]);
  }
  return text;
}

std::string ClusterStatusJson(const ClusterStatus& status) {
  json::array workers;
  ExchangeStats total;
  for (const WorkerStatus& worker : status.workers) {
    workers.push_back(WorkerJson(worker));
    AddExchange(worker.exchange, &total);
  }
  json::array events;
  for (const std::string& event : status.events) events.push_back(Text(event));
  const json::object out = {{"state", ClusterStateName(status.state)},
                            {"waiting_for", status.waiting_for},
                            {"model", status.model},
                            {"shape", ShapeJson(status.shape)},
                            {"epoch", status.plan.epoch.value},
                            {"plan", PlanJson(status.plan)},
                            {"workers", std::move(workers)},
                            {"exchange_total", ExchangeJson(total)},
                            {"requests_running", status.requests_running},
                            {"requests_waiting", status.requests_waiting},
                            {"requests_finished", status.requests_finished},
                            {"prompt_tokens", status.prompt_tokens},
                            {"generated_tokens", status.generated_tokens},
                            {"steps", status.steps},
                            {"weight_bytes_read", status.weight_bytes_read},
                            {"events", std::move(events)}};
  return json::serialize(out);
}

std::string ExpertLoadsJson(absl::string_view model, const LoadProfile& loads) {
  // By hand: a hundred thousand counts with one decimal each, not as many values with seventeen.
  std::string counts;
  for (int layer = 0; layer < loads.layers(); ++layer) {
    absl::StrAppend(&counts, layer == 0 ? "[" : "],\n[");
    for (int expert = 0; expert < loads.experts(); ++expert) {
      absl::StrAppendFormat(&counts, "%s%.1f", expert == 0 ? "" : ",", loads.at(layer, expert));
    }
  }
  if (!counts.empty()) counts += "]";
  return absl::StrCat("{\"model\":", json::serialize(json::value(Text(model))), ",\"counts\":[",
                      counts, "]}");
}

}  // namespace conclave
