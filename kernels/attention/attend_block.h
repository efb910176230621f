// The unit of work of paged_attention: a few (token, query head) rows that read the same keys and
// values. Internal to kernels/attention; any thread.
#pragma once

#include <cstdint>

#include "kernels/attention/paged_attention.h"

namespace conclave {

inline constexpr int kAttendRows = 32;

// Row r of a sequence is its query head r % group of the kv head's group, token r / group.
struct AttendBlock {
  int sequence = 0;
  int kv_head = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;  // at most kAttendRows further
};

// Writes the rows' outputs to args.out.
void RunAttendBlock(const AttentionArgs& args, const AttendBlock& block);

}  // namespace conclave
