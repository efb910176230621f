// NcclStager: gives NCCL device memory for every span of a call. Spans of device memory are used as
// they are; spans of host memory get a place in a staging area, to which Map copies what is read
// and from which CopyBack and Finish bring what was written. The area has a pinned host side and a
// device side, grows to the largest call and stays. One call at a time: Clear, Add..., Map, the
// NCCL operations, CopyBack (in stream order), and when the stream is done Finish. Owned by the
// fabric; its thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "comm/fabric/nccl/nccl_device.h"

namespace conclave {

class NcclStager {
 public:
  explicit NcclStager(NcclDevice& device) : device_(device) {}

  void Clear() { spans_.clear(); }
  // Each returns the span's index.
  size_t AddIn(absl::Span<const uint8_t> span);
  size_t AddOut(absl::Span<uint8_t> span);
  size_t AddInOut(absl::Span<uint8_t> span);

  // Finds places and enqueues the copies to the device.
  absl::Status Map();
  // Where NCCL reads and writes the span; valid after Map.
  uint8_t* device(size_t index) const { return spans_[index].device; }
  // Enqueues the copies from the device.
  absl::Status CopyBack();
  // Hands what came to the caller's host spans.
  void Finish();

 private:
  enum class Use { kIn, kInOut, kOut };  // in the order of the area
  struct Staged {
    uint8_t* user = nullptr;  // const for kIn
    size_t bytes = 0;
    Use use = Use::kIn;
    bool direct = false;
    size_t offset = 0;  // in the area, unless direct
    uint8_t* device = nullptr;
  };

  size_t Add(uint8_t* user, size_t bytes, Use use);
  // Places the spans of one use from `offset` on; returns the end.
  size_t Place(Use use, size_t offset);

  NcclDevice& device_;
  NcclMemory area_;
  std::vector<Staged> spans_;
  size_t in_end_ = 0;     // [0, in_end_) goes to the device
  size_t out_begin_ = 0;  // [out_begin_, area_end_) comes back
  size_t area_end_ = 0;
};

}  // namespace conclave
