#include "worker/engine/cpu_engine.h"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "glog/logging.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/engine/engine_cluster.h"
#include "worker/model/golden.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

EngineClusterOptions Options(const std::string& golden, const std::string& spec) {
  EngineClusterOptions options;
  options.source.path = GoldenFolder(golden);
  options.shape = GoldenShape(options.source.path);
  options.spec = ParseParallelSpec(spec).value();
  options.cache.pages_max = 32;
  return options;
}

SequenceSlice Prompt(uint64_t request, std::vector<int32_t> tokens, std::vector<int32_t> pages) {
  SequenceSlice slice;
  slice.request = RequestId{request};
  slice.tokens = std::move(tokens);
  slice.pages = std::move(pages);
  slice.sample = true;
  slice.sampling.temperature = 0;
  return slice;
}

std::unique_ptr<EngineCluster> MustCreate(const EngineClusterOptions& options) {
  auto cluster = EngineCluster::Create(options);
  CHECK(cluster.ok()) << cluster.status();
  return *std::move(cluster);
}

TEST(CpuEngineTest, AStepReportsWhatItDid) {
  auto cluster = MustCreate(Options("mixtral", "tp=2,dp=2"));
  const auto results = cluster->Step({{Prompt(1, {1, 2, 3, 4, 5}, {0})}, {}});
  ASSERT_TRUE(results.ok()) << results.status();
  int64_t served = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const StepResult& result = (*results)[rank];
    EXPECT_EQ(result.tokens.size(), rank == 0 ? 1u : 0u);
    EXPECT_GT(result.timings.total_us, 0);
    EXPECT_GT(result.weight_bytes_read, 0);
    const StepTimings& t = result.timings;
    EXPECT_LE(t.attention_us + t.experts_us + t.exchange_us + t.collective_us + t.head_us,
              t.total_us);
    for (const ExpertLoad& load : result.experts) {
      EXPECT_GT(load.tokens, 0);
      EXPECT_EQ(load.expert / 2, rank);  // 8 experts in blocks over 4 ranks
      served += load.tokens;
    }
    EXPECT_EQ(result.exchange.exchanges, 2 * 3);
    EXPECT_LE(result.exchange.peers_max, 1);
    EXPECT_LE(result.exchange.bytes, result.exchange.naive_bytes);
  }
  EXPECT_EQ(served, 5 * 2 * 3);  // tokens, top_k, layers
}

TEST(CpuEngineTest, LogitsFactsAreBounded) {
  auto cluster = MustCreate(Options("llama", "tp=2"));
  std::vector<int32_t> tokens(300, 7);
  SequenceSlice slice = Prompt(1, tokens, {});
  for (int p = 0; p < 19; ++p) slice.pages.push_back(p);
  slice.want_logits = true;
  const auto results = cluster->Step({{slice}});
  ASSERT_TRUE(results.ok()) << results.status();
  int next = 0;
  for (const Logits& fact : cluster->logits()) {
    EXPECT_EQ(fact.position, next);
    EXPECT_LE(fact.values.size() * sizeof(float), 512u << 10);
    next += static_cast<int>(fact.values.size()) / fact.vocab;
  }
  EXPECT_EQ(next, 300);
  EXPECT_EQ(cluster->logits().size(), 2u);
}

TEST(CpuEngineTest, WrongPlansAreFaultsAndANewEpochServesAgain) {
  auto cluster = MustCreate(Options("mixtral", "tp=1"));
  struct Case {
    const char* says;
    SequenceSlice slice;
  };
  SequenceSlice stale = Prompt(2, {0}, {0});
  stale.from_previous_step = true;
  const std::vector<Case> cases = {
      {"page 32 is outside", Prompt(1, {1}, {32})},
      {"positions 0 to 16", Prompt(1, std::vector<int32_t>(17, 1), {0})},
      {"token id 512", Prompt(1, {512}, {0})},
      {"from_previous_step", stale},
  };
  uint64_t epoch = 1;
  for (const Case& c : cases) {
    const auto results = cluster->Step({{c.slice}});
    EXPECT_EQ(results.status().code(), absl::StatusCode::kInvalidArgument) << c.says;
    EXPECT_THAT(std::string(results.status().message()), HasSubstr(c.says));
    const ParallelPlan plan = BlockPlan(ParseParallelSpec("tp=1,ep=1").value(),
                                        Options("mixtral", "").shape, Epoch{++epoch});
    ASSERT_TRUE(cluster->Assign(plan).ok());
    EXPECT_TRUE(cluster->Step({{Prompt(1, {1, 2}, {0})}}).ok());
  }
}

TEST(CpuEngineTest, AReplanReadsNothingAgain) {
  namespace fs = std::filesystem;
  EngineClusterOptions options = Options("mixtral", "tp=2");
  const fs::path copy = fs::path(::testing::TempDir()) / "replan_model";
  fs::remove_all(copy);
  fs::create_directories(copy);
  for (const char* file : {"config.json", "model.safetensors"}) {
    fs::copy_file(fs::path(options.source.path) / file, copy / file);
  }
  options.source.path = copy.string();
  auto cluster = MustCreate(options);
  const auto before = cluster->Step({{Prompt(1, {1, 2, 3}, {0})}});
  ASSERT_TRUE(before.ok());
  fs::remove_all(copy);
  const ParallelSpec spec = ParseParallelSpec("tp=2,ep=2").value();
  const auto again = cluster->Assign(BlockPlan(spec, options.shape, Epoch{2}));
  ASSERT_TRUE(again.ok()) << again.status();
  const auto after = cluster->Step({{Prompt(1, {1, 2, 3}, {0})}});
  ASSERT_TRUE(after.ok());
  EXPECT_EQ((*after)[0].tokens[0].token, (*before)[0].tokens[0].token);
  // Other slices would have to be read, and the folder is gone.
  const auto other =
      cluster->Assign(BlockPlan(ParseParallelSpec("tp=1,ep=1").value(), options.shape, Epoch{3}));
  EXPECT_FALSE(other.ok());
}

