// ResourceUse: what this process holds of the machine, to see whether it grows: memory, heap, open
// files, shared memory. Read from /proc/self and the allocator; blocking, any thread.
#pragma once

#include <cstdint>
#include <string>

namespace conclave {

struct ResourceUse {
  int64_t resident_bytes = 0;       // pages of the process in memory, shared ones included
  int64_t heap_bytes = 0;           // what malloc has given out
  int64_t open_files = 0;
  int64_t shared_mappings = 0;      // segments of /dev/shm that are mapped
  int64_t shared_bytes = 0;         // their size
};

ResourceUse OwnResourceUse();

// "resident 31.2 MiB, heap 3.1 MiB, 14 open files, 6 shared segments of 16.1 MiB".
std::string ToString(const ResourceUse& use);

}  // namespace conclave
