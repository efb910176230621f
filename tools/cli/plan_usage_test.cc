// The planner's verbs as a user meets them: the real program, its exit codes and what it prints.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/cli/exact_json.h"
#include "tools/cli/subprocess.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Outcome {
  std::string end;
  std::string output;  // stdout and stderr
};

std::string TempPath(const std::string& name) {
  return absl::StrCat(getenv("TEST_TMPDIR"), "/", name);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

Outcome RunConclave(std::vector<std::string> arguments) {
  const std::string log = TempPath("output.log");
  std::filesystem::remove(log);
  arguments.insert(
      arguments.begin(),
      absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"), "/tools/cli/conclave"));
  absl::StatusOr<Subprocess> child = Subprocess::Start({arguments, log, -1, true});
  EXPECT_TRUE(child.ok());
  const std::string end = child->WaitOrKill(absl::Seconds(30));
  return {end, ReadFile(log)};
}

std::vector<std::string> Plan(std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"plan", "--model", "qwen3-30b-a3b", "--cluster", "h200:8"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(PlanUsageTest, UsageErrorsExitWithTwoAndNameTheFlag) {
  const std::string bad = TempPath("bad.json");
  std::ofstream(bad) << "{\"format\": \"conclave-plan\", \"version\": 7}";
  const struct {
    std::vector<std::string> arguments;
    std::vector<const char*> says;
  } kCases[] = {
      {{"plan"}, {"--model is required"}},
      {{"plan", "--model", "kimi-k2"}, {"--cluster is required", "h200:16"}},
      {{"plan", "--model", "kimi-k3", "--cluster", "h200:8"}, {"did you mean 'kimi-k2'"}},
      {Plan({"--parallel", "tp=16,dp=4"}), {"--parallel", "64 devices"}},
      {Plan({"--objective", "fun"}), {"--objective", "latency, throughput or cost"}},
      {Plan({"--concurrency", "0"}), {"--concurrency"}},
      {Plan({"--ttft", "soon"}), {"--ttft", "250ms"}},
      {Plan({"--compare", "/nonexistent"}), {"--compare", "/nonexistent"}},
      {Plan({"--output", "/nonexistent/plan.json"}), {"--output", "/nonexistent/plan.json"}},
      {{"plan", "explain", bad}, {"version", "7"}},
      {{"plan", "diff", bad}, {"after"}},
      {{"plan", "diff", "/nonexistent", bad}, {"/nonexistent"}},
      {{"simulate", "--model", "kimi-k2"}, {"--cluster is required"}},
      {{"simulate", "--model", "qwen3-30b-a3b", "--cluster", "h200:16", "--lose", "nod-1"},
       {"--lose", "nod-1", "did you mean"}},
      {{"simulate", "--model", "llama-3.1-8b", "--cluster", "h200:8", "--skew", "1"}, {"--skew"}},
  };
  for (const auto& test : kCases) {
    const Outcome outcome = RunConclave(test.arguments);
    EXPECT_EQ(outcome.end, "exit 2") << outcome.output;
    for (const char* part : test.says) EXPECT_THAT(outcome.output, HasSubstr(part));
  }
}

TEST(PlanUsageTest, WhatCannotBeExitsWithOne) {
  Outcome outcome = RunConclave({"plan", "--model", "kimi-k2", "--cluster", "a6000:2"});
  EXPECT_EQ(outcome.end, "exit 1") << outcome.output;
  outcome = RunConclave(Plan({"--tpot", "1us"}));
  EXPECT_EQ(outcome.end, "exit 1") << outcome.output;
}

TEST(PlanUsageTest, HelpHasAnExample) {
  for (const std::vector<std::string>& verb : std::vector<std::vector<std::string>>{
           {"plan"}, {"plan", "diff"}, {"plan", "explain"}, {"simulate"}}) {
    std::vector<std::string> arguments = verb;
    arguments.push_back("--help");
    const Outcome outcome = RunConclave(arguments);
    EXPECT_EQ(outcome.end, "exit 0") << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("Example"));
  }
}

TEST(PlanUsageTest, JsonStandsAloneAndExplainWritesTheSameBytes) {
  const std::string first = TempPath("first.json");
  const std::string again = TempPath("again.json");
  const std::string page = TempPath("plan.html");
  const Outcome outcome = RunConclave(Plan({"--json", "--output", first, "--html", page}));
  ASSERT_EQ(outcome.end, "exit 0") << outcome.output;
  EXPECT_TRUE(ParseExactJson(outcome.output, "stdout").ok());
  EXPECT_EQ(outcome.output, ReadFile(first));
  EXPECT_THAT(ReadFile(page), HasSubstr("</html>"));
  const Outcome explained = RunConclave({"plan", "explain", first, "--output", again});
  EXPECT_EQ(explained.end, "exit 0") << explained.output;
  EXPECT_EQ(ReadFile(again), ReadFile(first));
  EXPECT_THAT(explained.output, HasSubstr("WHY"));
  EXPECT_THAT(explained.output, Not(HasSubstr("note:")));
  EXPECT_THAT(explained.output, Not(HasSubstr("\x1b")));
  const Outcome same = RunConclave({"plan", "diff", first, again});
  EXPECT_EQ(same.end, "exit 0") << same.output;
  EXPECT_THAT(same.output, HasSubstr("none: the same question"));
  // An edited figure is noticed.
  std::string edited = ReadFile(first);
  const size_t at = edited.find("\"tpot_seconds\": 0.");
  ASSERT_NE(at, std::string::npos);
  edited[at + 19] = edited[at + 19] == '9' ? '8' : '9';
  std::ofstream(again) << edited;
  EXPECT_THAT(RunConclave({"plan", "explain", again}).output, HasSubstr("note:"));
}

TEST(PlanUsageTest, CompareAndDiffShowMovesBetweenGrids) {
  const std::string old = TempPath("old.json");
  ASSERT_EQ(RunConclave(Plan({"--parallel", "tp=2,dp=2", "--output", old})).end, "exit 0");
  const std::string now = TempPath("now.json");
  const Outcome compared =
      RunConclave(Plan({"--parallel", "tp=1,dp=8", "--output", now, "--compare", old}));
  EXPECT_EQ(compared.end, "exit 0") << compared.output;
  EXPECT_THAT(compared.output, HasSubstr("WEIGHTS THAT MOVE"));
  EXPECT_THAT(compared.output, HasSubstr("copies of slices"));
  const Outcome diff = RunConclave({"plan", "diff", old, now, "--json"});
  EXPECT_EQ(diff.end, "exit 0") << diff.output;
  const auto json = ParseExactJson(diff.output, "stdout");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_TRUE(json->at("movable").as_bool()) << diff.output;
  EXPECT_GT(json->at("moved_bytes").as_int64(), 0);
}

TEST(PlanUsageTest, SimulateRepeatsItselfAndAnswersWhatIf) {
  const std::vector<std::string> arguments = {"simulate",
                                              "--model",
                                              "qwen3-30b-a3b",
                                              "--cluster",
                                              "h200:16",
                                              "--concurrency",
                                              "64",
                                              "--parallel",
                                              "tp=1,dp=16",
                                              "--steps",
                                              "5",
                                              "--skew",
                                              "0.8",
                                              "--redundant-experts",
                                              "16",
                                              "--lose",
                                              "node-1",
                                              "--add-nodes",
                                              "1",
                                              "--json"};
  const Outcome first = RunConclave(arguments);
  ASSERT_EQ(first.end, "exit 0") << first.output;
  const auto json = ParseExactJson(first.output, "stdout");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->at("scenarios").as_array().size(), 5);
  EXPECT_EQ(RunConclave(arguments).output, first.output);
}

}  // namespace
}  // namespace conclave
