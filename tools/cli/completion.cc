#include "tools/cli/completion.h"

#include <boost/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

namespace json = boost::json;

std::string RequestBody(const CompletionOptions& options) {
  json::object body;
  if (options.token_ids.empty()) {
    body["prompt"] = options.prompt;
  } else {
    body["prompt"] = json::array(options.token_ids.begin(), options.token_ids.end());
  }
  body["max_tokens"] = options.tokens_max;
  body["temperature"] = options.temperature;
  body["top_p"] = options.top_p;
  body["top_k"] = options.top_k;
  body["min_p"] = options.min_p;
  if (options.seed >= 0) body["seed"] = options.seed;
  if (!options.stop.empty()) body["stop"] = json::array(options.stop.begin(), options.stop.end());
  body["ignore_eos"] = options.ignore_eos;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  body["return_token_ids"] = true;
  return json::serialize(body);
}

// Adds one event of the stream to `completion`; the error event becomes a Status.
absl::Status AddEvent(const json::object& event, Completion& completion,
                      const std::function<void(absl::string_view)>& on_text) {
  if (const json::value* error = event.if_contains("error")) {
    return absl::UnavailableError(error->as_object().at("message").as_string().c_str());
  }
  if (const json::value* usage = event.if_contains("usage");
      usage != nullptr && usage->is_object()) {
    completion.prompt_tokens = usage->as_object().at("prompt_tokens").to_number<int>();
  }
  for (const json::value& value : event.at("choices").as_array()) {
    const json::object& choice = value.as_object();
    if (const json::value* ids = choice.if_contains("token_ids");
        ids != nullptr && ids->is_array()) {
      for (const json::value& id : ids->as_array()) {
        completion.token_ids.push_back(id.to_number<int32_t>());
      }
    }
    if (const json::value* text = choice.if_contains("text");
        text != nullptr && text->is_string()) {
      const absl::string_view piece(text->as_string().data(), text->as_string().size());
      absl::StrAppend(&completion.text, piece);
      if (!piece.empty()) on_text(piece);
    }
    const json::value* reason = choice.if_contains("finish_reason");
    if (reason != nullptr && reason->is_string()) {
      completion.finish_reason = reason->as_string().c_str();
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Completion> Complete(const HttpClient& client, const CompletionOptions& options,
                                    const std::function<void(absl::string_view)>& on_text) {
  Completion completion;
  absl::Status failure;
  const absl::Time begin = absl::Now();
  const auto on_event = [&](absl::string_view data) {
    if (!failure.ok()) return;
    json::error_code error;
    const json::value event = json::parse(json::string_view(data.data(), data.size()), error);
    if (error || !event.is_object()) {
      failure = absl::InternalError(absl::StrCat("the coordinator sent '", data.substr(0, 200),
                                                 "', which is not a JSON event"));
      return;
    }
    try {
      failure = AddEvent(event.as_object(), completion, on_text);
    } catch (const std::exception& e) {
      failure = absl::InternalError(absl::StrCat("the coordinator's event '", data.substr(0, 200),
                                                 "' lacks a field: ", e.what()));
    }
    completion.arrival_s.resize(completion.token_ids.size(),
                                absl::ToDoubleSeconds(absl::Now() - begin));
    if (completion.first_token_s == 0 && !completion.arrival_s.empty()) {
      completion.first_token_s = completion.arrival_s[0];
    }
  };
  const absl::Status status = client.PostStream("/v1/completions", RequestBody(options), on_event);
  RETURN_IF_ERROR(failure);
  RETURN_IF_ERROR(status);
  completion.total_s = absl::ToDoubleSeconds(absl::Now() - begin);
  return completion;
}

}  // namespace conclave
