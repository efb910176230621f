// The `conclave` program: every verb of the client, and the coordinator and worker processes
// themselves. Exit codes: 0 done, 1 failure, 2 usage, 130 interrupted.

#include <curl/curl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "comm/base/signal_watch.h"
#include "comm/base/status.h"
#include "coordinator/coordinator_main.h"
#include "glog/logging.h"
#include "tools/cli/bench_fabric_flags.h"
#include "tools/cli/commands.h"
#include "tools/cli/doctor/doctor_flags.h"
#include "tools/cli/plan_flags.h"
#include "tools/cli/server.h"
#include "worker/worker_main.h"

namespace conclave {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kExitInterrupted = 130;

using LongRun = std::function<absl::Status(const std::atomic<bool>& cancelled)>;

// What the command line asked for: set by the verb's callback.
struct Invocation {
  std::string verb;
  LongRun run;
  bool handles_signals = false;  // coordinator and worker do so themselves
};

// How workers on GPUs compute; of a model or of a coordinator.
struct ComputeFlags {
  bool& deterministic;
  std::string& quantization;
  int& quant_group;
};

void AddComputeFlags(CLI::App& app, ComputeFlags flags) {
  app.add_flag("--deterministic", flags.deterministic,
               "On GPUs too the CPU's bits, whatever the placement and the batch; slower");
  app.add_option("--quantization,-q", flags.quantization,
                 "Weights on GPUs: none, fp8, int8, int4, nf4 or mxfp4")
      ->capture_default_str();
  app.add_option("--quant-group-size", flags.quant_group,
                 "Inputs that share a scale: 32, 64, 128 or 256 (0: the format's usual)")
      ->capture_default_str();
}

void AddModelFlags(CLI::App& app, ModelOptions& model, bool model_required) {
  auto* option = app.add_option("--model,-m,model", model.model,
                                "Checkpoint folder (Hugging Face safetensors), or a preset shape: "
                                "olmoe-1b-7b, qwen3-30b-a3b, mixtral-8x7b");
  if (model_required) option->required();
  app.add_option("--load-format", model.load_format, "auto, safetensors, or dummy (random weights)")
      ->capture_default_str();
  app.add_option("--device", model.device,
                 "auto (GPUs if there are), cpu, cuda (the machine's GPUs in turn) or cuda:N")
      ->capture_default_str();
  app.add_option("--parallel,-p", model.parallel,
                 "Grid: tp=T,dp=D,pp=P[,ep=E][,slices=S]; T*D*P workers");
  app.add_option("--workers", model.workers,
                 "Number of workers; without --parallel the grid is chosen by memory")
      ->check(CLI::Range(1, 65536));
  app.add_option("--threads", model.threads,
                 "Threads of each worker (default: processors / workers)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--memory", model.memory,
                 "Memory of each worker for weights and KV, such as 8GiB");
  AddComputeFlags(app, {model.deterministic, model.quantization, model.quant_group});
  app.add_option("--kv-cache-dtype", model.kv_cache_dtype, "auto, float32, float16 or bfloat16")
      ->capture_default_str();
  app.add_option("--block-size", model.page_tokens, "Tokens of a KV page")->capture_default_str();
  app.add_option("--max-model-len", model.context_tokens_max, "Longest sequence in tokens")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--max-num-seqs", model.sequences_max, "Sequences in a step, for each dp group")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--max-num-batched-tokens", model.batch_tokens_max,
                 "Tokens in a step, for each dp group; longer prompts are cut into chunks")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--exchange", model.exchange, "MoE all-to-all schedule: pcc, naive or two-level")
      ->capture_default_str();
  app.add_option("--exchange-dtype", model.exchange_dtype,
                 "Rows of the MoE all-to-all: float32 (exact), bfloat16, int8 or fp8")
      ->capture_default_str();
}

void AddServerFlags(CLI::App& app, ServerOptions& server) {
  app.add_option("--url", server.url, "Coordinator to ask, such as http://127.0.0.1:8000");
  app.add_option("--admin-token", server.admin_token,
                 "Admin token (default: from the state folder)");
  app.add_option("--state-dir", server.state_dir, "Folder of keys and admin token")
      ->type_name("DIR");
}

