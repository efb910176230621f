#include "worker/model/cuda/step_inputs.h"

#include <algorithm>
#include <cstring>

#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {

// Offsets in bytes. Seeds first, for their alignment; the page table last, for its length varies.
struct StepInputs::Layout {
  explicit Layout(const StepCapacity& c) {
    seed = Take(c.rows, 8);
    row_position = Take(c.rows, 8);
    token_id = Take(c.tokens, 4);
    token_source = Take(c.tokens, 4);
    token_position = Take(c.tokens, 4);
    token_sequence = Take(c.tokens, 4);
    first_token = Take(c.sequences + 1, 4);
    position = Take(c.sequences, 4);
    first_page = Take(c.sequences + 1, 4);
    row_token = Take(c.rows, 4);
    row_slot = Take(c.rows, 4);
    temperature = Take(c.rows, 4);
    top_k = Take(c.rows, 4);
    top_p = Take(c.rows, 4);
    min_p = Take(c.rows, 4);
    page_table = end;
  }
  int64_t Take(int64_t count, int64_t bytes) {
    const int64_t at = end;
    end += (count * bytes + 15) / 16 * 16;
    return at;
  }
  int64_t end = 0;
  int64_t seed, token_id, token_source, token_position, token_sequence, first_token, position,
      first_page, row_token, row_slot, row_position, temperature, top_k, top_p, min_p, page_table;
};

// Writes arrays of a side.
struct StepInputs::Writer {
  uint8_t* base;
  template <typename T>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(base + offset);
  }
  void Ints(int64_t offset, absl::Span<const int32_t> values) const {
    if (!values.empty()) std::memcpy(base + offset, values.data(), values.size() * 4);
  }
};

namespace {
// Enough for most deployments, so that graphs seldom lose their inputs' place.
constexpr int64_t kBytesMin = 4 << 20;
}  // namespace

absl::Status StepInputs::Reserve(int64_t bytes) {
  if (device_.bytes() < bytes) {
    // What runs still reads the old memory: growing is rare and waits.
    RETURN_IF_ERROR(SynchronizeCudaDevice());
    ASSIGN_OR_RETURN(device_, DeviceBuffer::Create(std::max(bytes + bytes / 2, kBytesMin)));
  }
  Side& side = sides_[turn_];
  // The copy of two steps ago may still be on its way.
  if (side.used) RETURN_IF_ERROR(side.copied.Synchronize());
  if (side.memory.bytes() < bytes) {
    ASSIGN_OR_RETURN(side.memory, PinnedBuffer::Create(std::max(bytes + bytes / 2, kBytesMin)));
    ASSIGN_OR_RETURN(side.copied, CudaEvent::Create());
    side.used = false;
  }
  return absl::OkStatus();
}

void StepInputs::FillSequences(const Writer& to, const Layout& layout, const Batch& in,
                               const StepCapacity& capacity) const {
  const PagedBatch paged = in.batch.paged();
  const int32_t tokens = in.batch.tokens();
  const int32_t sequences = paged.sequences();
  const int32_t pages = static_cast<int32_t>(paged.page_table.size());
  to.Ints(layout.token_id, in.batch.ids());
  std::fill_n(to.At<int32_t>(layout.token_source), capacity.tokens, -1);
  to.Ints(layout.token_source, in.sources);
  to.Ints(layout.token_position, in.batch.positions());
  to.Ints(layout.first_token, paged.first_token);
  to.Ints(layout.position, paged.position);
  to.Ints(layout.first_page, paged.first_page);
  to.Ints(layout.page_table, paged.page_table);
  int32_t* sequence_of = to.At<int32_t>(layout.token_sequence);
  for (int32_t s = 0; s < sequences; ++s) {
    for (int32_t t = paged.first_token[s]; t < paged.first_token[s + 1]; ++t) sequence_of[t] = s;
  }
  for (int32_t i = 0; i < capacity.sequences - sequences; ++i) {
    sequence_of[tokens + i] = sequences + i;
    to.At<int32_t>(layout.first_token)[sequences + i + 1] = tokens + i + 1;
    to.At<int32_t>(layout.first_page)[sequences + i + 1] = pages + i + 1;
    to.At<int32_t>(layout.page_table)[pages + i] = spare_page_;
  }
}

