// ExchangeInbox: what the dispatch of one MoE layer brought to a rank, its own rows included: rows
// to compute, the entries that ask for them, and, of a leader in the two-level exchange, what it
// hands on to the owners of its node. Remembers whom each answer goes to. Owned by MoeExchange, one
// thread; borrows the messages until Clear. Memory is reused.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "comm/exchange/exchange.h"
#include "comm/exchange/exchange_layout.h"
#include "comm/exchange/payload.h"
#include "comm/fabric/grow_buffer.h"

namespace conclave {

class ExchangeInbox {
 public:
  // Where the answer to an entry comes from.
  struct Answer {
    int32_t hop = -1;   // -1: computed here; else handed_on()[hop] was asked
    int32_t index = 0;  // entry of this rank, or entry of that message
  };
  // A message that came; its answers go back in order.
  struct Message {
    int32_t stage_rank = 0;  // who sent it
    int64_t begin = 0;       // answers [begin, end)
    int64_t end = 0;
    int64_t first_entry = 0;  // all answers are computed here, from this entry on; -1: not all are
  };

  explicit ExchangeInbox(const RowFormat& format) : format_(format) {}

  // `schedule` is of the layer that comes next.
  void Clear(const ExchangeSchedule& schedule);
  // The caller's own entries, whose rows [token] are in the format.
  void AddOwn(const DispatchToPeer& own, absl::Span<const uint8_t* const> rows);
  // The same when nobody else's rows come: entries name tokens, rows are not copied.
  void AddOwnInPlace(const DispatchToPeer& own);
  // A message of the first round (round 0) or of a leader (round 1). InvalidArgument when it asks
  // for copies that are not on this node.
  absl::Status Add(int stage_rank, int round, const DispatchView& view);
  // Decodes the rows that are to be computed: [rows, hidden].
  void DecodeRows();

  const float* rows() const { return rows_; }
  int64_t row_count() const { return static_cast<int64_t>(row_sources_.size()); }
  absl::Span<const int32_t> row_of_entry() const { return row_of_entry_; }
  absl::Span<const int32_t> slot_of_entry() const { return slot_of_entry_; }
  // In the order they came; own entries are a message of round 0 from the caller.
  absl::Span<const Message> messages(int round) const { return messages_[round]; }
  absl::Span<const Answer> answers(const Message& message) const {
    return absl::MakeConstSpan(answers_).subspan(message.begin, message.end - message.begin);
  }
  // To hand on, by hand_on_peers().send_to; tokens are indices of handed_rows().
  absl::Span<const DispatchToPeer> handed_on() const {
    return absl::MakeConstSpan(handed_on_).first(owners_);
  }
  absl::Span<const uint8_t* const> handed_rows() const { return handed_rows_; }

  size_t BufferBytes() const;

 private:
  absl::Status AddCopies(const DispatchView& view, Message& message);
  void AddSlots(const DispatchView& view, Message& message);
  int32_t AddRow(const uint8_t* row);
  void AddEntry(int32_t row, int32_t slot);
  void HandOn(const DispatchView& view, const WireEntry& entry, const ExchangeSchedule::Copy& copy);

  const RowFormat format_;
  const ExchangeSchedule* schedule_ = nullptr;
  std::vector<const uint8_t*> row_sources_;
  std::vector<int32_t> row_of_entry_;
  std::vector<int32_t> slot_of_entry_;
  std::vector<Message> messages_[2];
  std::vector<Answer> answers_;
  size_t owners_ = 0;  // of handed_on_ in use
  std::vector<DispatchToPeer> handed_on_;
  std::vector<const uint8_t*> handed_rows_;
  std::vector<int32_t> hop_of_;      // [stage size] position in handed_on_, or -1
  std::vector<int32_t> local_row_;   // [rows of a message] row here, or -1
  std::vector<int32_t> handed_row_;  // likewise, of handed_rows_
  GrowBuffer rows_buffer_;
  const float* rows_ = nullptr;
};

}  // namespace conclave
