// The wire format of the control plane: an Envelope to bytes (Cap'n Proto, comm/schema) and back.
// Decode is total: any bytes give a value within the bounds stated here, or InvalidArgument; so
// what an actor receives can be indexed without another look. Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/types/envelope.h"

namespace conclave {

// Version of the meaning of messages. Both sides must speak the same.
inline constexpr uint32_t kProtocolVersion = 1;

// Largest frame: three times the plan of 100 layers of 3,000 experts in two slices (4 bytes a
// unit). Senders of bulk (Logits) split theirs well below it.
inline constexpr size_t kFrameBytesMax = 8 << 20;

// Bounds of what a frame may say. Counts of items are also bounded by the bytes of the frame.
inline constexpr size_t kTextBytesMax = 64 << 10;  // one text; longer reasons are cut by Encode
inline constexpr size_t kNameBytesMax = 255;       // worker, node and device names
inline constexpr int kLayersMax = 1 << 14;         // of a model
inline constexpr int kWidthMax = 1 << 24;          // hidden, ffn, heads, vocabulary
inline constexpr int kRanksMax = 1 << 16;          // workers of a replica, ranks of a stage
inline constexpr int kLayerUnitsMax = 1 << 20;     // experts * slices of a layer
inline constexpr int kStepSequencesMax = 1 << 16;  // sequences of a step

// The frame of `envelope`. CHECKs that it fits kFrameBytesMax: what is larger is a bug of its
// sender.
std::string Encode(const Envelope& envelope);

// InvalidArgument names the field, its value and what is allowed: for truncated, oversized or
// garbled frames, other protocol versions, and values out of range or inconsistent with one
// another.
absl::StatusOr<Envelope> Decode(absl::string_view frame);

}  // namespace conclave
