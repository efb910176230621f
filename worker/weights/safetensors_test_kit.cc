#include "worker/weights/safetensors_test_kit.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "glog/logging.h"

namespace conclave {

ScratchFolder::ScratchFolder() {
  path_ = (std::filesystem::temp_directory_path() / "conclave-test-XXXXXX").string();
  PCHECK(mkdtemp(path_.data()) != nullptr) << path_;
}

ScratchFolder::~ScratchFolder() { std::filesystem::remove_all(path_); }

std::string ScratchFolder::File(absl::string_view name) const {
  return absl::StrCat(path_, "/", name);
}

void ScratchFolder::Write(absl::string_view name, absl::string_view content) const {
  std::ofstream file(File(name), std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  CHECK(file.good()) << File(name);
}

std::string RawSafetensors(absl::string_view header, absl::string_view data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i)));
  absl::StrAppend(&file, header, data);
  return file;
}

std::string SafetensorsFile(const std::vector<TestTensor>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
  for (const TestTensor& tensor : tensors) {
    absl::StrAppend(&header, ",\"", tensor.name, "\":{\"dtype\":\"", tensor.dtype, "\",\"shape\":[",
                    absl::StrJoin(tensor.dims, ","), "],\"data_offsets\":[", data.size(), ",",
                    data.size() + tensor.data.size(), "]}");
    absl::StrAppend(&data, tensor.data);
  }
  absl::StrAppend(&header, "}");
  while (header.size() % 8 != 0) header.push_back(' ');
  return RawSafetensors(header, data);
}

}  // namespace conclave
