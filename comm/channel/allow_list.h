// AllowList: which public keys may connect. Keys given at start, and those in a folder that is read
// again at every question, so that an operator adds a machine by copying its ".pub" file. Owned by
// a server channel; its thread only.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace conclave {

class AllowList {
 public:
  // `folder` may be empty: none.
  AllowList(std::vector<std::string> keys, std::string folder);

  // Ok, or PermissionDenied that says where to add the key.
  absl::Status Check(absl::string_view public_key) const;

 private:
  std::vector<std::string> keys_;
  std::string folder_;
};

}  // namespace conclave
