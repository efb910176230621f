// One completion over HTTP, as every verb that generates text asks for it. Pure conversions and one
// blocking call.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/cli/http_client.h"

namespace conclave {

struct CompletionOptions {
  std::string prompt;              // text, or
  std::vector<int32_t> token_ids;  // token ids when not empty
  int tokens_max = 128;
  double temperature = 1.0;
  double top_p = 1.0;
  int top_k = 0;
  double min_p = 0.0;
  int64_t seed = -1;  // below 0: the server chooses
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

struct Completion {
  std::string text;
  std::vector<int32_t> token_ids;
  std::string finish_reason;
  int prompt_tokens = 0;
  double first_token_s = 0;  // from the request to its first token
  double total_s = 0;
  std::vector<double> arrival_s;  // of each token, from the request
};

// Streams a completion of `client`'s coordinator; `on_text` gets each piece as it comes.
absl::StatusOr<Completion> Complete(const HttpClient& client, const CompletionOptions& options,
                                    const std::function<void(absl::string_view)>& on_text);

}  // namespace conclave
