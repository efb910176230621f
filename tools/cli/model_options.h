// ModelOptions: what every verb that runs a model takes: which model, on which devices, how placed.
// Filled by the command line, passed on to the coordinator and the workers of a local cluster. A
// value.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "comm/base/dtype.h"
#include "comm/types/model_shape.h"
#include "comm/types/parallel_spec.h"

namespace conclave {

struct ModelOptions {
  std::string model;                       // a folder, or the name of a preset shape
  std::string load_format = "auto";        // auto, safetensors, dummy
  std::string device = "auto";             // auto, cpu, cuda (the machine's, in turn), cuda:N
  std::string parallel;                    // "tp=2,dp=2"; empty: by memory
  int workers = 0;                         // 0: as many as `parallel` needs
  int threads = 0;                         // of each worker; 0: the machine's, shared
  std::string memory;                      // of each worker, "8GiB"; empty: the machine's, shared
  std::string kv_cache_dtype = "auto";     // float32 on CPUs and with deterministic, else bfloat16
  bool deterministic = false;              // on GPUs the bits of the CPU
  std::string quantization = "none";       // of weights on GPUs
  int quant_group = 0;                     // --quant-group-size; 0: the format's usual
  int page_tokens = 16;                    // --block-size
  int context_tokens_max = 0;              // --max-model-len; 0: the model's
  int sequences_max = 256;                 // --max-num-seqs
  int batch_tokens_max = 512;              // --max-num-batched-tokens
  std::string exchange = "pcc";            // pcc, naive, two-level
  std::string exchange_dtype = "float32";  // of its rows: float32, bfloat16, int8, fp8
};

// The model of the options, checked: its shape, whether weights are random, the resolved grid and
// the number of workers.
struct ResolvedModel {
  ModelShape shape;
  bool dummy = false;
  bool automatic = false;  // the coordinator chooses the grid for `workers`
  ParallelSpec spec;
  int workers = 1;
  bool has_tokenizer = false;
  std::string note;  // something asked for that does not apply; verbs print it
};

// Reads config.json (or the preset) and checks the options that can be checked without starting
// anything. Errors of the command line are InvalidArgument and name the flag.
absl::StatusOr<ResolvedModel> ResolveModel(const ModelOptions& options);

// The device of local worker `index`: "cpu" or "cuda:N". `auto` takes GPUs where this binary's code
// runs on one; several workers may share one.
std::string DeviceOfWorker(const ModelOptions& options, int index);
// Its share of the device's memory, for weights, cache and scratch, when `workers` run here.
int64_t MemoryOfWorker(const ModelOptions& options, int index, int workers);
// Whether the options mean GPUs that compute in bfloat16.
bool ComputesInBf16(const ModelOptions& options);
// The dtype of the cache that the options mean; of CheckFlags-ed options.
Dtype CacheDtype(const ModelOptions& options);

// "8GiB", "512MB", "1073741824" to bytes.
absl::StatusOr<int64_t> ParseBytes(const std::string& flag, const std::string& text);

// Physical memory of the machine in bytes, and the processors this process may run on.
int64_t MachineMemoryBytes();
int MachineProcessors();

}  // namespace conclave
