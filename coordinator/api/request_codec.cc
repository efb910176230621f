#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "boost/json.hpp"
#include "coordinator/api/openai_codec.h"
#include "coordinator/model_config/json_fields.h"

namespace conclave {
namespace {

constexpr size_t kStopsMax = 16;
constexpr size_t kStopBytesMax = 1024;
constexpr size_t kStopIdsMax = 64;
constexpr int32_t kDefaultTokens = 16;
constexpr double kTemperatureMax = 100;
constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
// No vocabulary in use has longer tokens than this on average: a longer text cannot fit.
constexpr int64_t kBytesPerTokenMax = 256;

struct NumberRange {
  double min = 0;
  double max = 0;
  bool open_min = false;  // min itself is refused
};

// Reads fields of one body; the first error stands, and later reads give defaults.
class BodyReader {
 public:
  explicit BodyReader(const boost::json::object& body) : body_(body) {}

  const std::optional<ApiError>& error() const { return error_; }

  void Refuse(absl::string_view field, absl::string_view wanted) {
    if (error_) return;
    const boost::json::value* value = body_.if_contains({field.data(), field.size()});
    error_ = ApiError{
        .http = 400,
        .message = absl::StrCat("'", field, "' is ",
                                value == nullptr ? "missing" : JsonExcerpt(*value), "; ", wanted),
        .param = std::string(field)};
  }