void AddGenerate(CLI::App& root, Invocation& invocation) {
  auto* app =
      root.add_subcommand("generate", "Generate text, from a running server or a local one");
  auto options = std::make_shared<GenerateOptions>();
  AddModelFlags(*app, options->model, false);
  AddServerFlags(*app, options->server);
  CompletionOptions& c = options->completion;
  app->add_option("--prompt", options->prompts, "Prompt text; repeat for a batch");
  app->add_option("--tokens", options->tokens_path,
                  "JSON file of prompts: {\"input_ids\": [[...]]}");
  app->add_option("--max-tokens,-n", c.tokens_max, "Tokens to generate")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app->add_option("--temperature", c.temperature, "0 is greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app->add_option("--top-p", c.top_p)->check(CLI::Range(0.0, 1.0))->capture_default_str();
  app->add_option("--top-k", c.top_k)->check(CLI::Range(0, 1 << 24))->capture_default_str();
  app->add_option("--min-p", c.min_p)->check(CLI::Range(0.0, 1.0))->capture_default_str();
  app->add_option("--seed", c.seed, "Same request and seed, same text");
  app->add_option("--stop", c.stop, "String that ends the text; may be repeated");
  app->add_flag("--ignore-eos", c.ignore_eos, "Generate past the end-of-text token");
  app->add_flag("--json", options->json, "Print JSON");
  app->footer("Example: conclave generate --model ./model --prompt 'Call me' --temperature 0");
  app->callback([options, &invocation] {
    invocation.verb = "generate";
    invocation.run = [options](const auto& cancelled) { return RunGenerate(*options, cancelled); };
  });
}

void AddLogits(CLI::App& root, Invocation& invocation) {
  auto* app = root.add_subcommand("logits", "Write the logits of every position of given tokens");
  auto options = std::make_shared<LogitsOptions>();
  AddModelFlags(*app, options->model, false);
  AddServerFlags(*app, options->server);
  app->add_option("--tokens", options->tokens_path, "JSON file: {\"input_ids\": [[...]]}")
      ->required();
  app->add_option("--out,-o", options->out_path, "float32 .npy file [batch, tokens, vocab]")
      ->required();
  app->footer(
      "Example: conclave logits --model ./model --tokens ids.json --out logits.npy "
      "--parallel tp=2,dp=2");
  app->callback([options, &invocation] {
    invocation.verb = "logits";
    invocation.run = [options](const auto& cancelled) { return RunLogits(*options, cancelled); };
  });
}

void AddStatus(CLI::App& root, Invocation& invocation) {
  auto* app = root.add_subcommand("status", "Show a cluster: workers, placement, traffic, events");
  auto options = std::make_shared<StatusOptions>();
  options->server.url = "http://127.0.0.1:8000";
  AddServerFlags(*app, options->server);
  app->add_flag("--json", options->json, "Print JSON");
  app->add_flag("--experts", options->experts,
                "Print the tokens that each expert served lately, as JSON for plan --trace");
  app->footer("Example: conclave status --url http://127.0.0.1:8000");
  app->callback([options, &invocation] {
    invocation.verb = "status";
    invocation.run = [options](const auto&) { return RunStatus(*options); };
  });
}

void AddDemo(CLI::App& root, Invocation& invocation) {
  auto* app =
      root.add_subcommand("demo", "Serve the demo model on local workers and generate text");
  auto options = std::make_shared<DemoOptions>();
  options->model.parallel = "tp=2,dp=2";
  AddModelFlags(*app, options->model, false);
  app->add_option("--prompt", options->prompts, "Prompt text; may be repeated");
  app->add_option("--max-tokens,-n", options->tokens_max, "Tokens for each prompt")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->footer("Example: conclave demo --parallel tp=4,dp=2");
  app->callback([options, &invocation] {
    invocation.verb = "demo";
    invocation.run = [options](const auto& cancelled) { return RunDemo(*options, cancelled); };
  });
}

void AddServe(CLI::App& root, Invocation& invocation) {
  auto* app = root.add_subcommand("serve", "Coordinator, workers and HTTP on this machine");
  auto options = std::make_shared<ServeOptions>();
  AddModelFlags(*app, options->model, true);
  app->add_option("--host", options->host, "Address of HTTP; loopback unless told otherwise")
      ->capture_default_str();
  app->add_option("--port", options->port, "Port of HTTP; 0: chosen by the system")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app->add_option("--state-dir", options->state_dir, "Folder of keys, admin token and logs");
  app->add_option("--served-model-name", options->served_model_name, "Name in the API");
  app->footer("Example: conclave serve ./model --parallel tp=2,dp=2");
  app->callback([options, &invocation] {
    invocation.verb = "serve";
    invocation.run = [options](const auto& cancelled) { return RunServe(*options, cancelled); };
  });
}

void AddCoordinator(CLI::App& root, Invocation& invocation) {
  auto* app = root.add_subcommand("coordinator", "Run the coordinator process of a cluster");
  auto flags = std::make_shared<CoordinatorFlags>();
  app->add_option("--model,-m,model", flags->model, "Checkpoint folder or preset shape")
      ->required();
  app->add_option("--load-format", flags->load_format)->capture_default_str();
  app->add_option("--parallel,-p", flags->parallel, "Grid: tp=T,dp=D,pp=P[,ep=E][,slices=S]");
  app->add_option("--workers", flags->workers, "Workers to wait for when the grid is automatic");
  app->add_option("--host", flags->host)->capture_default_str();
  app->add_option("--port", flags->port)->check(CLI::Range(0, 65535))->capture_default_str();
  app->add_option("--control", flags->control, "Where workers connect")->capture_default_str();
  app->add_option("--state-dir", flags->state_dir, "Folder of keys and admin token");
  app->add_option("--allow-worker-key", flags->allowed_worker_keys,
                  "Public key of a worker that may join; may be repeated");
  AddComputeFlags(*app, {flags->deterministic, flags->quantization, flags->quant_group});
  app->add_option("--kv-cache-dtype", flags->kv_cache_dtype,
                  "auto (by the workers' devices), float32, float16 or bfloat16")
      ->capture_default_str();
  app->add_option("--block-size", flags->page_tokens)->capture_default_str();
  app->add_option("--max-model-len", flags->context_tokens_max);
  app->add_option("--max-num-seqs", flags->sequences_max)->capture_default_str();
  app->add_option("--max-num-batched-tokens", flags->batch_tokens_max)->capture_default_str();
  app->add_option("--exchange", flags->exchange, "pcc, naive or two-level")->capture_default_str();
  app->add_option("--exchange-dtype", flags->exchange_dtype, "float32, bfloat16, int8 or fp8")
      ->capture_default_str();
  app->add_option("--served-model-name", flags->served_model_name);
  app->add_option("--ready-fd", flags->ready_fd)->group("");
  app->footer(
      "Example: conclave coordinator --model ./model --parallel tp=2,dp=2 "
      "--control tcp://0.0.0.0:7070");
  app->callback([flags, &invocation] {
    invocation.verb = "coordinator";
    invocation.handles_signals = true;
    invocation.run = [flags](const auto&) {
      if (flags->state_dir.empty()) flags->state_dir = DefaultStateDir();
      return RunCoordinator(*flags);
    };
  });
}

void AddWorker(CLI::App& root, Invocation& invocation) {
  auto* app = root.add_subcommand("worker", "Run one worker process of a cluster");
  auto flags = std::make_shared<WorkerFlags>();
  auto memory = std::make_shared<std::string>();
  app->add_option("--coordinator", flags->coordinator, "Control address, tcp://HOST:PORT")
      ->required();
  app->add_option("--coordinator-key", flags->coordinator_key,
                  "Public key of the coordinator (default: from the state folder)");
  app->add_option("--state-dir", flags->state_dir, "Folder of keys");
  app->add_option("--name", flags->name, "Unique in the cluster (default: host and pid)");
  app->add_option("--node", flags->node, "Node name (default: the host's)");
  app->add_option("--device", flags->device, "auto (a GPU if there is one), cpu or cuda:N")
      ->capture_default_str();
  app->add_option("--threads", flags->threads)->check(CLI::Range(1, 1024));
  app->add_option("--memory", *memory, "For weights and KV, such as 8GiB");
  app->footer("Example: conclave worker --coordinator tcp://10.0.0.1:7070");
  app->callback([flags, memory, &invocation] {
    invocation.verb = "worker";
    invocation.handles_signals = true;
    invocation.run = [flags, memory](const auto&) -> absl::Status {
      if (flags->state_dir.empty()) flags->state_dir = DefaultStateDir();
      if (!memory->empty()) {
        ASSIGN_OR_RETURN(flags->memory_bytes, ParseBytes("--memory", *memory));
      }
      return RunWorker(*flags);
    };
  });
}

void AddBatches(CLI::App& app, std::vector<int>& batches) {
  app.add_option("--batch,--batch-size", batches, "Sequences; several are measured in turn")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
}

void AddLengths(CLI::App& app, int& input_tokens, int& output_tokens, int output_least) {
  app.add_option("--input-len", input_tokens, "Tokens of each prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--output-len", output_tokens, "Tokens generated for each")
      ->check(CLI::Range(output_least, 1 << 20))
      ->capture_default_str();
}

void AddBenchKernels(CLI::App& bench, Invocation& invocation) {
  auto* app = bench.add_subcommand("kernels", "Each GPU operator of a step against its roofline");
  auto options = std::make_shared<BenchKernelsOptions>();
  AddModelFlags(*app, options->model, true);
  AddBatches(*app, options->batches);
  app->add_option("--input-len", options->input_tokens, "Tokens of each prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--trace", options->trace_path, "Chrome trace of the operators");
  app->add_flag("--json", options->json, "Print JSON");
  app->footer("Example: conclave bench kernels --model qwen3-30b-a3b --device cuda:0 --batch 1,32");
  app->callback([options, &invocation] {
    invocation.verb = "bench kernels";
    invocation.run = [options](const auto& cancelled) {
      return RunBenchKernels(*options, cancelled);
    };
  });
}

void AddBenchServe(CLI::App& bench, Invocation& invocation) {
  auto* app = bench.add_subcommand("serve", "Streams over HTTP, as users see them");
  auto options = std::make_shared<BenchServeOptions>();
  AddModelFlags(*app, options->model, false);
  AddServerFlags(*app, options->server);
  app->add_option("--streams,--max-concurrency", options->streams, "Streams at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  AddLengths(*app, options->input_tokens, options->output_tokens, 2);
  app->add_option("--vocab", options->vocab, "Prompts are random token ids below this")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app->add_flag("--json", options->json, "Print JSON");
  app->footer("Example: conclave bench serve --url http://127.0.0.1:8000 --streams 32");
  app->callback([options, &invocation] {
    invocation.verb = "bench serve";
    invocation.run = [options](const auto& cancelled) {
      return RunBenchServe(*options, cancelled);
    };
  });
}

void AddBenchAblation(CLI::App& bench, Invocation& invocation) {
  auto* app = bench.add_subcommand("ablation", "What each part of the GPU path brings");
  auto options = std::make_shared<BenchAblationOptions>();
  AddModelFlags(*app, options->model, true);
  AddBatches(*app, options->batches);
  AddLengths(*app, options->input_tokens, options->output_tokens, 2);
  app->add_flag("--json", options->json, "Print JSON, one object a line");
  app->footer("Example: conclave bench ablation --model qwen3-30b-a3b --device cuda --batch 1,8");
  app->callback([options, &invocation] {
    invocation.verb = "bench ablation";
    invocation.run = [options](const auto& cancelled) {
      return RunBenchAblation(*options, cancelled);
    };
  });
}

void AddBenchCalibrate(CLI::App& bench, Invocation& invocation) {
  auto* app = bench.add_subcommand("calibrate", "Measure this machine as a hardware profile");
  auto options = std::make_shared<BenchCalibrateOptions>();
  app->add_option("--device", options->device, "cpu, cuda or cuda:N")->capture_default_str();
  app->add_option("--threads", options->threads, "CPU threads (default: processors)")
      ->check(CLI::Range(1, 1024));
  app->add_option("--output,-o", options->output_path,
                  "YAML file for plan --profile; without it a table is printed");
  app->footer("Example: conclave bench calibrate --device cpu --output cpu.yaml");
  app->callback([options, &invocation] {
    invocation.verb = "bench calibrate";
    invocation.run = [options](const auto& cancelled) {
      return RunBenchCalibrate(*options, cancelled);
    };
  });
}

void AddBenchPlan(CLI::App& bench, Invocation& invocation) {
  auto* app = bench.add_subcommand("plan", "How right plan is here: predicted against measured");
  auto options = std::make_shared<BenchPlanOptions>();
  app->add_option("--model,-m", options->models, "Checkpoint folders or presets")->required();
  app->add_option("--parallel,-p", options->grids, "Grids, such as tp=1 tp=2,dp=2")
      ->capture_default_str();
  AddBatches(*app, options->batches);
  app->add_option("--device", options->device, "cpu, cuda or cuda:N")->capture_default_str();
  app->add_option("--exchange", options->exchange, "pcc, naive or two-level")
      ->capture_default_str();
  app->add_option("--profile", options->profile_path,
                  "What bench calibrate wrote; without it this machine is measured first");
  AddLengths(*app, options->input_tokens, options->output_tokens, 2);
  app->add_option("--max-num-batched-tokens", options->batch_tokens_max)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_flag("--json", options->json, "Print JSON, one object a line");
  app->footer("Example: conclave bench plan --model olmoe-1b-7b --parallel tp=1 --parallel tp=2");
  app->callback([options, &invocation] {
    invocation.verb = "bench plan";
    invocation.run = [options](const auto& cancelled) { return RunBenchPlan(*options, cancelled); };
  });
}

void AddBench(CLI::App& root, Invocation& invocation) {
  auto* bench = root.add_subcommand(
      "bench", "Measure: latency, kernels, ablation, serve, fabric, plan, calibrate");
  bench->require_subcommand(1);
  AddBenchKernels(*bench, invocation);
  AddBenchServe(*bench, invocation);
  AddBenchFabric(*bench, [&invocation](const std::string& verb, LongRun run) {
    invocation.verb = verb;
    invocation.run = std::move(run);
  });
  AddBenchAblation(*bench, invocation);
  AddBenchCalibrate(*bench, invocation);
  AddBenchPlan(*bench, invocation);
  auto* app = bench->add_subcommand("latency", "Prefill and decode time of one batch");
  auto options = std::make_shared<BenchLatencyOptions>();
  AddModelFlags(*app, options->model, true);
  AddBatches(*app, options->batches);
  AddLengths(*app, options->input_tokens, options->output_tokens, 1);
  app->add_option("--trace", options->trace_path, "Chrome trace of the operators (on GPUs)");
  app->add_flag("--json", options->json, "Print JSON");
  app->footer(
      "Example: conclave bench latency --model olmoe-1b-7b --batch 1 --input-len 128 "
      "--output-len 32");
  app->callback([options, &invocation] {
    invocation.verb = "bench latency";
    invocation.run = [options](const auto& cancelled) {
      return RunBenchLatency(*options, cancelled);
    };
  });
}

int ExitCode(const Invocation& invocation, const absl::Status& status) {
  if (status.ok()) return 0;
  if (status.code() == absl::StatusCode::kCancelled) {
    std::cerr << "conclave " << invocation.verb << ": interrupted\n";
    return kExitInterrupted;
  }
  std::cerr << "conclave " << invocation.verb << ": error: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailure;
}

int Main(int argc, char** argv) {
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = google::GLOG_WARNING;
  google::InitGoogleLogging(argv[0]);
  CLI::App root("Conclave: a distributed runtime for Mixture-of-Experts inference", "conclave");
  root.require_subcommand(1);
  root.fallthrough(false);
  Invocation invocation;
  AddDemo(root, invocation);
  AddServe(root, invocation);
  AddCoordinator(root, invocation);
  AddWorker(root, invocation);
  AddGenerate(root, invocation);
  AddStatus(root, invocation);
  AddLogits(root, invocation);
  AddBench(root, invocation);
  AddDoctor(root, [&invocation](const std::string& verb, LongRun run) {
    invocation.verb = verb;
    invocation.run = std::move(run);
  });
  AddPlanVerbs(root, [&invocation](const std::string& verb, std::function<absl::Status()> run) {
    invocation.verb = verb;
    invocation.run = [run = std::move(run)](const auto&) { return run(); };
  });
  const std::string verb = argc > 1 ? argv[1] : "-";
  const auto is_verb = [&verb](const CLI::App* app) { return app->get_name() == verb; };
  if (verb[0] != '-' && std::as_const(root).get_subcommands(is_verb).empty()) {
    std::cerr << "conclave: '" << verb << "' is not a verb; `conclave --help` lists them\n";
    return kExitUsage;
  }
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = root.exit(error);
    return code == 0 ? 0 : kExitUsage;
  }
  std::atomic<bool> cancelled{false};
  std::unique_ptr<SignalWatch> signals;
  if (!invocation.handles_signals) {
    signals = std::make_unique<SignalWatch>([&cancelled](int count) {
      cancelled = true;
      if (count > 1) _exit(kExitInterrupted);  // the second Ctrl-C does not wait for a clean stop
    });
    curl_global_init(CURL_GLOBAL_DEFAULT);
  } else {
    FLAGS_minloglevel = google::GLOG_INFO;
  }
  return ExitCode(invocation, invocation.run(cancelled));
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
