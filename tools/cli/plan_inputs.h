// What `plan` and `simulate` are asked, as flags say it, and the search's input that follows. Reads
// the files that flags name; decides nothing. Any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "placement/balance/expert_balance.h"
#include "placement/search/search.h"
#include "tools/cli/plan_model.h"

namespace conclave {

// The flags that say which model runs where and for whom; of `plan` and of `simulate`.
struct PlanQuestion {
  std::string model;
  std::string cluster;       // a YAML file, or PROFILE:COUNT[,PROFILE:COUNT]
  std::string profile_path;  // calibrated; replaces the cluster's profile of its name
  PlanFormats formats;
  std::string objective = "latency";
  std::string parallel;           // empty: searched
  std::string exchange = "auto";  // auto: searched
  double concurrency = 0;         // sequences; 0: the objective decides
  int input_tokens = 1024;
  int output_tokens = 256;
  std::string ttft;  // "250ms", "2s", "0.25" (seconds); empty: none
  std::string tpot;
  std::string trace_path;  // JSON counts of tokens by MoE layer and expert
  int runners_up = 5;
};

// All that decides a plan: equal inputs give equal plans bit for bit.
struct PlanInputs {
  SearchInput search;
  LoadProfile load;  // empty: experts are taken as equally busy
};

// InvalidArgument names the flag, the value and the remedy.
absl::StatusOr<PlanInputs> MakePlanInputs(const PlanQuestion& question);

// The file that `bench calibrate` wrote. InvalidArgument names `flag` or the file's line.
absl::StatusOr<MeasuredHardware> ReadMeasuredHardware(const std::string& flag,
                                                      const std::string& path);

// Seconds of "250ms", "80us", "2s" or "0.25"; more than 0. InvalidArgument names `flag`.
absl::StatusOr<double> ParseSeconds(const std::string& flag, const std::string& text);

// "auto" is no schedule: nullopt.
absl::StatusOr<std::optional<ScheduleKind>> ParseSchedule(const std::string& flag,
                                                          const std::string& text);

// ep of a spec for `model`, checked against the cluster's devices. InvalidArgument names the key.
absl::StatusOr<ParallelSpec> ResolvePlanSpec(ParallelSpec spec, const ModelDims& model,
                                             int devices);

// `text`: {"counts": [[tokens of each expert], ...]} with a row for each MoE layer, or for each
// layer of the model (rows of dense layers are left out). InvalidArgument names `context`, row and
// value.
absl::StatusOr<LoadProfile> ParseLoadTrace(const std::string& text, const std::string& context,
                                           const ModelDims& model);

}  // namespace conclave
