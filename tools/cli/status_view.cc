#include "tools/cli/status_view.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace conclave {
namespace {

namespace json = boost::json;

constexpr size_t kEventsShown = 12;

int64_t Number(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  json::error_code error;
  const int64_t number = value == nullptr ? 0 : value->to_number<int64_t>(error);
  return error ? 0 : number;
}

std::string Text(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->as_string().c_str()) : "";
}

const json::object& Object(const json::object& object, const char* key) {
  static const json::object* const kEmpty = new json::object();
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_object() ? value->as_object() : *kEmpty;
}

const json::array& Array(const json::object& object, const char* key) {
  static const json::array* const kEmpty = new json::array();
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_array() ? value->as_array() : *kEmpty;
}

std::string Bytes(int64_t bytes) {
  if (bytes >= 1e9) return absl::StrFormat("%.2f GB", bytes / 1e9);
  if (bytes >= 1e6) return absl::StrFormat("%.2f MB", bytes / 1e6);
  return absl::StrFormat("%.1f kB", bytes / 1e3);
}

// "experts 0-3" of a stage rank, for each range of layers with its own map.
std::string ExpertsOf(const json::object& plan, int64_t begin, int64_t end, int64_t stage_rank) {
  std::string text;
  for (const json::value& value : Array(plan, "experts")) {
    const json::object& entry = value.as_object();
    const std::string layers = Text(entry, "layers");
    const int64_t first = std::atoll(layers.c_str());
    const size_t dash = layers.find('-');
    const int64_t last = dash == std::string::npos ? first : std::atoll(layers.c_str() + dash + 1);
    const json::array& ranks = Array(entry, "ranks");
    if (last < begin || first >= end || stage_rank >= static_cast<int64_t>(ranks.size())) continue;
    absl::StrAppend(&text, text.empty() ? "" : "; ", ranks[stage_rank].as_string().c_str());
  }
  return text;
}

// "1/2": the second half of something cut over tp.
std::string TpSlice(const json::object& plan, int64_t tp) {
  const int64_t size = std::max<int64_t>(1, Number(plan, "tp"));
  return size == 1 ? "all heads" : absl::StrFormat("heads %d of %d", tp + 1, size);
}

std::string PlanLine(const json::object& plan, const json::object& worker) {
  const int64_t rank = Number(worker, "rank");
  const int64_t pp = Number(worker, "pp");
  const int64_t dp = Number(worker, "dp");
  const int64_t tp = Number(worker, "tp");
  std::string holds = "not used by this plan";
  const json::array& stages = Array(plan, "stages");
  if (rank >= 0 && pp < static_cast<int64_t>(stages.size())) {
    const int64_t begin = Number(stages[pp].as_object(), "begin");
    const int64_t end = Number(stages[pp].as_object(), "end");
    holds = absl::StrFormat("layers %d-%d, %s", begin, end - 1, TpSlice(plan, tp));
    const std::string experts =
        ExpertsOf(plan, begin, end, dp * std::max<int64_t>(1, Number(plan, "tp")) + tp);
    if (!experts.empty()) absl::StrAppend(&holds, ", experts ", experts);
  }
  const int64_t read = Number(worker, "checkpoint_bytes_read");
  const int64_t share = Number(worker, "checkpoint_bytes_share");
  const std::string reading =
      share == 0 ? "-" : absl::StrFormat("%s of %s", Bytes(read), Bytes(share));
  const std::string position = rank < 0 ? "-" : absl::StrFormat("%d.%d.%d", pp, dp, tp);
  return absl::StrFormat("%4s  %-12s %-9s %-8s %-22s %4d/%-6d %s\n",
                         rank < 0 ? "-" : absl::StrCat(rank), Text(worker, "name"),
                         Text(worker, "state"), position, reading, Number(worker, "kv_pages_used"),
                         Number(worker, "kv_pages"), holds);
}

}  // namespace

