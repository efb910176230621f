// CoordinatorService: the ClusterService of a process: each call posts to the coordinator actor's
// mailbox. Thread-safe; owned by main, outlived by the actor and the mailbox.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "comm/actor/actor_system.h"
#include "coordinator/coordinator_actor.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

class CoordinatorService : public ClusterService {
 public:
  CoordinatorService(CoordinatorActor& actor, Mailbox& mailbox)
      : actor_(actor), mailbox_(mailbox) {}

  // When the actor has stopped or its mailbox is full, OnFinish comes on the caller's thread,
  // before Submit returns.
  RequestId Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) override;
  void Cancel(RequestId id) override;
  // `done` is dropped when the actor has stopped.
  void GetStatus(std::function<void(const ClusterStatus&)> done) override;
  void GetExpertLoads(std::function<void(const LoadProfile&)> done) override;
  void Drain() override;

 private:
  CoordinatorActor& actor_;
  Mailbox& mailbox_;
  std::atomic<uint64_t> last_request_{0};
};

}  // namespace conclave
