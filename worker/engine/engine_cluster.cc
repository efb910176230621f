#include "worker/engine/engine_cluster.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {

ParallelPlan BlockPlan(const ParallelSpec& spec, const ModelShape& shape, Epoch epoch) {
  ParallelPlan plan;
  plan.epoch = epoch;
  plan.spec = spec;
  for (int i = 0; i < spec.WorkerCount(); ++i) plan.workers.push_back(WorkerId{100ULL + i});
  for (int p = 0; p < spec.pp; ++p) {
    plan.stages.push_back({p * shape.layers / spec.pp, (p + 1) * shape.layers / spec.pp});
  }
  for (int layer = 0; layer < shape.layers; ++layer) {
    std::vector<std::vector<int32_t>> owners;
    if (shape.IsMoeLayer(layer)) {
      for (int e = 0; e < shape.moe.experts; ++e) {
        const int group = e * spec.ep / shape.moe.experts;
        for (int s = 0; s < spec.slices; ++s) owners.push_back({group * spec.slices + s});
      }
    }
    plan.experts.layers.emplace_back(shape.IsMoeLayer(layer) ? spec.slices : 1, owners);
  }
  return plan;
}

// Collects what an engine reports; the driver waits for it.
class EngineCluster::Listener : public EngineListener {
 public:
  explicit Listener(absl::Duration timeout) : timeout_(timeout) {}

  void OnPrepared(Epoch epoch, Prepared prepared) override {
    absl::MutexLock lock(&mutex_);
    if (epoch == epoch_) prepared_ = std::move(prepared);
  }
  void OnConnected(Epoch epoch) override {
    absl::MutexLock lock(&mutex_);
    if (epoch == epoch_) connected_ = true;
  }
  void OnLogits(Epoch epoch, Logits logits) override {
    absl::MutexLock lock(&mutex_);
    if (epoch == epoch_) logits_.push_back(std::move(logits));
  }
  void OnStepDone(Epoch epoch, StepResult result) override {
    absl::MutexLock lock(&mutex_);
    if (epoch == epoch_) results_.push_back(std::move(result));
  }
  void OnFault(Epoch epoch, StepId step, absl::Status status) override {
    absl::MutexLock lock(&mutex_);
    if (epoch == epoch_ && fault_.ok()) fault_ = std::move(status);
  }

  void Expect(Epoch epoch) {
    absl::MutexLock lock(&mutex_);
    epoch_ = epoch;
    prepared_.reset();
    connected_ = false;
    logits_.clear();
    results_.clear();
    fault_ = absl::OkStatus();
  }
  absl::StatusOr<Prepared> WaitPrepared() {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(WaitLocked(
        "Prepared", [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return prepared_.has_value(); }));
    return *prepared_;
  }
  absl::Status WaitConnected() {
    absl::MutexLock lock(&mutex_);
    return WaitLocked("Connected", [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return connected_; });
  }
  absl::StatusOr<StepResult> WaitResult() {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(WaitLocked(
        "StepDone", [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !results_.empty(); }));
    StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }
  absl::Status WaitFault() {
    absl::MutexLock lock(&mutex_);
    return WaitLocked("Fault", [] { return false; });
  }
  std::vector<Logits> TakeLogits() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(logits_, {});
  }

 private:
  // Until `done`, or a fault, which is returned.
  template <typename Done>
  absl::Status WaitLocked(const char* what, const Done& done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto over = [this, &done]()
                          ABSL_NO_THREAD_SAFETY_ANALYSIS { return !fault_.ok() || done(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&over), timeout_)) {
      return absl::DeadlineExceededError(absl::StrCat("no ", what, " within the test's timeout"));
    }
    return fault_;
  }

  const absl::Duration timeout_;
  absl::Mutex mutex_;
  Epoch epoch_ ABSL_GUARDED_BY(mutex_);
  std::optional<Prepared> prepared_ ABSL_GUARDED_BY(mutex_);
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Logits> logits_ ABSL_GUARDED_BY(mutex_);
  std::deque<StepResult> results_ ABSL_GUARDED_BY(mutex_);
  absl::Status fault_ ABSL_GUARDED_BY(mutex_);
};

// A request on its way.
struct EngineCluster::Sequence {
  const EngineRequest* request = nullptr;
  EngineAnswer* answer = nullptr;
  RequestId id;
  int dp = 0;
  int start_step = 0;
  int computed = 0;  // tokens in the cache
  bool sampled_last_step = false;
  bool done = false;
  std::vector<int32_t> pages;
};

