// RunWorker: the main function of a worker process. It builds the engine, the channel to the
// coordinator and the worker actor, wires them and runs until the coordinator or a signal ends it.
// Called once, on the main thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace conclave {

struct WorkerFlags {
  std::string coordinator;      // "tcp://10.0.0.1:7070"
  std::string coordinator_key;  // its public key (40 characters of Z85); empty:
                                // keys/coordinator.pub of state_dir
  std::string state_dir;        // keys live in its folder keys/
  std::string name;             // unique in the cluster; empty: node name and pid
  std::string node;             // empty: the host's name
  std::string device = "auto";
  int threads = 0;           // 0: all processors
  int64_t memory_bytes = 0;  // for weights and KV; 0: 90 % of the machine's
};

absl::Status RunWorker(const WorkerFlags& flags);

}  // namespace conclave
