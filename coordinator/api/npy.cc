#include "coordinator/api/npy.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace conclave {

std::string NpyFloatHeader(absl::Span<const int64_t> shape) {
  constexpr size_t kAlignment = 64;
  std::string text = absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (",
                                  absl::StrJoin(shape, ", "), shape.size() == 1 ? ",), }" : "), }");
  std::string header("\x93NUMPY\x01\x00", 8);
  const size_t unpadded = header.size() + 2 + text.size() + 1;
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  text.push_back('\n');
  header.push_back(static_cast<char>(text.size() & 0xff));
  header.push_back(static_cast<char>(text.size() >> 8));
  return header + text;
}

}  // namespace conclave
