#include "comm/fabric/nccl/nccl_stager.h"

#include <cstring>

#include "comm/base/status.h"

namespace conclave {
namespace {

// NCCL moves 16 bytes at a time where both sides are aligned to them.
constexpr size_t kAlignment = 16;

}  // namespace

size_t NcclStager::Add(uint8_t* user, size_t bytes, Use use) {
  Staged span;
  span.user = user;
  span.bytes = bytes;
  span.use = use;
  span.direct = bytes == 0 || device_.IsDeviceMemory(user);
  spans_.push_back(span);
  return spans_.size() - 1;
}

size_t NcclStager::AddIn(absl::Span<const uint8_t> span) {
  return Add(const_cast<uint8_t*>(span.data()), span.size(), Use::kIn);
}

size_t NcclStager::AddOut(absl::Span<uint8_t> span) {
  return Add(span.data(), span.size(), Use::kOut);
}

size_t NcclStager::AddInOut(absl::Span<uint8_t> span) {
  return Add(span.data(), span.size(), Use::kInOut);
}

size_t NcclStager::Place(Use use, size_t offset) {
  for (Staged& span : spans_) {
    if (span.direct || span.use != use) continue;
    span.offset = offset;
    offset += (span.bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  return offset;
}

absl::Status NcclStager::Map() {
  out_begin_ = Place(Use::kIn, 0);
  in_end_ = Place(Use::kInOut, out_begin_);
  area_end_ = Place(Use::kOut, in_end_);
  if (area_end_ > area_.bytes) {
    area_ = {};
    ASSIGN_OR_RETURN(area_, device_.Allocate(area_end_ + area_end_ / 4, NcclDevice::Sides::kBoth));
  }
  for (Staged& span : spans_) {
    if (span.direct) {
      span.device = span.user;
      continue;
    }
    span.device = area_.device + span.offset;
    if (span.use != Use::kOut) std::memcpy(area_.host + span.offset, span.user, span.bytes);
  }
  return in_end_ == 0 ? absl::OkStatus() : device_.Copy(area_.device, area_.host, in_end_);
}

absl::Status NcclStager::CopyBack() {
  if (area_end_ == out_begin_) return absl::OkStatus();
  return device_.Copy(area_.host + out_begin_, area_.device + out_begin_, area_end_ - out_begin_);
}

void NcclStager::Finish() {
  for (const Staged& span : spans_) {
    if (span.direct || span.use == Use::kIn) continue;
    std::memcpy(span.user, area_.host + span.offset, span.bytes);
  }
}

}  // namespace conclave