std::string RenderHeadline(const json::object& status) {
  const json::object& shape = Object(status, "shape");
  const json::object& plan = Object(status, "plan");
  std::string line = absl::StrFormat("%s: %s, %.1f M parameters; %s", Text(status, "model"),
                                     Text(shape, "architecture"), Number(shape, "parameters") / 1e6,
                                     Text(status, "state"));
  if (Number(status, "epoch") > 0) {
    absl::StrAppendFormat(&line, "; epoch %d, %s, %s exchange", Number(status, "epoch"),
                          Text(plan, "parallel"), Text(plan, "exchange"));
  }
  const std::string waiting = Text(status, "waiting_for");
  if (!waiting.empty()) absl::StrAppend(&line, "\n", waiting);
  return line + "\n";
}

std::string RenderPlan(const json::object& status) {
  const json::object& plan = Object(status, "plan");
  std::string text = absl::StrFormat("%4s  %-12s %-9s %-8s %-22s %-11s %s\n", "RANK", "WORKER",
                                     "STATE", "PP.DP.TP", "CHECKPOINT READ", "KV PAGES", "HOLDS");
  for (const json::value& worker : Array(status, "workers")) {
    text += PlanLine(plan, worker.as_object());
  }
  return text;
}

std::string RenderTraffic(const json::object& status) {
  const json::object& total = Object(status, "exchange_total");
  const int64_t exchanges = Number(total, "exchanges");
  const int64_t steps = std::max<int64_t>(1, Number(status, "steps"));
  const int64_t ranks = std::max<int64_t>(1, Array(Object(status, "plan"), "workers").size());
  if (exchanges == 0) return "No MoE exchange has crossed a wire.\n";
  const double per_rank = 1.0 / (static_cast<double>(exchanges) * ranks);
  const auto line = [&](const char* name, const char* peers, const char* messages,
                        const char* bytes) {
    return absl::StrFormat("  %-10s %6d %16.2f %16s %16.1f %16s\n", name, Number(total, peers),
                           Number(total, messages) * per_rank,
                           Bytes(static_cast<int64_t>(Number(total, bytes) * per_rank)),
                           static_cast<double>(Number(total, messages)) / steps,
                           Bytes(Number(total, bytes) / steps));
  };
  const std::string kind = Text(Object(status, "plan"), "exchange");
  std::string text = absl::StrFormat(
      "MoE all-to-all, counted on the wire over %d steps of %d ranks:\n", steps, ranks);
  absl::StrAppendFormat(&text, "  %-10s %6s %16s %16s %16s %16s\n", "schedule", "peers",
                        "messages/exch.", "bytes/exch.", "messages/step", "bytes/step");
  text += line(kind.c_str(), "peers_max", "messages", "bytes");
  text += line("naive", "naive_peers_max", "naive_messages", "naive_bytes");
  const double naive_bytes = std::max<double>(1, Number(total, "naive_bytes"));
  absl::StrAppendFormat(
      &text, "  %s sends %.2fx the bytes of naive; gather inside tp groups: %s/step\n", kind,
      Number(total, "bytes") / naive_bytes, Bytes(Number(total, "gather_bytes") / steps));
  return text;
}

std::string RenderStatus(const json::object& status) {
  std::string text = RenderHeadline(status);
  absl::StrAppendFormat(
      &text, "requests: %d running, %d waiting, %d finished; tokens: %d prompt, %d generated\n\n",
      Number(status, "requests_running"), Number(status, "requests_waiting"),
      Number(status, "requests_finished"), Number(status, "prompt_tokens"),
      Number(status, "generated_tokens"));
  text += RenderPlan(status) + "\n" + RenderTraffic(status);
  const json::array& events = Array(status, "events");
  if (!events.empty()) text += "\nevents:\n";
  const size_t first = events.size() > kEventsShown ? events.size() - kEventsShown : 0;
  for (size_t i = first; i < events.size(); ++i) {
    absl::StrAppend(&text, "  ", events[i].as_string().c_str(), "\n");
  }
  return text;
}

}  // namespace conclave
