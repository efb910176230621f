#include "tools/cli/plan_flags.h"

#include <memory>

#include "tools/cli/plan.h"

namespace conclave {
namespace {

constexpr int kTokensMax = 1 << 24;

void AddQuestion(CLI::App& app, PlanQuestion& question) {
  app.add_option("--model,-m", question.model,
                 "Folder with a config.json, or a preset such as deepseek-v3, kimi-k2, "
                 "qwen3-235b-a22b, mixtral-8x7b (an unknown name lists all)");
  app.add_option(
      "--cluster,-c", question.cluster,
      "YAML file, or PROFILE:COUNT[,PROFILE:COUNT] such as h200:16 or h200:8,a100-80g:8");
  app.add_option("--profile", question.profile_path,
                 "Hardware profile that `bench calibrate` wrote; replaces the one of its name");
  app.add_option("--objective", question.objective, "latency, throughput or cost")
      ->capture_default_str();
  app.add_option("--parallel,-p", question.parallel,
                 "Grid: tp=T,dp=D,pp=P[,slices=S] (default: searched)");
  app.add_option("--exchange", question.exchange,
                 "MoE all-to-all schedule: auto (searched), naive, pcc or two-level")
      ->capture_default_str();
  app.add_option("--concurrency", question.concurrency,
                 "Sequences at once (default: 1 for latency, else searched)")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--input-len", question.input_tokens, "Tokens of a prompt, mean")
      ->check(CLI::Range(1, kTokensMax))
      ->capture_default_str();
  app.add_option("--output-len", question.output_tokens, "Tokens of an answer, mean")
      ->check(CLI::Range(1, kTokensMax))
      ->capture_default_str();
  app.add_option("--ttft", question.ttft, "Longest time to the first token: 250ms, 2s");
  app.add_option("--tpot", question.tpot, "Longest time between tokens: 30ms");
  app.add_option("--quantization,-q", question.formats.quantization,
                 "Weights: none, fp8, int8, int4, nf4 or mxfp4 (default: the checkpoint's)");
  app.add_option("--kv-cache-dtype", question.formats.kv_cache,
                 "auto, float32, float16, bfloat16, fp8 or int8")
      ->capture_default_str();
  app.add_option("--trace", question.trace_path,
                 "JSON {\"counts\": [[tokens of each expert], ...]}, a row for each MoE layer");
}

void AddOutputs(CLI::App& app, PlanOutputs& outputs) {
  app.add_flag("--json", outputs.json, "Print the plan file's JSON alone");
  app.add_option("--html", outputs.html_path, "Write a page that shows the plan");
  app.add_option("--output,-o", outputs.output_path,
                 "Write the plan file, for diff, explain and --compare");
}

// A subcommand of `plan` stands alone, so that `plan` itself cannot mark its flags as required.
absl::Status CheckGiven(const PlanQuestion& question) {
  if (question.model.empty()) {
    return absl::InvalidArgumentError("--model is required: a folder or a preset's name");
  }
  if (question.cluster.empty()) {
    return absl::InvalidArgumentError(
        "--cluster is required: a YAML file or PROFILE:COUNT, such as h200:16");
  }
  return absl::OkStatus();
}

void AddDiff(CLI::App& plan, const ChooseVerb& choose) {
  auto* app = plan.add_subcommand("diff", "What changes from one plan file to another");
  auto options = std::make_shared<PlanDiffOptions>();
  app->add_option("before", options->before_path, "Plan file")->required();
  app->add_option("after", options->after_path, "Plan file")->required();
  app->add_flag("--json", options->json, "Print JSON, with every move");
  app->footer("Example: conclave plan diff old.json new.json");
  app->callback(
      [options, choose] { choose("plan diff", [options] { return RunPlanDiff(*options); }); });
}

void AddExplain(CLI::App& plan, const ChooseVerb& choose) {
  auto* app = plan.add_subcommand("explain", "A plan file's table and reason, from its inputs");
  auto options = std::make_shared<PlanExplainOptions>();
  app->add_option("plan", options->path, "Plan file")->required();
  AddOutputs(*app, options->outputs);
  app->footer("Example: conclave plan explain plan.json --html plan.html");
  app->callback([options, choose] {
    choose("plan explain", [options] { return RunPlanExplain(*options); });
  });
}

void AddPlan(CLI::App& root, const ChooseVerb& choose) {
  auto* app = root.add_subcommand(
      "plan", "Where a model should run on a cluster, how fast, and why; needs no cluster");
  auto options = std::make_shared<PlanOptions>();
  AddQuestion(*app, options->question);
  app->add_option("--runners-up", options->question.runners_up, "Plans to show beside the best")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app->add_option("--compare", options->compare_path, "Plan file: show what changes from it");
  AddOutputs(*app, options->outputs);
  app->footer(
      "Examples:\n"
      "  conclave plan --model deepseek-v3 --cluster h200:16 --objective throughput --tpot 50ms\n"
      "  conclave plan --model ./model --cluster cluster.yaml --html plan.html -o plan.json\n"
      "Exit code 1: nothing fits, or nothing meets --ttft and --tpot; the error names the "
      "closest.");
  app->require_subcommand(0, 1);
  AddDiff(*app, choose);
  AddExplain(*app, choose);
  app->callback([app, options, choose] {
    if (!app->get_subcommands().empty()) return;
    choose("plan", [options]() -> absl::Status {
      const absl::Status given = CheckGiven(options->question);
      return given.ok() ? RunPlan(*options) : given;
    });
  });
}

void AddSimulate(CLI::App& root, const ChooseVerb& choose) {
  auto* app = root.add_subcommand(
      "simulate", "Steps of a plan in virtual time: percentiles, busiest links, what-if");
  auto options = std::make_shared<SimulateOptions>();
  AddQuestion(*app, options->question);
  app->add_option("--steps", options->steps, "Steps to draw")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app->add_option("--seed", options->seed, "Same question and seed, same result")
      ->capture_default_str();
  app->add_option("--skew", options->skew, "Zipf exponent of the experts' load; 0 is even")
      ->check(CLI::Range(0.0, 8.0))
      ->capture_default_str();
  app->add_option("--lose", options->lost_node, "Also without this node");
  app->add_option("--add-nodes", options->added_nodes, "Also with so many nodes more")
      ->check(CLI::Range(1, 4096));
  app->add_option("--redundant-experts", options->redundant_experts,
                  "Also with so many copies of experts more in each layer, rounded up to whole "
                  "slots of every rank")
      ->check(CLI::Range(1, 1 << 20));
  app->add_flag("--json", options->json, "Print JSON alone");
  app->footer(
      "Example: conclave simulate --model kimi-k2 --cluster h200:16 --concurrency 256 --skew 0.8 "
      "--redundant-experts 32 --lose node-1");
  app->callback([options, choose] {
    choose("simulate", [options]() -> absl::Status {
      const absl::Status given = CheckGiven(options->question);
      return given.ok() ? RunSimulate(*options) : given;
    });
  });
}

}  // namespace

void AddPlanVerbs(CLI::App& root, const ChooseVerb& choose) {
  AddPlan(root, choose);
  AddSimulate(root, choose);
}

}  // namespace conclave
