#include "tests/sim/world.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/coordinator_actor.h"
#include "tests/sim/canary_engine.h"
#include "worker/worker_actor.h"

namespace conclave {
namespace {

constexpr size_t kRecentMax = 60;
// More than one life of a coordinator can begin in a run.
constexpr uint64_t kEpochsOfAStart = 1000;

SimActorSystem::Options SystemOptions(const Scenario& scenario) {
  SimActorSystem::Options options;
  options.seed = scenario.seed;
  options.peer_lost_hints = scenario.peer_lost_hints;
  return options;
}

}  // namespace

World::World(Scenario scenario)
    : scenario_(std::move(scenario)),
      system_(SystemOptions(scenario_)),
      ledger_(scenario_.coordinator.shape.vocab, scenario_.coordinator.shape.eos_token_ids),
      invariants_(ledger_) {
  system_.SetObserver([this](const SimEvent& event) { OnEvent(event); });
  system_.AddActor(kCoordinatorPeer, [this] {
    CoordinatorOptions options = scenario_.coordinator;
    options.last_epoch = Epoch{kEpochsOfAStart * coordinator_starts_++};
    return std::make_unique<CoordinatorActor>(options);
  });
  for (int i = 0; i < scenario_.workers; ++i) AddWorker(i);
}

World::~World() = default;

void World::AddWorker(int index) {
  const std::string name = absl::StrCat("w", index);
  workers_.push_back(name);
  system_.AddActor(name, [this, name, index] {
    WorkerActor::Options options;
    options.id = WorkerId{++last_worker_id_};
    options.hello.name = name;
    options.hello.node = absl::StrCat("node-", index / 2);
    options.hello.process = static_cast<int64_t>(1000 + last_worker_id_);
    FakeEngineOptions engine;
    engine.kv_pages = scenario_.kv_pages;
    engine.prepare_time = scenario_.prepare_time;
    engine.step_time = scenario_.step_time;
    // A post belongs to the life that made it: a crash takes what the engine was doing along.
    engine.schedule = [this, name](absl::Duration delay, std::function<void()> work) {
      system_.PostAfter(name, delay, [work = std::move(work)](ActorContext&) { work(); });
    };
    return std::make_unique<WorkerActor>(
        options, system_.mailbox(name), [&](EngineListener& listener) {
          return MakeSimEngine(scenario_.canary, engine, listener, &engines_[name]);
        });
  });
}

FakeEngine* World::engine(const std::string& worker) {
  return system_.Alive(worker) ? engines_.at(worker) : nullptr;
}

void World::OnEvent(const SimEvent& event) {
  invariants_.OnEvent(event);
  if (verbose_) std::printf("%s\n", event.ToString().c_str());
  if (event.envelope == nullptr || std::holds_alternative<Heartbeat>(event.envelope->message)) {
    return;
  }
  if (recent_.size() < kRecentMax) recent_.emplace_back();
  recent_[recent_next_] = event.ToString();
  recent_next_ = (recent_next_ + 1) % kRecentMax;
}

std::vector<std::string> World::RecentEvents() const {
  std::vector<std::string> events;
  const size_t first = recent_.size() < kRecentMax ? 0 : recent_next_;
  for (size_t i = 0; i < recent_.size(); ++i) {
    events.push_back(recent_[(first + i) % recent_.size()]);
  }
  return events;
}

RequestId World::Submit(GenerationRequest request, bool must_succeed) {
  const RequestId id{++last_request_};
  auto sink = ledger_.Open(id, request, must_succeed);
  const bool posted = system_.Post(
      kCoordinatorPeer, [this, id, request = std::move(request), sink](ActorContext& ctx) {
        auto* actor = static_cast<CoordinatorActor*>(system_.actor(kCoordinatorPeer));
        actor->Submit(ctx, id, request, sink);
      });
  if (!posted) sink->OnFinish(FinishReason::kError, absl::UnavailableError("no coordinator"));
  return id;
}

void World::Cancel(RequestId id) {
  ledger_.MarkCancelled(id);
  system_.Post(kCoordinatorPeer, [this, id](ActorContext& ctx) {
    static_cast<CoordinatorActor*>(system_.actor(kCoordinatorPeer))->Cancel(ctx, id);
  });
}

void World::CrashCoordinator() {
  system_.Crash(kCoordinatorPeer);
  ledger_.CloseOpen();
}

ClusterStatus World::Status() {
  auto* actor = static_cast<CoordinatorActor*>(system_.actor(kCoordinatorPeer));
  return actor == nullptr ? ClusterStatus() : actor->Status(system_.Now());
}

GenerationRequest World::MakeRequest(Rng& rng) const {
  GenerationRequest request;
  const int prompt = 1 + static_cast<int>(rng.Below(20));
  for (int i = 0; i < prompt; ++i) {
    request.prompt.push_back(static_cast<int32_t>(rng.Below(scenario_.coordinator.shape.vocab)));
  }
  request.tokens_max = 1 + static_cast<int32_t>(rng.Below(20));
  request.want_logits = rng.Chance(1, 5);
  if (request.want_logits && rng.Chance(1, 2)) request.tokens_max = 0;
  request.ignore_eos = rng.Chance(1, 3);
  if (rng.Chance(1, 3)) {
    request.stop_token_ids = {static_cast<int32_t>(rng.Below(scenario_.coordinator.shape.vocab))};
  }
  return request;
}

void World::Heal() {
  system_.network().UnblockAll();
  system_.network().ClearLinks();
  system_.network().SetDefaults(NetworkOptions());
  system_.Resume(kCoordinatorPeer);
  if (!system_.Alive(kCoordinatorPeer)) system_.Restart(kCoordinatorPeer);
  for (const std::string& worker : workers_) {
    system_.Resume(worker);
    if (!system_.Alive(worker)) system_.Restart(worker);
  }
}

}  // namespace conclave
