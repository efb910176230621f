#include "comm/fabric/resource_use.h"

#include <malloc.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"

namespace conclave {

ResourceUse OwnResourceUse() {
  ResourceUse use;
  int64_t total_pages = 0, resident_pages = 0;
  std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;
  use.resident_bytes = resident_pages * sysconf(_SC_PAGESIZE);
  const struct mallinfo2 heap = mallinfo2();
  use.heap_bytes = static_cast<int64_t>(heap.uordblks + heap.hblkhd);
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    use.open_files += file.path().empty() ? 0 : 1;
  }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (!absl::StrContains(line, "/dev/shm/")) continue;
    int64_t begin = 0, end = 0;
    char dash = 0;
    std::istringstream(line) >> std::hex >> begin >> dash >> end;
    use.shared_mappings += 1;
    use.shared_bytes += end - begin;
  }
  return use;
}

std::string ToString(const ResourceUse& use) {
  constexpr double kMiB = 1 << 20;
  return absl::StrFormat(
      "resident %.1f MiB, heap %.2f MiB, %d open files, %d shared segments of %.1f MiB",
      static_cast<double>(use.resident_bytes) / kMiB, static_cast<double>(use.heap_bytes) / kMiB,
      use.open_files, use.shared_mappings, static_cast<double>(use.shared_bytes) / kMiB);
}

}  // namespace conclave
