#include "comm/types/worker_facts.h"

#include <array>

namespace conclave {

const char* MessageName(const Message& message) {
  static constexpr std::array<const char*, std::variant_size_v<Message>> kNames = {
      "Hello", "Heartbeat", "Prepared", "Ready", "StepDone", "Logits", "Fault", "Goodbye",
      "Assign", "Commit", "Step", "Abort", "Shutdown"};
  return kNames[message.index()];
}

}  // namespace conclave
