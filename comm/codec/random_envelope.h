// Random envelopes that Decode accepts: consistent values of every kind of message, for round-trip
// tests, fuzzing and benchmarks. Testonly; pure but for the generator passed in.
#pragma once

#include <cstddef>

#include "comm/base/rng.h"
#include "comm/types/envelope.h"

namespace conclave {

// An envelope that holds alternative `kind` (below std::variant_size_v<Message>) of Message.
Envelope RandomEnvelope(Rng& rng, size_t kind);

// One of any kind.
Envelope RandomEnvelope(Rng& rng);

}  // namespace conclave
