#include "coordinator/scheduler/kv_pages.h"

#include "glog/logging.h"

namespace conclave {

KvPages::KvPages(const std::vector<int>& pages_by_group) {
  for (int pages : pages_by_group) {
    CHECK_GE(pages, 0);
    Group group;
    group.owner.resize(pages);
    for (int page = pages - 1; page >= 0; --page) group.free.push_back(page);
    groups_.push_back(std::move(group));
  }
}

bool KvPages::Allocate(int group, RequestId owner, int count, std::vector<int32_t>* pages) {
  Group& from = groups_[group];
  CHECK_GE(count, 0);
  CHECK_NE(owner.value, 0u);
  if (count > free(group)) return false;
  for (int i = 0; i < count; ++i) {
    const int32_t page = from.free.back();
    CHECK_EQ(from.owner[page].value, 0u)
        << "page " << page << " of group " << group << " has an owner: " << from.owner[page];
    from.free.pop_back();
    from.owner[page] = owner;
    pages->push_back(page);
  }
  return true;
}

void KvPages::Release(int group, RequestId owner, std::vector<int32_t>* pages) {
  Group& to = groups_[group];
  for (int32_t page : *pages) {
    CHECK_EQ(to.owner[page], owner) << "page " << page << " of group " << group;
    to.owner[page] = RequestId{};
    to.free.push_back(page);
  }
  pages->clear();
}

}  // namespace conclave
