#include "coordinator/coordinator_service.h"

#include <utility>

namespace conclave {

RequestId CoordinatorService::Submit(GenerationRequest request,
                                     std::shared_ptr<GenerationSink> sink) {
  const RequestId id{last_request_.fetch_add(1) + 1};
  const auto work = [this, id, request = std::move(request), sink](ActorContext& ctx) {
    actor_.Submit(ctx, id, request, sink);
  };
  if (!mailbox_.Post(work)) {
    sink->OnFinish(
        FinishReason::kError,
        absl::UnavailableError("the coordinator has stopped or is overloaded; try again"));
  }
  return id;
}

// Refused only by an actor that has stopped, which ended the request, or that is overloaded and
// will finish it.
void CoordinatorService::Cancel(RequestId id) {
  mailbox_.Post([this, id](ActorContext& ctx) { actor_.Cancel(ctx, id); });
}

void CoordinatorService::GetStatus(std::function<void(const ClusterStatus&)> done) {
  mailbox_.Post(
      [this, done = std::move(done)](ActorContext& ctx) { done(actor_.Status(ctx.Now())); });
}

void CoordinatorService::GetExpertLoads(std::function<void(const LoadProfile&)> done) {
  mailbox_.Post([this, done = std::move(done)](ActorContext&) { done(actor_.ExpertCounts()); });
}

void CoordinatorService::Drain() {
  mailbox_.Post([this](ActorContext& ctx) { actor_.Drain(ctx); });
}

}  // namespace conclave
