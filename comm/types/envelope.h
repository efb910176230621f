// Envelope: a Message with what fences it (DESIGN 5): both sides drop what is of an older epoch,
// and a sequence number shows duplicates and gaps of one sender. A value.
#pragma once

#include <cstdint>

#include "comm/base/strong_id.h"
#include "comm/types/worker_facts.h"

namespace conclave {

struct Envelope {
  Epoch epoch;      // of the placement the message speaks of; 0 before the first
  WorkerId worker;  // the worker process that sends, or that is meant: fences a restarted name
  uint64_t sequence = 0;  // grows with each message of one sender to one receiver
  Message message;

  bool operator==(const Envelope&) const = default;
};

}  // namespace conclave
