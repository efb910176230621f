#include "comm/exchange/exchange_layout.h"

#include <cstring>

#include "absl/strings/str_format.h"
#include "glog/logging.h"

namespace conclave {
namespace {

absl::Status Bad(const char* field, int64_t value, const char* wanted, int64_t bound) {
  return absl::InvalidArgumentError(
      absl::StrFormat("MoE dispatch message: %s is %d, %s %d; the sender runs another plan or "
                      "binary",
                      field, value, wanted, bound));
}

uint32_t MagicOf(const RowFormat& format) {
  return kDispatchMagic + (static_cast<uint32_t>(format.payload) << 24);
}

bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % alignof(WireEntry) == 0; }

}  // namespace

int64_t EncodeDispatch(const DispatchToPeer& to, absl::Span<const uint8_t* const> rows,
                       const RowFormat& format, absl::Span<uint8_t> out) {
  const int64_t row_count = static_cast<int64_t>(to.tokens.size());
  const int64_t entry_count = static_cast<int64_t>(to.entries.size());
  const int64_t size = DispatchBytes(row_count, entry_count, format);
  CHECK_LE(size, static_cast<int64_t>(out.size()));
  CHECK(IsAligned(out.data()));
  const DispatchHeader header = {MagicOf(format), static_cast<uint32_t>(row_count),
                                 static_cast<uint32_t>(entry_count),
                                 static_cast<uint32_t>(format.hidden)};
  std::memcpy(out.data(), &header, sizeof(header));
  uint8_t* at = out.data() + sizeof(header);
  for (const ExchangeEntry& entry : to.entries) {
    const WireEntry wire = {entry.row, entry.slot};
    std::memcpy(at, &wire, sizeof(wire));
    at += sizeof(wire);
  }
  const int64_t row_bytes = format.bytes();
  for (const int32_t token : to.tokens) {
    CHECK_LT(static_cast<size_t>(token), rows.size());
    std::memcpy(at, rows[token], row_bytes);
    at += row_bytes;
  }
  return size;
}

absl::StatusOr<DispatchView> ParseDispatch(absl::Span<const uint8_t> bytes,
                                           const DispatchLimits& limits) {
  CHECK(IsAligned(bytes.data()));
  const int64_t size = static_cast<int64_t>(bytes.size());
  DispatchHeader header;
  if (size < static_cast<int64_t>(sizeof(header))) {
    return Bad("length", size, "less than the header's", sizeof(header));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  const uint32_t magic = MagicOf(limits.format);
  if (header.magic != magic) return Bad("magic", header.magic, "not", magic);
  if (header.hidden != static_cast<uint32_t>(limits.format.hidden)) {
    return Bad("hidden", header.hidden, "not", limits.format.hidden);
  }
  if (header.rows > limits.rows_max) return Bad("rows", header.rows, "above", limits.rows_max);
  if (header.entries > limits.entries_max) {
    return Bad("entries", header.entries, "above", limits.entries_max);
  }
  const int64_t expected = DispatchBytes(header.rows, header.entries, limits.format);
  if (size != expected) return Bad("length", size, "not", expected);
  DispatchView view;
  view.entries = absl::MakeConstSpan(
      reinterpret_cast<const WireEntry*>(bytes.data() + sizeof(header)), header.entries);
  view.rows = bytes.data() + sizeof(header) + header.entries * sizeof(WireEntry);
  view.row_count = header.rows;
  for (const WireEntry& entry : view.entries) {
    if (entry.row < 0 || entry.row >= view.row_count) {
      return Bad("an entry's row", entry.row, "outside the rows", view.row_count);
    }
    if (entry.slot < 0 || entry.slot >= limits.slots) {
      return Bad("an entry's slot", entry.slot, "outside the slots", limits.slots);
    }
  }
  return view;
}

absl::Status CheckCombine(int64_t bytes, int64_t entries, const RowFormat& format) {
  if (bytes == CombineBytes(entries, format)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("MoE combine message: length is %d, not %d for %d entries; the sender runs "
                      "another plan or binary",
                      bytes, CombineBytes(entries, format), entries));
}

}  // namespace conclave
