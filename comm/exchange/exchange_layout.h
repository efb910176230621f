// The wire layout of MoE messages between ranks of one stage. Dispatch: a DispatchHeader, `entries`
// WireEntry pairs, then `rows` rows in the format of payload.h. Combine: one row for each entry of
// the dispatch, in its order; both sides know the count, so it has no header. Native byte order:
// the ranks of a replica run one binary. Pure functions on bytes; any thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "comm/exchange/exchange.h"
#include "comm/exchange/payload.h"

namespace conclave {

inline constexpr uint32_t kDispatchMagic = 0x3144434d;  // "MCD1", of floats; "MCD2".. rounded

struct DispatchHeader {
  uint32_t magic = kDispatchMagic;
  uint32_t rows = 0;
  uint32_t entries = 0;
  uint32_t hidden = 0;
};
static_assert(sizeof(DispatchHeader) == 16);

// Row `row` of the message goes through unit `slot` of the receiver; of a message to a leader on
// another node `slot` is a copy of the layer's map (ExchangeSchedule::CopyAt) on its node.
struct WireEntry {
  int32_t row = 0;
  int32_t slot = 0;
};
static_assert(sizeof(WireEntry) == 8);

// Writes the message of `to` into `out`, of at least DispatchBytes, aligned to 8; returns the bytes
// written. rows[i]: the row of to.tokens' id i, in `format`.
int64_t EncodeDispatch(const DispatchToPeer& to, absl::Span<const uint8_t* const> rows,
                       const RowFormat& format, absl::Span<uint8_t> out);

// What a message may hold: more is refused.
struct DispatchLimits {
  int64_t rows_max = 0;     // tokens whose rows may come by the sender in this step
  int64_t entries_max = 0;  // rows_max * top_k * slices
  int slots = 0;            // units of the receiver, or copies of the map
  RowFormat format = 0;
};

// A parsed message; borrows the bytes.
struct DispatchView {
  absl::Span<const WireEntry> entries;
  const uint8_t* rows = nullptr;  // [row_count, format.bytes()]
  int64_t row_count = 0;
};

// InvalidArgument names the field when `bytes` (aligned to 8) is not a message within `limits`.
absl::StatusOr<DispatchView> ParseDispatch(absl::Span<const uint8_t> bytes,
                                           const DispatchLimits& limits);

// InvalidArgument unless a combine message of `bytes` bytes answers `entries` entries.
absl::Status CheckCombine(int64_t bytes, int64_t entries, const RowFormat& format);

}  // namespace conclave
