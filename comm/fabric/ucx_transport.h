// UcxTransport: messages between the ranks of one world by UCX tag matching. The tag holds the
// epoch and the sender, so that a message of an older fabric never matches. Endpoints are made at
// the first use of a peer. A failed exchange destroys the worker before it returns: UCX then holds
// no buffer of the caller, whatever the peers do. Used by one thread at a time; Cancel comes from
// any. An operation that does not end is given up a little before its deadline, so that the ranks
// can settle who is at fault (wait_graph.h) and the report comes in time.
#pragma once

#include <poll.h>
#include <ucp/api/ucp.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/fabric/fabric_error.h"
#include "comm/fabric/point_to_point.h"
#include "comm/fabric/process_stamp.h"
#include "comm/fabric/ucx_notices.h"
#include "comm/fabric/ucx_worker.h"
#include "comm/fabric/wait_graph.h"

namespace conclave {

// A rank of the world as its address describes it.
struct UcxPeer {
  std::string address;     // UCX's
  bool same_node = false;  // shares memory with this process
  ProcessStamp process;
};

class UcxTransport final : public PointToPoint {
 public:
  struct World {
    std::vector<UcxPeer> peers;  // by rank, the own included
    int rank = 0;
    uint64_t epoch = 0;
    absl::Duration spin;
  };

  // Unavailable when a peer's process has ended already.
  static absl::StatusOr<std::unique_ptr<UcxTransport>> Create(std::unique_ptr<UcxWorker> worker,
                                                              World world);
  ~UcxTransport() override;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(peers_.size()); }
  absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                        const WireOp& op) override;
  void Cancel(absl::Status reason) override;
  FabricCounters counters() const override { return counters_; }

 private:
  struct Peer {
    UcxTransport* owner = nullptr;
    UcxPeer facts;
    ProcessWatch watch;  // of another process of this node
    ucp_ep_h endpoint = nullptr;
    ucs_status_t error = UCS_OK;  // set by UCX's error handler
    uint64_t asked_in = 0;        // the last of waits_ in which it was asked whether it lives
    uint32_t asks_in = 0;         // its exchange, when it asked last; 0: never
    uint32_t answered_in = 0;     // the same, when it was answered last
    bool gave_up = false;         // its fabric is dead, as it said
  };
  // Why an exchange failed, until it is settled whom to blame.
  struct Failure {
    absl::Status error;      // of this rank's own making: cancelled, a wrong message
    bool gone = false;       // the suspects have ended, or their connections; else they are silent
    std::string detail;      // of gone: UCX's or the process's
    int told_by = -1;        // the rank that gave up first
    bool certain = false;    // nobody else need be heard: the process has ended
  };
  // One message under way. `request` is UCX's while not done.
  struct Transfer {
    UcxTransport* owner = nullptr;
    int peer = 0;
    bool receives = false;
    bool done = false;
    ucs_status_t status = UCS_OK;
    size_t size = 0;  // sent; or the capacity, then the size received
    void* request = nullptr;
  };

  UcxTransport(std::unique_ptr<UcxWorker> worker, World world);

  static void OnSent(void* request, ucs_status_t status, void* user_data);
  static void OnReceived(void* request, ucs_status_t status, const ucp_tag_recv_info_t* info,
                         void* user_data);
  static void OnEndpointError(void* peer, ucp_ep_h endpoint, ucs_status_t status);

  ucs_status_t EnsureEndpoint(Peer& peer);
  Transfer& NewTransfer(int peer, bool receives, size_t size);
  void PostReceive(const RecvBuffer& buffer);
  void PostSend(const SendBuffer& buffer);
  void Started(void* request_or_status, Transfer& transfer);
  void Finish(Transfer& transfer, ucs_status_t status);

  // Until nothing is pending (nothing is returned), or a failure.
  std::optional<Failure> Wait(const WireOp& op);
  std::optional<Failure> CheckTransfers(const WireOp& op);
  // Sleeps until UCX has events, Cancel, the end of an awaited process, or `until`.
  std::optional<Failure> Sleep(const WireOp& op, SteadyTime until);
  // Whether an awaited process has ended, as the last poll told.
  std::optional<Failure> CheckProcesses();
  absl::Status CheckCancelled(const WireOp& op);
  AwaitedPeers Awaited() const;

  // ucx_blame.cc. Asks those that are waited for whether they live, and whom they wait for.
  void AskAwaited();
  // Answers those who ask, again when the answer changes. A failure when a rank gave up.
  std::optional<Failure> HearNotices();
  void AnswerAskers();
  void StartWatching();
  // Tells the others, hears them, and puts the error together.
  absl::Status GiveUp(const WireOp& op, Failure failure);
  void HearWhetherItGaveUp(Failure& failure);
  void SettleSuspects(const Failure& failure);
  void TellOthers(const std::vector<int>& suspects, bool gone);
  absl::Status SettledError(const WireOp& op, const Failure& failure) const;
  // Lets UCX run until `done` or `until`.
  template <typename Done>
  void RunUntil(SteadyTime until, const Done& done);

  // Ends all that runs within kTeardownTimeMax and destroys the worker.
  void Teardown();
  void CloseRemoteEndpoints(SteadyTime until);

  std::unique_ptr<UcxWorker> worker_;
  const int rank_;
  const uint64_t tag_epoch_;
  const std::chrono::nanoseconds spin_;
  std::vector<Peer> peers_;
  const int cancel_fd_;
  std::atomic<bool> cancelled_{false};
  absl::Mutex mutex_;
  absl::Status cancel_reason_ ABSL_GUARDED_BY(mutex_);

  absl::Status dead_;
  FabricCounters counters_;
  std::vector<Transfer> transfers_;  // of the exchange under way: sends, then receives
  size_t pending_ = 0;
  bool failed_ = false;  // a transfer ended with an error
  uint64_t waits_ = 0;   // begun so far
  int busy_arms_ = 0;    // times in a row that UCX would not let us sleep
  std::vector<pollfd> poll_;
  WaitGraph graph_;     // of the exchange under way
  bool asked_ = false;  // somebody, in it
  static constexpr int kAnswersMax = 256;  // in one exchange
  bool has_askers_ = false;
  bool gave_up_ = false;
  std::vector<int> answered_;  // what askers know
  int answers_left_ = kAnswersMax;
  std::unique_ptr<UcxNotices> notices_;
};

}  // namespace conclave
