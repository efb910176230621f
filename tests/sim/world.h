// World: a whole cluster in one thread under virtual time: the coordinator and worker actors of the
// product, fake engines, a simulated network, a ledger of requests and the invariants of every
// message. Built for one scenario; one thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/actor/sim_actor_system.h"
#include "comm/base/rng.h"
#include "tests/sim/invariants.h"
#include "tests/sim/ledger.h"
#include "tests/sim/scenario.h"
#include "worker/engine/fake_engine.h"

namespace conclave {

class World {
 public:
  explicit World(Scenario scenario);
  ~World();

  const Scenario& scenario() const { return scenario_; }
  SimActorSystem& system() { return system_; }
  Ledger& ledger() { return ledger_; }
  const Invariants& invariants() const { return invariants_; }
  // "w0", "w1": peers of the workers.
  const std::vector<std::string>& workers() const { return workers_; }
  // The engine of a worker that lives; null when it is down.
  FakeEngine* engine(const std::string& worker);

  // Submits now; ids ascend.
  RequestId Submit(GenerationRequest request, bool must_succeed);
  void Cancel(RequestId id);
  // SIGKILL of the coordinator; Submit fails and Status is empty until it is restarted.
  void CrashCoordinator();
  ClusterStatus Status();

  // A request drawn from `rng` that the cluster can serve.
  GenerationRequest MakeRequest(Rng& rng) const;

  // Ends all faults: a good network, nobody paused, cut off, hung or dead.
  void Heal();

  // The last events, oldest first, and with `verbose` each as it happens.
  void SetVerbose(bool verbose) { verbose_ = verbose; }
  std::vector<std::string> RecentEvents() const;

 private:
  void AddWorker(int index);
  void OnEvent(const SimEvent& event);

  const Scenario scenario_;
  SimActorSystem system_;
  Ledger ledger_;
  Invariants invariants_;
  std::vector<std::string> workers_;
  std::map<std::string, FakeEngine*> engines_;
  uint64_t coordinator_starts_ = 0;
  uint64_t last_worker_id_ = 0;
  uint64_t last_request_ = 0;
  bool verbose_ = false;
  std::vector<std::string> recent_;  // a ring of kRecentMax
  size_t recent_next_ = 0;
};

}  // namespace conclave
