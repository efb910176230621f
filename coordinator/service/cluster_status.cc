#include "coordinator/service/cluster_status.h"

#include "glog/logging.h"

namespace conclave {

const char* WorkerStateName(WorkerState state) {
  switch (state) {
    case WorkerState::kJoined:
      return "joined";
    case WorkerState::kLoading:
      return "loading";
    case WorkerState::kPrepared:
      return "prepared";
    case WorkerState::kReady:
      return "ready";
    case WorkerState::kSuspect:
      return "suspect";
    case WorkerState::kLost:
      return "lost";
  }
  LOG(FATAL) << "no such worker state: " << static_cast<int>(state);
}

const char* ClusterStateName(ClusterState state) {
  switch (state) {
    case ClusterState::kWaiting:
      return "waiting";
    case ClusterState::kLoading:
      return "loading";
    case ClusterState::kServing:
      return "serving";
    case ClusterState::kDraining:
      return "draining";
  }
  LOG(FATAL) << "no such cluster state: " << static_cast<int>(state);
}

}  // namespace conclave
