// The tags of UCX messages: which fabric, which sender, payload or notice. An older fabric's
// messages never match. Pure; any thread.
#pragma once

#include <cstdint>

namespace conclave {

// epoch (32 bits), sender (16), kind (16): 0 payload, 1 notice.
inline uint64_t PayloadTag(uint64_t tag_epoch, int sender) {
  return tag_epoch << 32 | static_cast<uint64_t>(sender) << 16;
}
inline uint64_t NoticeTag(uint64_t tag_epoch, int sender) {
  return PayloadTag(tag_epoch, sender) | 1;
}
inline int SenderOf(uint64_t tag) { return static_cast<int>(tag >> 16 & 0xffff); }

inline constexpr uint64_t kWholeTagMask = ~uint64_t{0};
inline constexpr uint64_t kAnySenderMask = 0xffffffff0000ffffu;

}  // namespace conclave