void StepInputs::FillRows(const Writer& to, const Layout& layout, const Batch& in,
                          const StepCapacity& capacity) {
  const int32_t rows = static_cast<int32_t>(in.rows.size());
  int32_t slot = in.first_slot;
  for (int32_t i = 0; i < rows; ++i) {
    const HeadRow& row = in.rows[i];
    const SamplingParams& sampling = in.batch.plan().batch[row.sequence].sampling;
    to.At<int32_t>(layout.row_token)[i] = row.token;
    to.At<int64_t>(layout.row_position)[i] = row.position + 1;
    to.At<int32_t>(layout.row_slot)[i] = row.sample ? slot++ : -1;
    to.At<float>(layout.temperature)[i] = row.sample ? sampling.temperature : 0;
    to.At<int32_t>(layout.top_k)[i] = sampling.top_k;
    to.At<float>(layout.top_p)[i] = sampling.top_p;
    to.At<float>(layout.min_p)[i] = sampling.min_p;
    to.At<uint64_t>(layout.seed)[i] = sampling.seed;
  }
  for (int32_t i = rows; i < capacity.rows; ++i) {
    to.At<float>(layout.top_p)[i] = 1;
    to.At<int32_t>(layout.row_slot)[i] = -1;
  }
}

absl::Status StepInputs::Send(const Batch& in, const StepCapacity& capacity, CudaStream stream) {
  const Layout layout(capacity);
  const int32_t padding = capacity.sequences - in.batch.paged().sequences();
  CHECK_GE(padding, 0);
  CHECK_EQ(capacity.tokens - in.batch.tokens(), padding) << "a padding sequence has one token";
  CHECK_LE(static_cast<int32_t>(in.rows.size()), capacity.rows);
  const int64_t pages = static_cast<int64_t>(in.batch.paged().page_table.size()) + padding;
  const int64_t bytes = layout.page_table + std::max<int64_t>(pages, 1) * 4;
  turn_ ^= 1;
  RETURN_IF_ERROR(Reserve(bytes));
  Side& side = sides_[turn_];
  const Writer to{side.memory.as<uint8_t>()};
  std::memset(to.base, 0, layout.page_table);
  FillSequences(to, layout, in, capacity);
  FillRows(to, layout, in, capacity);
  RETURN_IF_ERROR(CopyToDevice(device_.data(), to.base, bytes, stream));
  side.used = true;
  return side.copied.Record(stream);
}

StepInputsView StepInputs::View(const StepCapacity& capacity) const {
  const Layout layout(capacity);
  const Writer at{device_.as<uint8_t>()};
  StepInputsView view;
  view.token_id = at.At<int32_t>(layout.token_id);
  view.token_source = at.At<int32_t>(layout.token_source);
  view.token_position = at.At<int32_t>(layout.token_position);
  view.token_sequence = at.At<int32_t>(layout.token_sequence);
  view.first_token = at.At<int32_t>(layout.first_token);
  view.position = at.At<int32_t>(layout.position);
  view.first_page = at.At<int32_t>(layout.first_page);
  view.page_table = at.At<int32_t>(layout.page_table);
  view.row_token = at.At<int32_t>(layout.row_token);
  view.row_slot = at.At<int32_t>(layout.row_slot);
  view.row_position = at.At<int64_t>(layout.row_position);
  view.temperature = at.At<float>(layout.temperature);
  view.top_k = at.At<int32_t>(layout.top_k);
  view.top_p = at.At<float>(layout.top_p);
  view.min_p = at.At<float>(layout.min_p);
  view.seed = at.At<uint64_t>(layout.seed);
  return view;
}

}  // namespace conclave
