// The vocabulary of the control plane (DESIGN 1): decisions flow down, facts flow up. Each message
// is a plain struct; Message is their sum; Envelope carries one with its epoch and sender. Values;
// any thread may use them.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/base/dtype.h"
#include "comm/base/strong_id.h"
#include "comm/types/model_shape.h"
#include "comm/types/parallel_plan.h"
#include "comm/types/step_plan.h"
#include "comm/types/step_result.h"

namespace conclave {

// ---- facts: worker -> coordinator

// First message of a worker, repeated until it is assigned: here I am, this is what I have.
struct Hello {
  std::string name;          // unique in the cluster; the channel peer id
  std::string node;          // host name
  std::string device;        // "cpu", "cuda:0"
  int64_t memory_bytes = 0;  // budget for weights and KV
  int32_t threads = 0;
  int64_t process = 0;  // pid, for operators
  std::string version;
  bool operator==(const Hello&) const = default;
};

// Every 100 ms. `progress` grows whenever the engine does; it stands still in a hung device or
// collective.
struct Heartbeat {
  uint64_t progress = 0;
  StepId last_step;  // last step finished in this epoch
  int32_t steps_queued = 0;
  bool operator==(const Heartbeat&) const = default;
};

// The slices of an assignment are loaded, the fabric endpoint exists.
struct Prepared {
  std::string fabric_address;  // opaque; peers connect with it at Commit
  int64_t weight_bytes = 0;    // held in memory
  int64_t checkpoint_bytes_read = 0;
  int64_t checkpoint_bytes_share = 0;  // what its slices amount to by the plan
  int64_t load_us = 0;
  int32_t kv_pages = 0;  // pages the memory budget allows
  bool operator==(const Prepared&) const = default;
};

// Connected to its peers: steps may come.
struct Ready {
  bool operator==(const Ready&) const = default;
};

struct StepDone {
  StepResult result;
  bool operator==(const StepDone&) const = default;
};

// Logits of neighbouring positions of one request; sent before the StepDone of its step, split into
// frames.
struct Logits {
  StepId step;
  RequestId request;
  int32_t position = 0;
  int32_t vocab = 0;
  std::vector<float> values;  // [positions, vocab]
  bool operator==(const Logits&) const = default;
};

// Something failed; the worker lives. The epoch of the envelope says of which placement.
struct Fault {
  StepId step;          // 0 when not in a step
  int32_t code = 0;     // absl::StatusCode
  std::string message;  // who, what, which ids, what to do
  bool operator==(const Fault&) const = default;
};

// The worker leaves in good order (SIGTERM): steps in flight are done.
struct Goodbye {
  std::string reason;
  bool operator==(const Goodbye&) const = default;
};

// ---- decisions: coordinator -> worker

// Where weights come from.
struct ModelSource {
  std::string path;    // folder of safetensors; ignored for dummy weights
  bool dummy = false;  // random weights of the shape (--load-format dummy)
  uint64_t dummy_seed = 0;
  bool operator==(const ModelSource&) const = default;
};

struct CacheOptions {
  int32_t page_tokens = 16;
  Dtype dtype = Dtype::kF32;  // --kv-cache-dtype
  int64_t memory_bytes = 0;   // 0: what the worker's budget leaves
  int32_t pages_max = 0;      // 0: no other bound
  bool operator==(const CacheOptions&) const = default;
};

// How weights are held on a GPU (--quantization).
enum class Quantization : uint8_t {
  kNone = 0,  // in the checkpoint's dtype
  kFp8 = 1,
  kInt8 = 2,
  kInt4 = 3,
  kNf4 = 4,
  kMxfp4 = 5,
};
// "none", "fp8", "int8", "int4", "nf4", "mxfp4".
const char* QuantizationName(Quantization quantization);
absl::StatusOr<Quantization> ParseQuantization(absl::string_view text);

inline constexpr int32_t kQuantGroupMax = 256;

struct ComputeOptions {
  bool deterministic = false;  // --deterministic: the bits of the CPU, on a GPU too
  Quantization quantization = Quantization::kNone;
  int32_t quant_group = 0;  // inputs that share a scale; 0: the format's usual
  bool operator==(const ComputeOptions&) const = default;
};

// Be rank `rank` of `plan`: drop the older epoch, load the slices, answer Prepared.
struct Assign {
  ModelShape shape;
  ModelSource source;
  ParallelPlan plan;
  int32_t rank = 0;
  CacheOptions cache;
  ComputeOptions compute;
  bool operator==(const Assign&) const = default;
};

// All ranks are prepared: connect to them, answer Ready.
struct Commit {
  std::vector<std::string> fabric_addresses;  // by rank
  std::vector<std::string> nodes;             // by rank: same node means shared memory
  bool operator==(const Commit&) const = default;
};

struct Step {
  StepPlan plan;
  bool operator==(const Step&) const = default;
};

// Abandon the epoch of the envelope: cancel steps, tear the fabric down, keep weights, wait for
// Assign.
struct Abort {
  std::string reason;
  bool operator==(const Abort&) const = default;
};

// Finish what is queued, say Goodbye, exit.
struct Shutdown {
  std::string reason;
  bool operator==(const Shutdown&) const = default;
};

using Message =
    std::variant<Hello, Heartbeat, Prepared, Ready, StepDone, Logits, Fault, Goodbye,  //
                 Assign, Commit, Step, Abort, Shutdown>;

// "Hello", "StepDone": the name of the alternative held.
const char* MessageName(const Message& message);

}  // namespace conclave
