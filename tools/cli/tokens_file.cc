#include "tools/cli/tokens_file.h"

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

absl::Status Refuse(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--tokens '", path, "': ", what, "; the file holds {\"input_ids\": [[1, 2, ...], ...]}"));
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadTokensFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return Refuse(path, "cannot be read");
  std::stringstream text;
  text << in.rdbuf();
  boost::json::error_code error;
  const boost::json::value root = boost::json::parse(text.str(), error);
  if (error) return Refuse(path, absl::StrCat("is not JSON: ", error.message()));
  if (!root.is_object() || !root.as_object().contains("input_ids") ||
      !root.as_object().at("input_ids").is_array()) {
    return Refuse(path, "has no list input_ids");
  }
  std::vector<std::vector<int32_t>> sequences;
  for (const boost::json::value& row : root.as_object().at("input_ids").as_array()) {
    const std::string where = absl::StrCat("input_ids[", sequences.size(), "]");
    if (!row.is_array() || row.as_array().empty()) {
      return Refuse(path, absl::StrCat(where, " is not a list of token ids"));
    }
    std::vector<int32_t>& ids = sequences.emplace_back();
    for (const boost::json::value& id : row.as_array()) {
      if (!id.is_int64() || id.as_int64() < 0 || id.as_int64() > INT32_MAX) {
        return Refuse(path, absl::StrCat(where, "[", ids.size(), "] is not a token id"));
      }
      ids.push_back(static_cast<int32_t>(id.as_int64()));
    }
  }
  if (sequences.empty()) return Refuse(path, "input_ids is empty");
  return sequences;
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes) {
  const std::string temporary = path + ".part";
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.close();
    if (!out) {
      std::remove(temporary.c_str());
      return absl::InvalidArgumentError(
          absl::StrCat("--out '", path, "' cannot be written; name a file in a writable folder"));
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::remove(temporary.c_str());
    return absl::InvalidArgumentError(
        absl::StrCat("--out '", path, "' cannot be replaced; name another file"));
  }
  return absl::OkStatus();
}

}  // namespace conclave
