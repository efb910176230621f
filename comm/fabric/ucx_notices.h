// UcxNotices: small messages about the state of ranks, beside the payload of a UCX transport: who
// is asked, who answers that it lives and whom it waits for, who gave up and whom it blames.
// Notices of another epoch are never seen. Owned by a transport, used by its thread; destroyed
// after the worker, which may still read and write its memory.
#pragma once

#include <ucp/api/ucp.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace conclave {

enum class NoticeKind : uint32_t {
  kAsk = 1,     // "I wait for you: do you live?"
  kAnswer = 2,  // "I live, and wait for `ranks`"
  kGaveUp = 3,  // "my fabric is dead: `ranks` are to blame"
};

struct Notice {
  NoticeKind kind = NoticeKind::kAsk;
  bool gone = false;  // kGaveUp: the blamed are known to have ended, not only silent
  int from = 0;
  std::vector<int> ranks;
};

class UcxNotices {
 public:
  UcxNotices(ucp_worker_h worker, uint64_t tag_epoch, int rank)
      : worker_(worker), tag_epoch_(tag_epoch), rank_(rank) {}
  UcxNotices(const UcxNotices&) = delete;
  UcxNotices& operator=(const UcxNotices&) = delete;

  // Queues it; a failure to send is the endpoint's to report.
  void Send(ucp_ep_h endpoint, const Notice& notice);
  // The next that has come. Call it after ucp_worker_progress.
  std::optional<Notice> Next();
  // True when UCX has taken all that was sent.
  bool Flushed() const { return under_way_ == 0; }

 private:
  static constexpr int kRanksMax = 61;  // named in one notice: the first ones
  struct Wire {
    uint32_t kind = 0;
    uint32_t gone = 0;
    uint32_t count = 0;
    int32_t ranks[kRanksMax] = {};
  };

  static void OnSent(void* request, ucs_status_t status, void* notices);

  ucp_worker_h worker_;
  const uint64_t tag_epoch_;
  const int rank_;
  std::deque<Wire> sent_;  // UCX reads them until it says so
  Wire incoming_;
  int under_way_ = 0;
};

}  // namespace conclave
