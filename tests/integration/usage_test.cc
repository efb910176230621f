// Bad input to the real program: every refusal names what is wrong and what to do, with exit code 2
// for usage and 1 for failure, and nothing hangs.

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/real_cluster.h"
#include "tools/cli/subprocess.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(30);

struct Outcome {
  std::string end;     // "exit 2"
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
  fs::remove(log);
  arguments.insert(arguments.begin(), ConclaveBinary());
  absl::StatusOr<Subprocess> child = Subprocess::Start({arguments, log, -1, true});
  EXPECT_TRUE(child.ok());
  const std::string end = child->WaitOrKill(kTimeout);
  return {end, ReadFile(log)};
}

// A copy of a golden checkpoint that a test may damage.
std::string CopyOf(const std::string& golden) {
  const std::string to = TempPath(absl::StrCat("model_", golden));
  fs::remove_all(to);
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(GoldenPath(golden))) {
    std::ofstream(absl::StrCat(to, "/", entry.path().filename().string()), std::ios::binary)
        << ReadFile(entry.path());
  }
  return to;
}

std::string TokensFile() {
  const std::string path = TempPath("ids.json");
  std::ofstream(path) << R"({"input_ids": [[1, 2, 3]]})";
  return path;
}

Outcome Generate(const std::string& model, const std::string& parallel = "tp=1") {
  return RunConclave({"generate", "--model", model, "--tokens", TokensFile(), "--max-tokens", "2",
                      "--json", "--parallel", parallel});
}

TEST(UsageTest, CommandLineErrorsExitWithTwo) {
  const struct {
    std::vector<std::string> arguments;
    const char* says;
  } kCases[] = {
      {{}, "subcommand"},
      {{"frobnicate"}, "frobnicate"},
      {{"generate", "--model", "/nonexistent", "--tokens", TokensFile()}, "/nonexistent"},
      {{"generate", "--model", GoldenPath("llama"), "--prompt", "x"}, "tokenizer.json"},
      {{"generate", "--model", GoldenPath("llama")}, "no prompt"},
      {{"generate", "--model", GoldenPath("llama"), "--tokens", "/nonexistent"}, "/nonexistent"},
      {{"generate", "--max-tokens", "many"}, "--max-tokens"},
      {{"logits", "--model", GoldenPath("llama"), "--tokens", TokensFile()}, "--out"},
      {{"bench", "latency", "--model", "olmoe-1b-7b", "--batch", "0"}, "--batch"},
  };
  for (const auto& test : kCases) {
    const Outcome outcome = RunConclave(test.arguments);
    EXPECT_EQ(outcome.end, "exit 2") << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(test.says));
  }
}

TEST(UsageTest, ParallelismThatCannotBeExitsWithTwo) {
  const struct {
    const char* model;
    const char* parallel;
    const char* says;
  } kCases[] = {
      {"llama", "tp=3", "tp=3"},
      {"llama", "tp=8", "attention heads"},
      {"llama", "dp=2,slices=2", "does not apply"},
      {"llama", "pp=9", "more workers than work"},
      {"qwen3_moe", "dp=32", "more workers than work"},
      {"qwen3_moe", "tp=2,ep=3", "ep=3"},
      {"qwen3_moe", "tp=two", "tp=two"},
  };
  for (const auto& test : kCases) {
    const Outcome outcome = Generate(GoldenPath(test.model), test.parallel);
    EXPECT_EQ(outcome.end, "exit 2") << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(test.says));
  }
}

TEST(UsageTest, DamagedCheckpointsAreNamed) {
  const std::string truncated = CopyOf("qwen3_moe");
  fs::resize_file(truncated + "/model.safetensors", 200000);
  Outcome outcome = Generate(truncated, "tp=2");
  EXPECT_EQ(outcome.end, "exit 1") << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("model.safetensors"));

  const std::string unknown = CopyOf("llama");
  std::string config = ReadFile(unknown + "/config.json");
  config.replace(config.find("\"model_type\": \"llama\""), 21, "\"model_type\": \"mamba\"");
  std::ofstream(unknown + "/config.json") << config;
  outcome = Generate(unknown);
  EXPECT_NE(outcome.end, "exit 0");
  EXPECT_THAT(outcome.output, HasSubstr("mamba"));

  const std::string renamed = CopyOf("llama");
  std::string file = ReadFile(renamed + "/model.safetensors");
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  file.replace(file.find(name), name.size(), "model.layers.1.mlp.xx_proj.weight");
  std::ofstream(renamed + "/model.safetensors", std::ios::binary) << file;
  outcome = Generate(renamed, "tp=2");
  EXPECT_EQ(outcome.end, "exit 1") << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(name));
}

TEST(UsageTest, AnOccupiedPortIsNamed) {
  const int taken = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  ASSERT_EQ(getsockname(taken, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = absl::StrCat(ntohs(address.sin_port));
  const std::string state = absl::StrCat("--state-dir=", TempPath("state"));
  Outcome outcome = RunConclave({"coordinator", "--model", GoldenPath("llama"), state, "--port",
                                 port, "--control", "tcp://127.0.0.1:*"});
  EXPECT_EQ(outcome.end, "exit 1") << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(port));
  outcome = RunConclave({"coordinator", "--model", GoldenPath("llama"), state, "--port", "0",
                         "--control", absl::StrCat("tcp://127.0.0.1:", port)});
  EXPECT_EQ(outcome.end, "exit 1") << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(port));
  close(taken);
}

// A worker with the key of another coordinator, and one whose own key is not on the list, are
// refused and say so.
TEST(UsageTest, WrongKeysAreRefused) {
  const auto cluster = StartCluster("tp=1");
  const auto other = StartCluster("tp=1");
  Outcome outcome = RunConclave({"worker", "--coordinator", cluster->control(), "--name",
                                 "intruder", "--state-dir", other->state_dir()});
  EXPECT_EQ(outcome.end, "exit 1") << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("key"));
  EXPECT_EQ(cluster->Client(false).Get("/health")->code, 200);
}

TEST(UsageTest, BenchLatencyReportsEveryFigure) {
  const Outcome outcome =
      RunConclave({"bench", "latency", "--model", DemoModelPath(), "--batch", "3", "--input-len",
                   "64", "--output-len", "32", "--parallel", "tp=2", "--json"});
  EXPECT_EQ(outcome.end, "exit 0") << outcome.output;
  for (const char* field :
       {"prefill_ms", "prefill_tokens_per_s", "decode_ms_p50", "decode_ms_p99",
        "decode_tokens_per_s", "decode_weight_bytes_per_step", "decode_gb_per_s",
        "memory_read_gb_per_s", "memory_bandwidth_share", "peak_memory_gb"}) {
    EXPECT_THAT(outcome.output, HasSubstr(absl::StrCat("\"", field, "\":")));
  }
}

}  // namespace
}  // namespace conclave