TEST(CpuEngineTest, AbortFreesARankThatWaitsForAPeer) {
  EngineClusterOptions options = Options("mixtral", "tp=2");
  options.peer_timeout = absl::Seconds(120);  // far longer than the test may take
  auto cluster = MustCreate(options);
  StepPlan plan;
  plan.epoch = Epoch{1};
  plan.step = StepId{1};
  plan.tokens_by_dp = {2};
  plan.batch = {Prompt(1, {1, 2}, {0})};
  cluster->engine(0).RunStep(plan);  // rank 1 never comes
  cluster->engine(0).Abort(Epoch{1}, "peer lost");
  cluster->engine(1).Abort(Epoch{1}, "peer lost");
  const ParallelSpec spec = ParseParallelSpec("tp=2,ep=2").value();
  ASSERT_TRUE(cluster->Assign(BlockPlan(spec, options.shape, Epoch{2})).ok());
  EXPECT_TRUE(cluster->Step({{Prompt(1, {1, 2}, {0})}}).ok());
}

TEST(CpuEngineTest, ALostPeerIsAFaultThatNamesIt) {
  EngineClusterOptions options = Options("mixtral", "tp=2");
  options.peer_timeout = absl::Milliseconds(200);
  auto cluster = MustCreate(options);
  StepPlan plan;
  plan.epoch = Epoch{1};
  plan.step = StepId{1};
  plan.tokens_by_dp = {2};
  plan.batch = {Prompt(1, {1, 2}, {0})};
  cluster->engine(0).RunStep(plan);
  const absl::Status fault = cluster->WaitForFault(0);
  EXPECT_EQ(fault.code(), absl::StatusCode::kDeadlineExceeded) << fault;
  EXPECT_THAT(std::string(fault.message()), HasSubstr("rank 1"));
}

TEST(CpuEngineTest, TooManyQueuedStepsAreAFault) {
  auto cluster = MustCreate(Options("mixtral", "tp=2"));
  StepPlan plan;
  plan.epoch = Epoch{1};
  plan.tokens_by_dp = {1};
  plan.batch = {Prompt(1, {1}, {0})};
  for (int i = 0; i < kStepsQueuedMax + 4; ++i) {
    plan.step = StepId{static_cast<uint64_t>(i) + 1};
    cluster->engine(0).RunStep(plan);  // the first waits for rank 1
  }
  const absl::Status fault = cluster->WaitForFault(0);
  EXPECT_EQ(fault.code(), absl::StatusCode::kResourceExhausted) << fault;
}

TEST(CpuEngineTest, ASmallBudgetIsRefusedWithNumbers) {
  EngineClusterOptions options = Options("mixtral", "tp=1");
  options.memory_bytes = 100 << 10;
  absl::Status status = EngineCluster::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("budget is 0.1 MiB"));
  options.memory_bytes = 64 << 20;
  auto cluster = MustCreate(options);
  EXPECT_EQ(cluster->prepared()[0].kv_pages, 32);
}

TEST(CpuEngineTest, PagesFollowTheBudget) {
  EngineClusterOptions options = Options("mixtral", "tp=1");
  options.cache.pages_max = 0;
  options.memory_bytes = 64 << 20;
  auto cluster = MustCreate(options);
  const Prepared& prepared = cluster->prepared()[0];
  // 3 layers of 2 kv heads of 16, K and V, in floats.
  const int64_t page_bytes = 3 * 2 * 2 * 16 * 16 * 4;
  EXPECT_EQ(prepared.kv_pages, (options.memory_bytes - prepared.weight_bytes) / page_bytes);
  EXPECT_FALSE(prepared.fabric_address.empty());
  EXPECT_GT(prepared.checkpoint_bytes_read, 0);
}

TEST(CpuEngineTest, AMissingFolderIsAFaultOfPrepare) {
  EngineClusterOptions options = Options("mixtral", "tp=1");
  options.source.path = "no/such/folder";
  const absl::Status status = EngineCluster::Create(options).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("no/such/folder"));
}

TEST(CpuEngineTest, ProgressGrowsWithWork) {
  auto cluster = MustCreate(Options("llama", "tp=1"));
  const uint64_t before = cluster->engine(0).progress();
  EXPECT_GT(before, 0u);
  ASSERT_TRUE(cluster->Step({{Prompt(1, {1}, {0})}}).ok());
  EXPECT_GE(cluster->engine(0).progress(), before + 3);
}

TEST(CpuEngineTest, DestructionDoesNotWaitForPeers) {
  EngineClusterOptions options = Options("mixtral", "tp=2");
  options.peer_timeout = absl::Seconds(120);
  auto cluster = MustCreate(options);
  StepPlan plan;
  plan.epoch = Epoch{1};
  plan.step = StepId{1};
  plan.tokens_by_dp = {1};
  plan.batch = {Prompt(1, {1}, {0})};
  cluster->engine(0).RunStep(plan);
  cluster.reset();
}

}  // namespace
}  // namespace conclave