EngineCluster::EngineCluster(const EngineClusterOptions& options)
    : options_(options), hub_(LocalFabricHub::Create()) {
  for (int rank = 0; rank < options.spec.WorkerCount(); ++rank) {
    listeners_.push_back(std::make_unique<Listener>(options.timeout));
    engines_.push_back(MakeEngine(*listeners_.back()));
  }
}

std::unique_ptr<Engine> EngineCluster::MakeEngine(EngineListener& listener) const {
  const FabricEndpointFactory make_endpoint = [hub = hub_](const conclave::Assign&) {
    return hub->CreateEndpoint();
  };
  if (options_.gpu >= 0) {
    return CreateCudaEngine({options_.gpu, options_.threads, options_.memory_bytes, make_endpoint,
                             options_.peer_timeout, options_.trace, options_.tuning},
                            listener);
  }
  return CreateCpuEngine(
      {options_.threads, options_.memory_bytes, make_endpoint, options_.peer_timeout}, listener);
}

EngineCluster::~EngineCluster() = default;

Engine& EngineCluster::engine(int rank) { return *engines_[rank]; }

absl::StatusOr<std::unique_ptr<EngineCluster>> EngineCluster::Create(
    const EngineClusterOptions& options) {
  EngineClusterOptions resolved = options;
  ASSIGN_OR_RETURN(resolved.spec, ResolveParallelSpec(options.spec, options.shape));
  auto cluster = std::unique_ptr<EngineCluster>(new EngineCluster(resolved));
  ParallelPlan plan = BlockPlan(resolved.spec, options.shape, Epoch{1});
  plan.exchange = options.exchange;
  plan.payload = options.payload;
  RETURN_IF_ERROR(cluster->Assign(plan).status());
  return cluster;
}

absl::StatusOr<std::vector<Prepared>> EngineCluster::Assign(const ParallelPlan& plan) {
  CHECK_LE(plan.spec.WorkerCount(), static_cast<int>(engines_.size()));
  plan_ = plan;
  step_ = StepId{};
  const int ranks = plan.spec.WorkerCount();
  conclave::Assign assign;
  assign.shape = options_.shape;
  assign.source = options_.source;
  assign.plan = plan;
  assign.cache = options_.cache;
  assign.compute = options_.compute;
  for (int rank = 0; rank < ranks; ++rank) {
    assign.rank = rank;
    listeners_[rank]->Expect(plan.epoch);
    engines_[rank]->Prepare(plan.epoch, assign);
  }
  Commit commit;
  prepared_.clear();
  for (int rank = 0; rank < ranks; ++rank) {
    ASSIGN_OR_RETURN(Prepared prepared, listeners_[rank]->WaitPrepared());
    commit.fabric_addresses.push_back(prepared.fabric_address);
    commit.nodes.push_back(options_.nodes.empty() ? "test" : options_.nodes[rank]);
    prepared_.push_back(std::move(prepared));
  }
  for (int rank = 0; rank < ranks; ++rank) engines_[rank]->Connect(plan.epoch, commit);
  for (int rank = 0; rank < ranks; ++rank) RETURN_IF_ERROR(listeners_[rank]->WaitConnected());
  return prepared_;
}

absl::Status EngineCluster::WaitForFault(int rank) { return listeners_[rank]->WaitFault(); }

absl::StatusOr<std::vector<StepResult>> EngineCluster::Step(
    std::vector<std::vector<SequenceSlice>> batches) {
  CHECK_EQ(static_cast<int>(batches.size()), plan_.spec.dp);
  step_ = step_.Next();
  StepPlan plan;
  plan.epoch = plan_.epoch;
  plan.step = step_;
  for (const auto& batch : batches) {
    int32_t tokens = 0;
    for (const SequenceSlice& slice : batch) tokens += static_cast<int32_t>(slice.tokens.size());
    plan.tokens_by_dp.push_back(tokens);
  }
  const int ranks = plan_.spec.WorkerCount();
  for (int rank = 0; rank < ranks; ++rank) {
    plan.batch = batches[plan_.spec.PositionOf(rank).dp];
    engines_[rank]->RunStep(plan);
  }
  std::vector<StepResult> results;
  logits_.clear();
  for (int rank = 0; rank < ranks; ++rank) {
    ASSIGN_OR_RETURN(StepResult result, listeners_[rank]->WaitResult());
    CHECK(result.step == step_);
    results.push_back(std::move(result));
    for (Logits& logits : listeners_[rank]->TakeLogits()) logits_.push_back(std::move(logits));
  }
  return results;
}

