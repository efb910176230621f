// RunCoordinator: the main function of a coordinator process. It builds the channel, the actor, the
// tokenizer and the HTTP server, wires them and runs until an operator or a signal ends it. Called
// once, on the main thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace conclave {

struct CoordinatorFlags {
  std::string model;  // a folder, or the name of a preset shape
  std::string load_format = "auto";
  std::string parallel;            // empty: chosen by memory for `workers`
  int workers = 0;                 // 0: what `parallel` needs
  std::string host = "127.0.0.1";  // of HTTP
  int port = 8000;
  std::string control = "tcp://127.0.0.1:7070";  // where workers connect
  std::string state_dir;                         // keys/, admin.token
  std::vector<std::string> allowed_worker_keys;
  std::string kv_cache_dtype = "auto";  // by the workers' devices
  bool deterministic = false;           // on GPUs too the CPU's bits
  std::string quantization = "none";    // of weights on GPUs
  int quant_group = 0;
  int page_tokens = 16;
  int context_tokens_max = 0;
  int sequences_max = 256;
  int batch_tokens_max = 512;
  std::string exchange = "pcc";
  std::string exchange_dtype = "float32";
  std::string served_model_name;  // empty: the folder's name
  int ready_fd = -1;              // gets one JSON line when the process listens
};

absl::Status RunCoordinator(const CoordinatorFlags& flags);

}  // namespace conclave
