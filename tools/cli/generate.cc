#include <unistd.h>

#include <boost/json.hpp>
#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "tools/cli/commands.h"
#include "tools/cli/local_cluster.h"
#include "tools/cli/server.h"
#include "tools/cli/tokens_file.h"

namespace conclave {
namespace {

constexpr size_t kConcurrentMax = 64;

// All prompts at once (the server batches them), at most kConcurrentMax in flight; results in
// order.
absl::StatusOr<std::vector<Completion>> CompleteAll(
    const HttpClient& client, const std::vector<CompletionOptions>& prompts,
    const std::function<void(absl::string_view)>& on_text) {
  std::vector<Completion> completions;
  for (size_t begin = 0; begin < prompts.size(); begin += kConcurrentMax) {
    const size_t end = std::min(prompts.size(), begin + kConcurrentMax);
    std::vector<std::future<absl::StatusOr<Completion>>> running;
    for (size_t i = begin; i < end; ++i) {
      running.push_back(std::async(std::launch::async, [&client, &prompts, &on_text, i] {
        return Complete(client, prompts[i], on_text);
      }));
    }
    absl::Status failure;
    for (auto& future : running) {
      absl::StatusOr<Completion> completion = future.get();
      if (!completion.ok()) {
        failure = completion.status();
      } else {
        completions.push_back(*std::move(completion));
      }
    }
    RETURN_IF_ERROR(failure);
  }
  return completions;
}

void PrintJson(const std::vector<Completion>& completions) {
  boost::json::array sequences;
  for (const Completion& completion : completions) {
    boost::json::object entry;
    entry["token_ids"] =
        boost::json::array(completion.token_ids.begin(), completion.token_ids.end());
    if (!completion.text.empty()) entry["text"] = completion.text;
    entry["finish_reason"] = completion.finish_reason;
    entry["prompt_tokens"] = completion.prompt_tokens;
    entry["first_token_ms"] = completion.first_token_s * 1e3;
    entry["total_ms"] = completion.total_s * 1e3;
    sequences.push_back(std::move(entry));
  }
  std::cout << boost::json::serialize(boost::json::object{{"sequences", sequences}}) << "\n";
}

void PrintRate(const std::vector<Completion>& completions) {
  size_t tokens = 0;
  double seconds = 0;
  for (const Completion& completion : completions) {
    tokens += completion.token_ids.size();
    seconds = std::max(seconds, completion.total_s);
  }
  std::cerr << absl::StrFormat("%d tokens in %.2f s (%.1f tokens/s)\n", tokens, seconds,
                               seconds > 0 ? tokens / seconds : 0);
}

absl::StatusOr<std::vector<CompletionOptions>> Prompts(const GenerateOptions& options) {
  std::vector<CompletionOptions> prompts;
  if (!options.tokens_path.empty()) {
    ASSIGN_OR_RETURN(const auto sequences, ReadTokensFile(options.tokens_path));
    for (const std::vector<int32_t>& ids : sequences) {
      prompts.push_back(options.completion);
      prompts.back().token_ids = ids;
    }
  }
  for (const std::string& prompt : options.prompts) {
    prompts.push_back(options.completion);
    prompts.back().prompt = prompt;
  }
  if (prompts.empty()) {
    return absl::InvalidArgumentError(
        "no prompt: give --prompt TEXT, --tokens FILE, or text as an argument");
  }
  return prompts;
}

}  // namespace

absl::Status RunGenerate(const GenerateOptions& options, const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const std::vector<CompletionOptions> prompts, Prompts(options));
  ASSIGN_OR_RETURN(
      std::unique_ptr<Server> server,
      Server::Open(options.server, options.model, !options.prompts.empty(), cancelled));
  const bool live = !options.json && options.tokens_path.empty() && prompts.size() == 1;
  bool begun = false;  // the prompt is printed with the first text, not before an error
  const auto on_text = [&, live](absl::string_view piece) {
    if (!live) return;
    if (!std::exchange(begun, true)) std::cout << options.prompts[0];
    std::cout << piece << std::flush;
  };
  ASSIGN_OR_RETURN(const std::vector<Completion> completions,
                   CompleteAll(server->Client(false), prompts, on_text));
  if (options.json) {
    PrintJson(completions);
  } else if (live) {
    std::cout << "\n";
  } else {
    for (size_t i = 0; i < completions.size(); ++i) {
      std::cout << absl::StrFormat("[%d] ", i) << prompts[i].prompt << completions[i].text;
      if (completions[i].text.empty()) {
        for (const int32_t id : completions[i].token_ids) std::cout << " " << id;
      }
      std::cout << "\n";
    }
  }
  if (!options.json) PrintRate(completions);
  return server->Close();
}

}  // namespace conclave
