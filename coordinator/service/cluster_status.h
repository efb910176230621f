// ClusterStatus: one picture of the cluster at one moment, as `conclave status` and the dashboard
// show it. A value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "comm/base/strong_id.h"
#include "comm/types/model_shape.h"
#include "comm/types/parallel_plan.h"
#include "comm/types/step_result.h"
#include "comm/types/worker_facts.h"

namespace conclave {

enum class WorkerState : uint8_t {
  kJoined = 0,
  kLoading = 1,
  kPrepared = 2,
  kReady = 3,
  kSuspect = 4,
  kLost = 5,
};
enum class ClusterState : uint8_t { kWaiting = 0, kLoading = 1, kServing = 2, kDraining = 3 };

const char* WorkerStateName(WorkerState state);
const char* ClusterStateName(ClusterState state);

struct WorkerStatus {
  WorkerId id;
  Hello hello;
  WorkerState state = WorkerState::kJoined;
  int rank = -1;  // in the current plan; -1: not used
  GridPosition position;
  Prepared prepared;      // bytes, pages
  int kv_pages_used = 0;  // of its dp group
  int64_t heartbeat_age_us = 0;
  ExchangeStats exchange;  // totals since the epoch began
  StepTimings last_step;
};

struct ClusterStatus {
  ClusterState state = ClusterState::kWaiting;
  std::string waiting_for;    // one line: why not serving, and what to do
  absl::Status last_failure;  // why the newest epoch failed; ok again once one serves
  ModelShape shape;
  std::string model;                  // as served
  ParallelPlan plan;                  // current; epoch 0: none
  std::vector<WorkerStatus> workers;  // by rank, then by name
  int requests_running = 0;
  int requests_waiting = 0;
  int64_t requests_finished = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t steps = 0;
  int64_t weight_bytes_read = 0;    // by kernels, all workers, since the epoch began
  std::vector<std::string> events;  // the last 64: joins, losses, epochs, faults
};

}  // namespace conclave