  // nullptr when absent or null.
  const boost::json::value* Find(absl::string_view field) const {
    const boost::json::value* value = body_.if_contains({field.data(), field.size()});
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  int64_t Int(absl::string_view field, IntRange range, int64_t fallback) {
    const boost::json::value* value = Find(field);
    if (value == nullptr) return fallback;
    const int64_t* number = value->if_int64();
    if (number != nullptr && *number >= range.min && *number <= range.max) return *number;
    Refuse(field, absl::StrCat("give an integer from ", range.min, " to ", range.max));
    return fallback;
  }

  float Number(absl::string_view field, NumberRange range, float fallback) {
    const boost::json::value* value = Find(field);
    if (value == nullptr) return fallback;
    boost::json::error_code failed;
    const double number = value->is_number() ? value->to_number<double>(failed) : NAN;
    // Written so that NaN is refused.
    const bool inside =
        (range.open_min ? number > range.min : number >= range.min) && number <= range.max;
    if (inside && !failed) return static_cast<float>(number);
    Refuse(field, absl::StrCat("give a number from ", range.min,
                               range.open_min ? " (excluded)" : "", " to ", range.max));
    return fallback;
  }

  bool Bool(absl::string_view field) {
    const boost::json::value* value = Find(field);
    if (value == nullptr) return false;
    if (!value->is_bool()) Refuse(field, "give true or false");
    return value->is_bool() && value->get_bool();
  }

  // A list of token ids below `vocab`, at most `count_max` of them.
  std::vector<int32_t> TokenIds(absl::string_view field, const boost::json::array& list,
                                int vocab) {
    std::vector<int32_t> ids;
    ids.reserve(list.size());
    for (const boost::json::value& item : list) {
      const int64_t* id = item.if_int64();
      if (id == nullptr || *id < 0 || *id >= vocab) {
        Refuse(field, absl::StrCat("entry ", ids.size(), " is ", JsonExcerpt(item),
                                   "; token ids are integers from 0 to ", vocab - 1));
        return {};
      }
      ids.push_back(static_cast<int32_t>(*id));
    }
    return ids;
  }

 private:
  const boost::json::object& body_;
  std::optional<ApiError> error_;
};

absl::string_view View(const boost::json::string& text) { return {text.data(), text.size()}; }

std::variant<boost::json::value, ApiError> ParseBody(absl::string_view body) {
  absl::StatusOr<boost::json::value> value = ParseJson(body, "the request body");
  if (!value.ok()) return ApiError{.message = std::string(value.status().message())};
  if (!value->is_object()) return ApiError{.message = "the request body is not a JSON object"};
  return *std::move(value);
}

// Fields of OpenAI that would change the answer and are not supported.
void RefuseUnsupported(BodyReader* reader) {
  if (reader->Int("n", {1, kInt32Max}, 1) != 1) reader->Refuse("n", "only 1 is supported");
  if (reader->Int("best_of", {1, kInt32Max}, 1) != 1) {
    reader->Refuse("best_of", "only 1 is supported");
  }
  if (reader->Bool("echo")) reader->Refuse("echo", "only false is supported");
  for (absl::string_view field :
       {"logprobs", "prompt_logprobs", "logit_bias", "guided_json", "response_format"}) {
    const boost::json::value* value = reader->Find(field);
    const bool empty = value != nullptr && ((value->is_object() && value->get_object().empty()) ||
                                            (value->is_bool() && !value->get_bool()));
    if (value != nullptr && !empty) reader->Refuse(field, "it is not supported; leave it out");
  }
  const boost::json::value* suffix = reader->Find("suffix");
  if (suffix != nullptr && (!suffix->is_string() || !suffix->get_string().empty())) {
    reader->Refuse("suffix", "it is not supported; leave it out");
  }
  for (absl::string_view field : {"presence_penalty", "frequency_penalty"}) {
    if (reader->Number(field, {-2, 2}, 0) != 0) reader->Refuse(field, "only 0 is supported");
  }
  if (reader->Number("repetition_penalty", {0, 100}, 1) != 1) {
    reader->Refuse("repetition_penalty", "only 1 is supported");
  }
}

std::vector<int32_t> EncodePrompt(absl::string_view text, const CompletionContext& context,
                                  BodyReader* reader) {
  if (context.tokenizer == nullptr) {
    reader->Refuse("prompt", "the model has no tokenizer; give a list of token ids");
    return {};
  }
  const int64_t bytes_max = kBytesPerTokenMax * context.shape->context_tokens;
  if (static_cast<int64_t>(text.size()) > bytes_max) {
    reader->Refuse("prompt", absl::StrCat("it cannot fit the context of ",
                                          context.shape->context_tokens, " tokens; shorten it"));
    return {};
  }
  absl::StatusOr<std::vector<int32_t>> ids = context.tokenizer->Encode(text);
  if (!ids.ok()) {
    reader->Refuse("prompt", ids.status().message());
    return {};
  }
  for (int32_t id : *ids) {
    if (id < context.shape->vocab) continue;
    reader->Refuse("prompt", absl::StrCat("the tokenizer makes token ", id,
                                          " of it, but the model "
                                          "has ",
                                          context.shape->vocab, "; use its own tokenizer"));
    return {};
  }
  return *std::move(ids);
}

// A string, a list of token ids, or a list of one of these.
std::vector<int32_t> ReadPrompt(const CompletionContext& context, BodyReader* reader) {
  constexpr absl::string_view kWanted = "give a string or a list of token ids";
  const boost::json::value* prompt = reader->Find("prompt");
  if (prompt != nullptr && prompt->is_array() && !prompt->get_array().empty() &&
      !prompt->get_array()[0].is_number()) {
    if (prompt->get_array().size() > 1) {
      reader->Refuse("prompt", "only one prompt is supported; send one request for each");
      return {};
    }
    prompt = &prompt->get_array()[0];
  }
  std::vector<int32_t> ids;
  if (prompt != nullptr && prompt->is_string()) {
    ids = EncodePrompt(View(prompt->get_string()), context, reader);
  } else if (prompt != nullptr && prompt->is_array()) {
    ids = reader->TokenIds("prompt", prompt->get_array(), context.shape->vocab);
  } else {
    reader->Refuse("prompt", kWanted);
  }
  if (ids.empty()) reader->Refuse("prompt", "it has no tokens; give at least one");
  return ids;
}

std::vector<std::string> ReadStops(const CompletionContext& context, BodyReader* reader) {
  const std::string wanted = absl::StrCat("give a string or a list of at most ", kStopsMax,
                                          " strings of 1 to ", kStopBytesMax, " bytes");
  std::vector<std::string> stops;
  const boost::json::value* value = reader->Find("stop");
  if (value == nullptr) return stops;
  boost::json::array list;
  if (value->is_array()) {
    list = value->get_array();
  } else {
    list.push_back(*value);
  }
  if (list.size() > kStopsMax) reader->Refuse("stop", wanted);
  for (const boost::json::value& item : list) {
    const boost::json::string* text = item.if_string();
    if (text == nullptr || text->empty() || text->size() > kStopBytesMax) {
      reader->Refuse("stop", wanted);
      return {};
    }
    stops.emplace_back(View(*text));
  }
  if (!stops.empty() && context.tokenizer == nullptr) {
    reader->Refuse("stop", "the model has no tokenizer; use stop_token_ids");
  }
  return stops;
}

void ReadStopIds(int vocab, BodyReader* reader, GenerationRequest* request) {
  const boost::json::value* value = reader->Find("stop_token_ids");
  if (value == nullptr) return;
  if (!value->is_array() || value->get_array().size() > kStopIdsMax) {
    return reader->Refuse("stop_token_ids",
                          absl::StrCat("give a list of at most ", kStopIdsMax, " token ids"));
  }
  request->stop_token_ids = reader->TokenIds("stop_token_ids", value->get_array(), vocab);
}

void ReadLength(const ModelShape& shape, BodyReader* reader, GenerationRequest* request) {
  const int64_t room = shape.context_tokens - static_cast<int64_t>(request->prompt.size());
  if (room < 1) {
    return reader->Refuse(
        "prompt", absl::StrCat("it has ", request->prompt.size(), " tokens; the context of ",
                               shape.context_tokens, " must hold it and one more"));
  }
  const int64_t fallback = std::min<int64_t>(kDefaultTokens, room);
  const int64_t tokens = reader->Int("max_tokens", {1, kInt32Max}, fallback);
  if (tokens > room) {
    reader->Refuse("max_tokens", absl::StrCat("the prompt has ", request->prompt.size(),
                                              " tokens and the context ", shape.context_tokens,
                                              "; give at most ", room));
  }
  request->tokens_max = static_cast<int32_t>(tokens);
}

SamplingParams ReadSampling(const CompletionContext& context, BodyReader* reader) {
  SamplingParams sampling;
  sampling.temperature = reader->Number("temperature", {0, kTemperatureMax}, 1.0f);
  sampling.top_p = reader->Number("top_p", {0, 1, /*open_min=*/true}, 1.0f);
  sampling.min_p = reader->Number("min_p", {0, 1}, 0.0f);
  // -1 and 0 both mean off.
  sampling.top_k =
      std::max<int32_t>(0, static_cast<int32_t>(reader->Int("top_k", {-1, kInt32Max}, 0)));
  const IntRange any = {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()};
  sampling.seed = reader->Find("seed") == nullptr
                      ? context.seed_if_missing
                      : static_cast<uint64_t>(reader->Int("seed", any, 0));
  return sampling;
}

bool ReadIncludeUsage(BodyReader* reader) {
  const boost::json::value* options = reader->Find("stream_options");
  if (options == nullptr) return false;
  const boost::json::object* object = options->if_object();
  const boost::json::value* usage =
      object == nullptr ? nullptr : object->if_contains("include_usage");
  if (object == nullptr || (usage != nullptr && !usage->is_bool())) {
    reader->Refuse("stream_options", "give {\"include_usage\": true or false}");
    return false;
  }
  return usage != nullptr && usage->get_bool();
}

}  // namespace

std::variant<CompletionCall, ApiError> ParseCompletion(absl::string_view body,
                                                       const CompletionContext& context) {
  std::variant<boost::json::value, ApiError> parsed = ParseBody(body);
  if (ApiError* error = std::get_if<ApiError>(&parsed)) return *std::move(error);
  BodyReader reader(std::get<boost::json::value>(parsed).get_object());
  if (const boost::json::value* model = reader.Find("model")) {
    if (!model->is_string()) {
      reader.Refuse("model", "give a string");
    } else if (View(model->get_string()) != context.model) {
      return ApiError{404,
                      absl::StrCat("model '", View(model->get_string()),
                                   "' is not served here; use '", context.model, "'"),
                      "not_found_error", "model", "model_not_found"};
    }
  }
  RefuseUnsupported(&reader);
  CompletionCall call;
  call.stream = reader.Bool("stream");
  call.include_usage = ReadIncludeUsage(&reader);
  call.return_token_ids = reader.Bool("return_token_ids") || context.tokenizer == nullptr;
  call.stops = ReadStops(context, &reader);
  call.request.ignore_eos = reader.Bool("ignore_eos");
  call.request.sampling = ReadSampling(context, &reader);
  ReadStopIds(context.shape->vocab, &reader, &call.request);
  if (!reader.error()) call.request.prompt = ReadPrompt(context, &reader);
  if (!reader.error()) ReadLength(*context.shape, &reader, &call.request);
  if (reader.error()) return *reader.error();
  return call;
}

std::variant<TokenRows, ApiError> ParseLogits(absl::string_view body, const ModelShape& shape) {
  std::variant<boost::json::value, ApiError> parsed = ParseBody(body);
  if (ApiError* error = std::get_if<ApiError>(&parsed)) return *std::move(error);
  BodyReader reader(std::get<boost::json::value>(parsed).get_object());
  const boost::json::value* list = reader.Find("input_ids");
  TokenRows rows;
  if (list == nullptr || !list->is_array() || list->get_array().empty()) {
    reader.Refuse("input_ids", "give a list of lists of token ids");
    return *reader.error();
  }
  for (const boost::json::value& row : list->get_array()) {
    if (!row.is_array() || row.get_array().empty()) {
      reader.Refuse("input_ids", absl::StrCat("row ", rows.size(), " is not a list of token ids"));
    } else if (row.get_array().size() != list->get_array()[0].get_array().size()) {
      reader.Refuse("input_ids", absl::StrCat("row ", rows.size(),
                                              " differs in length from row 0; "
                                              "rows must have one length"));
    } else {
      rows.push_back(reader.TokenIds("input_ids", row.get_array(), shape.vocab));
    }
    if (reader.error()) return *reader.error();
  }
  if (static_cast<int64_t>(rows[0].size()) > shape.context_tokens) {
    reader.Refuse("input_ids", absl::StrCat("rows of ", rows[0].size(), " tokens; the context has ",
                                            shape.context_tokens));
  }
  const double bytes = 4.0 * rows.size() * rows[0].size() * shape.vocab;
  if (bytes > kLogitsBytesMax) {
    reader.Refuse("input_ids", absl::StrCat("the logits would have ", static_cast<int64_t>(bytes),
                                            " bytes; at most ", kLogitsBytesMax, " are sent"));
  }
  if (reader.error()) return *reader.error();
  return rows;
}

}  // namespace conclave
