#include "comm/fabric/exchange_inbox.h"

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

template <typename T>
size_t BytesOf(const std::vector<T>& values) {
  return values.capacity() * sizeof(T);
}

}  // namespace

void ExchangeInbox::Clear(const ExchangeSchedule& schedule) {
  schedule_ = &schedule;
  row_sources_.clear();
  row_of_entry_.clear();
  slot_of_entry_.clear();
  messages_[0].clear();
  messages_[1].clear();
  answers_.clear();
  handed_rows_.clear();
  rows_ = nullptr;
  const std::vector<int>& owners = schedule.hand_on_peers().send_to;
  // Grows only: layers may differ in owners, and the lists keep their memory.
  owners_ = owners.size();
  if (handed_on_.size() < owners_) handed_on_.resize(owners_);
  hop_of_.assign(owners.empty() ? 0 : owners.back() + 1, -1);
  for (size_t i = 0; i < owners.size(); ++i) {
    handed_on_[i].stage_rank = owners[i];
    handed_on_[i].tokens.clear();
    handed_on_[i].entries.clear();
    hop_of_[owners[i]] = static_cast<int32_t>(i);
  }
}

int32_t ExchangeInbox::AddRow(const uint8_t* row) {
  row_sources_.push_back(row);
  return static_cast<int32_t>(row_sources_.size()) - 1;
}

void ExchangeInbox::AddEntry(int32_t row, int32_t slot) {
  answers_.push_back({-1, static_cast<int32_t>(slot_of_entry_.size())});
  row_of_entry_.push_back(row);
  slot_of_entry_.push_back(slot);
}

void ExchangeInbox::AddOwn(const DispatchToPeer& own, absl::Span<const uint8_t* const> rows) {
  Message message = {own.stage_rank, static_cast<int64_t>(answers_.size()), 0,
                     static_cast<int64_t>(slot_of_entry_.size())};
  const int32_t first_row = static_cast<int32_t>(row_sources_.size());
  for (const int32_t token : own.tokens) AddRow(rows[token]);
  for (const ExchangeEntry& entry : own.entries) AddEntry(first_row + entry.row, entry.slot);
  message.end = static_cast<int64_t>(answers_.size());
  messages_[0].push_back(message);
}

void ExchangeInbox::AddOwnInPlace(const DispatchToPeer& own) {
  Message message = {own.stage_rank, static_cast<int64_t>(answers_.size()), 0,
                     static_cast<int64_t>(slot_of_entry_.size())};
  for (const ExchangeEntry& entry : own.entries) AddEntry(entry.token, entry.slot);
  message.end = static_cast<int64_t>(answers_.size());
  messages_[0].push_back(message);
}

absl::Status ExchangeInbox::Add(int stage_rank, int round, const DispatchView& view) {
  Message message = {stage_rank, static_cast<int64_t>(answers_.size()), 0,
                     static_cast<int64_t>(slot_of_entry_.size())};
  if (schedule_->SpeaksOfCopies(stage_rank)) {
    RETURN_IF_ERROR(AddCopies(view, message));
  } else {
    AddSlots(view, message);
  }
  message.end = static_cast<int64_t>(answers_.size());
  messages_[round].push_back(message);
  return absl::OkStatus();
}

void ExchangeInbox::AddSlots(const DispatchView& view, Message& message) {
  message.first_entry = static_cast<int64_t>(slot_of_entry_.size());
  const int32_t first_row = static_cast<int32_t>(row_sources_.size());
  for (int64_t row = 0; row < view.row_count; ++row) AddRow(view.rows + row * format_.bytes());
  for (const WireEntry& entry : view.entries) AddEntry(first_row + entry.row, entry.slot);
}

void ExchangeInbox::HandOn(const DispatchView& view, const WireEntry& entry,
                           const ExchangeSchedule::Copy& copy) {
  int32_t& id = handed_row_[entry.row];
  if (id < 0) {
    id = static_cast<int32_t>(handed_rows_.size());
    handed_rows_.push_back(view.rows + entry.row * format_.bytes());
  }
  const int32_t hop = hop_of_[copy.stage_rank];
  DispatchToPeer& to = handed_on_[hop];
  // Senders name a row's entries together: it goes to each owner once.
  if (to.tokens.empty() || to.tokens.back() != id) to.tokens.push_back(id);
  answers_.push_back({hop, static_cast<int32_t>(to.entries.size())});
  to.entries.push_back({static_cast<int32_t>(to.tokens.size()) - 1, copy.slot, id, 0, 0});
}

absl::Status ExchangeInbox::AddCopies(const DispatchView& view, Message& message) {
  message.first_entry = -1;
  local_row_.assign(view.row_count, -1);
  handed_row_.assign(view.row_count, -1);
  for (const WireEntry& entry : view.entries) {
    const ExchangeSchedule::Copy& copy = schedule_->CopyAt(entry.slot);
    if (copy.stage_rank == schedule_->stage_rank()) {
      int32_t& row = local_row_[entry.row];
      if (row < 0) row = AddRow(view.rows + entry.row * format_.bytes());
      AddEntry(row, copy.slot);
      continue;
    }
    const bool known =
        copy.stage_rank < static_cast<int32_t>(hop_of_.size()) && hop_of_[copy.stage_rank] >= 0;
    if (!known) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "MoE dispatch message: copy %d is of stage rank %d, which is not on this node; the "
          "sender runs another plan or knows other nodes",
          entry.slot, copy.stage_rank));
    }
    HandOn(view, entry, copy);
  }
  return absl::OkStatus();
}

void ExchangeInbox::DecodeRows() {
  float* rows = rows_buffer_.Floats(row_sources_.size() * format_.hidden);
  rows_ = rows;
  for (const uint8_t* source : row_sources_) {
    DecodeRow(format_, source, rows);
    rows += format_.hidden;
  }
}

size_t ExchangeInbox::BufferBytes() const {
  size_t bytes = rows_buffer_.capacity() + BytesOf(row_sources_) + BytesOf(row_of_entry_) +
                 BytesOf(slot_of_entry_) + BytesOf(answers_) + BytesOf(handed_rows_) +
                 BytesOf(local_row_) + BytesOf(handed_row_);
  for (const DispatchToPeer& to : handed_on_) bytes += BytesOf(to.tokens) + BytesOf(to.entries);
  return bytes;
}

}  // namespace conclave
