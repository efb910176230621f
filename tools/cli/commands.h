// The verbs of the client, one function each in a file of its name. The command line fills the
// options; a Status says how it went: InvalidArgument is a usage error (exit 2), anything else a
// failure (exit 1), Cancelled an interrupt (exit 130). Planning's verbs stand in plan.h.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/cli/completion.h"
#include "tools/cli/http_client.h"
#include "tools/cli/model_options.h"

namespace conclave {

// Where a running coordinator is, for verbs that talk to one.
struct ServerOptions {
  std::string url;          // empty: a throw-away local cluster, where the verb allows it
  std::string admin_token;  // empty: the one in the state folder
  std::string state_dir;
};

struct GenerateOptions {
  ModelOptions model;
  ServerOptions server;
  std::vector<std::string> prompts;
  std::string tokens_path;
  CompletionOptions completion;
  bool json = false;
};
absl::Status RunGenerate(const GenerateOptions& options, const std::atomic<bool>& cancelled);

struct LogitsOptions {
  ModelOptions model;
  ServerOptions server;
  std::string tokens_path;
  std::string out_path;
};
absl::Status RunLogits(const LogitsOptions& options, const std::atomic<bool>& cancelled);

struct StatusOptions {
  ServerOptions server;
  bool json = false;
  bool experts = false;  // the tokens that each expert has served, as JSON for plan --trace
};
absl::Status RunStatus(const StatusOptions& options);
// The JSON of /admin/status; `client` has the admin token.
absl::StatusOr<std::string> FetchStatus(const HttpClient& client);

struct DemoOptions {
  ModelOptions model;
  std::vector<std::string> prompts;
  int tokens_max = 64;
};
absl::Status RunDemo(const DemoOptions& options, const std::atomic<bool>& cancelled);

struct ServeOptions {
  ModelOptions model;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string state_dir;
  std::string served_model_name;
};
absl::Status RunServe(const ServeOptions& options, const std::atomic<bool>& cancelled);

struct BenchLatencyOptions {
  ModelOptions model;
  std::vector<int> batches = {1};  // measured one after the other with the weights loaded once
  int input_tokens = 128;
  int output_tokens = 32;
  std::string trace_path;  // Chrome trace of one more run, each operator timed alone
  bool json = false;
};
absl::Status RunBenchLatency(const BenchLatencyOptions& options,
                             const std::atomic<bool>& cancelled);

struct BenchKernelsOptions {
  ModelOptions model;
  std::vector<int> batches = {1};
  int input_tokens = 512;
  std::string trace_path;
  bool json = false;
};
absl::Status RunBenchKernels(const BenchKernelsOptions& options,
                             const std::atomic<bool>& cancelled);

struct BenchAblationOptions {
  ModelOptions model;
  std::vector<int> batches = {1};
  int input_tokens = 512;
  int output_tokens = 32;
  bool json = false;
};
absl::Status RunBenchAblation(const BenchAblationOptions& options,
                              const std::atomic<bool>& cancelled);

struct BenchCalibrateOptions {
  std::string device = "cpu";  // cpu, cuda or cuda:N
  int threads = 0;             // of the CPU; 0: the machine's
  std::string output_path;     // hardware profile to write; empty: a table is printed
};
absl::Status RunBenchCalibrate(const BenchCalibrateOptions& options,
                               const std::atomic<bool>& cancelled);

struct BenchPlanOptions {
  std::vector<std::string> models;
  std::vector<std::string> grids = {"tp=1"};
  std::vector<int> batches = {1};
  std::string device = "cpu";
  std::string exchange = "pcc";
  std::string profile_path;  // empty: this machine is measured first
  int input_tokens = 128;
  int output_tokens = 32;
  int batch_tokens_max = 512;
  bool json = false;
};
absl::Status RunBenchPlan(const BenchPlanOptions& options, const std::atomic<bool>& cancelled);

struct BenchServeOptions {
  ModelOptions model;
  ServerOptions server;
  int streams = 1;
  int input_tokens = 128;
  int output_tokens = 64;
  int vocab = 1000;  // prompts are random ids below this
  bool json = false;
};
absl::Status RunBenchServe(const BenchServeOptions& options, const std::atomic<bool>& cancelled);

}  // namespace conclave
