// Complaints: logs the first of many like warnings and then at most one a second, with the count of
// those kept silent; a misbehaving peer must not fill the disk. A value owned by whoever complains;
// its thread only.
#pragma once

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "glog/logging.h"

namespace conclave {

class Complaints {
 public:
  void Add(absl::Time now, absl::string_view text) {
    ++silent_;
    if (now < next_) return;
    LOG(WARNING) << text << (silent_ > 1 ? absl::StrCat(" (", silent_ - 1, " more alike)") : "");
    silent_ = 0;
    next_ = now + absl::Seconds(1);
  }

 private:
  absl::Time next_ = absl::InfinitePast();
  uint64_t silent_ = 0;
};

}  // namespace conclave
