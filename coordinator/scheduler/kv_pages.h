// KvPages: who owns which KV page of which dp group. Pages are numbers into the pools of the
// group's workers, which hold the same page of their own heads and layers. A page has one owner at
// most: anything else is our bug and stops the process. Owned by the batcher, on the coordinator's
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/strong_id.h"

namespace conclave {

class KvPages {
 public:
  KvPages() = default;
  // Group g has pages 0..pages_by_group[g].
  explicit KvPages(const std::vector<int>& pages_by_group);

  int groups() const { return static_cast<int>(groups_.size()); }
  int capacity(int group) const { return static_cast<int>(groups_[group].owner.size()); }
  int free(int group) const { return static_cast<int>(groups_[group].free.size()); }
  int used(int group) const { return capacity(group) - free(group); }

  // Appends `count` pages to `pages`, lowest numbers of those free at the start first; false, and
  // nothing happens, when fewer are free.
  bool Allocate(int group, RequestId owner, int count, std::vector<int32_t>* pages);

  // Gives back all of `pages`, which `owner` owns, and clears it.
  void Release(int group, RequestId owner, std::vector<int32_t>* pages);

 private:
  struct Group {
    std::vector<int32_t> free;     // a stack
    std::vector<RequestId> owner;  // by page; 0: free
  };
  std::vector<Group> groups_;
};

}  // namespace conclave