absl::Status EngineCluster::AddSlices(std::vector<Sequence>& sequences, int chunk_tokens,
                                      std::vector<std::vector<SequenceSlice>>& batches) {
  for (Sequence& s : sequences) {
    if (s.done || static_cast<int>(step_.value) < s.start_step) continue;
    const int prompt = static_cast<int>(s.request->prompt.size());
    SequenceSlice slice;
    slice.request = s.id;
    slice.position = s.computed;
    slice.pages = s.pages;
    slice.want_logits = s.request->want_logits;
    slice.sampling = s.request->sampling;
    if (s.computed < prompt) {
      const int left = prompt - s.computed;
      const int count = chunk_tokens > 0 ? std::min(left, chunk_tokens) : left;
      const auto begin = s.request->prompt.begin() + s.computed;
      slice.tokens.assign(begin, begin + count);
      slice.sample = count == left && s.request->tokens_max > 0;
    } else {
      slice.tokens = {0};
      slice.from_previous_step = true;
      slice.sample = true;
    }
    s.computed += static_cast<int>(slice.tokens.size());
    // Pages up to the last token computed here, as a coordinator sends them.
    const int page_tokens = options_.cache.page_tokens;
    slice.pages.resize((s.computed + page_tokens - 1) / page_tokens);
    const int generated = s.computed - prompt + 1;
    s.done = s.computed >= prompt && generated >= std::max(1, s.request->tokens_max);
    batches[s.dp].push_back(std::move(slice));
  }
  return absl::OkStatus();
}

void EngineCluster::TakeResults(const std::vector<StepResult>& results,
                                std::vector<Sequence>& sequences) {
  std::map<RequestId, Sequence*> by_id;
  for (Sequence& s : sequences) by_id[s.id] = &s;
  for (const StepResult& result : results) {
    for (const SampledToken& token : result.tokens) {
      Sequence& s = *by_id.at(token.request);
      CHECK_EQ(token.position, s.computed);
      s.answer->tokens.push_back(token.token);
    }
  }
  const int64_t vocab = options_.shape.vocab;
  for (const Logits& fact : logits_) {
    Sequence& s = *by_id.at(fact.request);
    CHECK_EQ(fact.position * vocab, static_cast<int64_t>(s.answer->logits.size()));
    s.answer->logits.insert(s.answer->logits.end(), fact.values.begin(), fact.values.end());
  }
}

absl::StatusOr<EngineRun> EngineCluster::Run(const std::vector<EngineRequest>& requests,
                                             int chunk_tokens) {
  EngineRun run;
  run.answers.resize(requests.size());
  std::vector<Sequence> sequences(requests.size());
  std::vector<int32_t> next_page(plan_.spec.dp, 0);
  const int first_step = static_cast<int>(step_.value);
  for (size_t i = 0; i < requests.size(); ++i) {
    Sequence& s = sequences[i];
    s.request = &requests[i];
    s.answer = &run.answers[i];
    s.id = RequestId{++requests_};
    s.dp = requests[i].dp >= 0 ? requests[i].dp : static_cast<int>(i) % plan_.spec.dp;
    s.start_step = first_step + requests[i].start_step;
    const int tokens = static_cast<int>(requests[i].prompt.size()) + requests[i].tokens_max;
    const int pages = tokens / options_.cache.page_tokens + 1;
    for (int p = 0; p < pages; ++p) s.pages.push_back(next_page[s.dp]++);
    // Pages out of order: nothing may depend on their being neighbours.
    std::reverse(s.pages.begin(), s.pages.end());
  }
  const auto over = [&sequences] {
    return std::all_of(sequences.begin(), sequences.end(),
                       [](const Sequence& s) { return s.done; });
  };
  while (!over()) {
    std::vector<std::vector<SequenceSlice>> batches(plan_.spec.dp);
    RETURN_IF_ERROR(AddSlices(sequences, chunk_tokens, batches));
    ASSIGN_OR_RETURN(std::vector<StepResult> results, Step(std::move(batches)));
    TakeResults(results, sequences);
    run.steps.push_back(std::move(results));
  }
  return run;
}

}  // namespace conclave
