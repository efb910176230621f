// `bench serve`: a batch of streams against a running coordinator or a local cluster, as users see
// it: time to the first token, time between tokens, tokens per second.
#include <algorithm>
#include <boost/json.hpp>
#include <future>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/commands.h"
#include "tools/cli/server.h"

namespace conclave {
namespace {

constexpr uint64_t kPromptSeed = 1;

struct ServeReport {
  double first_token_ms_p50 = 0;
  double first_token_ms_p99 = 0;
  double between_ms_p50 = 0;
  double between_ms_p99 = 0;
  double tokens_per_s = 0;
};

std::vector<CompletionOptions> RandomPrompts(const BenchServeOptions& options, int vocab) {
  Rng rng(kPromptSeed);
  std::vector<CompletionOptions> prompts(options.streams);
  for (CompletionOptions& prompt : prompts) {
    for (int i = 0; i < options.input_tokens; ++i) {
      prompt.token_ids.push_back(static_cast<int32_t>(rng.Below(vocab)));
    }
    prompt.tokens_max = options.output_tokens;
    prompt.temperature = 0;
    prompt.ignore_eos = true;
  }
  return prompts;
}

absl::StatusOr<std::vector<Completion>> StreamAll(const Server& server,
                                                  const std::vector<CompletionOptions>& prompts) {
  std::vector<std::future<absl::StatusOr<Completion>>> running;
  for (const CompletionOptions& prompt : prompts) {
    running.push_back(std::async(std::launch::async, [&server, &prompt] {
      return Complete(server.Client(false), prompt, [](absl::string_view) {});
    }));
  }
  std::vector<Completion> completions;
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
  return completions;
}

// Gaps are counted from the moment the last stream has its first token: before that the server
// still reads prompts.
ServeReport Summarize(const std::vector<Completion>& completions) {
  std::vector<double> firsts;
  double all_begun_s = 0;
  for (const Completion& completion : completions) {
    firsts.push_back(completion.first_token_s * 1e3);
    all_begun_s = std::max(all_begun_s, completion.first_token_s);
  }
  std::vector<double> gaps;
  double last_s = 0;
  size_t tokens = 0;
  for (const Completion& completion : completions) {
    for (size_t i = 1; i < completion.arrival_s.size(); ++i) {
      if (completion.arrival_s[i - 1] < all_begun_s) continue;
      gaps.push_back((completion.arrival_s[i] - completion.arrival_s[i - 1]) * 1e3);
      ++tokens;
      last_s = std::max(last_s, completion.arrival_s[i]);
    }
  }
  ServeReport report;
  report.first_token_ms_p50 = Percentile(firsts, 0.5);
  report.first_token_ms_p99 = Percentile(firsts, 0.99);
  report.between_ms_p50 = Percentile(gaps, 0.5);
  report.between_ms_p99 = Percentile(gaps, 0.99);
  if (last_s > all_begun_s) report.tokens_per_s = tokens / (last_s - all_begun_s);
  return report;
}

void Print(const BenchServeOptions& options, const ServeReport& r) {
  if (options.json) {
    const boost::json::object out = {{"streams", options.streams},
                                     {"input_len", options.input_tokens},
                                     {"output_len", options.output_tokens},
                                     {"first_token_ms_p50", r.first_token_ms_p50},
                                     {"first_token_ms_p99", r.first_token_ms_p99},
                                     {"between_tokens_ms_p50", r.between_ms_p50},
                                     {"between_tokens_ms_p99", r.between_ms_p99},
                                     {"decode_tokens_per_s", r.tokens_per_s}};
    std::cout << boost::json::serialize(out) << "\n";
    return;
  }
  std::cout << absl::StrFormat("%d streams, %d tokens in, %d out\n", options.streams,
                               options.input_tokens, options.output_tokens);
  std::cout << absl::StrFormat("  first token     p50 %9.2f ms   p99 %9.2f ms\n",
                               r.first_token_ms_p50, r.first_token_ms_p99);
  std::cout << absl::StrFormat("  between tokens  p50 %9.2f ms   p99 %9.2f ms\n", r.between_ms_p50,
                               r.between_ms_p99);
  std::cout << absl::StrFormat("  decode          %11.1f tokens/s\n", r.tokens_per_s);
}

}  // namespace

absl::Status RunBenchServe(const BenchServeOptions& options, const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server,
                   Server::Open(options.server, options.model, false, cancelled));
  const std::vector<CompletionOptions> prompts = RandomPrompts(options, options.vocab);
  // The first run warms caches and graphs; its figures are dropped.
  std::vector<CompletionOptions> warmup = prompts;
  for (CompletionOptions& prompt : warmup) prompt.tokens_max = std::min(prompt.tokens_max, 8);
  RETURN_IF_ERROR(StreamAll(*server, warmup).status());
  if (cancelled.load()) return absl::CancelledError("interrupted");
  ASSIGN_OR_RETURN(const std::vector<Completion> completions, StreamAll(*server, prompts));
  Print(options, Summarize(completions));
  return server->Close();
}

}  // namespace conclave
