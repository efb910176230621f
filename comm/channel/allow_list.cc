#include "comm/channel/allow_list.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/channel/curve_keys.h"

namespace conclave {

AllowList::AllowList(std::vector<std::string> keys, std::string folder)
    : keys_(std::move(keys)), folder_(std::move(folder)) {
  std::sort(keys_.begin(), keys_.end());
}

absl::Status AllowList::Check(absl::string_view public_key) const {
  if (std::binary_search(keys_.begin(), keys_.end(), public_key)) return absl::OkStatus();
  if (folder_.empty()) {
    return absl::PermissionDeniedError(
        absl::StrCat("key ", public_key, " is not allowed; add it to the allowed keys"));
  }
  const absl::StatusOr<std::vector<std::string>> in_folder = LoadAllowedKeys(folder_);
  RETURN_IF_ERROR(in_folder.status());
  if (std::binary_search(in_folder->begin(), in_folder->end(), public_key)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "key ", public_key, " is not allowed; put a file NAME.pub with the line 'public ", public_key,
      "' into ", folder_));
}

}  // namespace conclave
