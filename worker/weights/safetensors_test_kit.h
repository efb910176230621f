// For tests: writes safetensors files, also such as the format forbids, into a folder that is
// removed at the end. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "comm/base/dtype.h"

namespace conclave {

class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(absl::string_view name) const;
  void Write(absl::string_view name, absl::string_view content) const;

 private:
  std::string path_;
};

struct TestTensor {
  std::string name;
  std::string dtype;  // as the format spells it
  std::vector<int64_t> dims;
  std::string data;  // bytes
};

// A whole file: length, header, data, tensors in the order given.
std::string SafetensorsFile(const std::vector<TestTensor>& tensors);

// A file of any header and data.
std::string RawSafetensors(absl::string_view header, absl::string_view data);

}  // namespace conclave
