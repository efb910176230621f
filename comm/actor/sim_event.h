// SimEvent: one executed event of a simulated cluster, for logs and checkers; SimEventLog digests
// them all. Testonly; values, owned by SimActorSystem. A SimEvent's views are valid during the
// observer's call.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "comm/types/envelope.h"

namespace conclave {

// Virtual time begins here.
inline absl::Time SimEpoch() { return absl::FromUnixSeconds(1'900'000'000); }

struct SimEvent {
  enum class Kind : uint8_t { kStart, kMessage, kTimer, kPost, kPeerLost, kWorld };
  Kind kind = Kind::kWorld;
  uint64_t order = 0;  // counts executed events, from 1
  absl::Time at;
  absl::string_view from;              // kMessage, kPeerLost: the other peer
  absl::string_view to;                // whose callback runs next; empty for kWorld
  uint64_t tag = 0;                    // kTimer
  const Envelope* envelope = nullptr;  // kMessage

  // "12.003456 worker-1 <- coordinator Step epoch-2".
  std::string ToString() const;
};

// Counts events, hands them to an observer and keeps one hash of their history.
class SimEventLog {
 public:
  // `digest` is of what the event carries. Sets its order.
  void Record(SimEvent event, uint64_t digest);
  void SetObserver(std::function<void(const SimEvent&)> observer) {
    observer_ = std::move(observer);
  }
  uint64_t count() const { return count_; }
  uint64_t hash() const { return hash_; }

 private:
  uint64_t count_ = 0;
  uint64_t hash_ = 0;
  std::function<void(const SimEvent&)> observer_;
};

}  // namespace conclave
