#include "comm/fabric/ucx_transport.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/ucx_tag.h"
#include "glog/logging.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

// After an error, how long UCX may take to let requests and remote endpoints go.
constexpr std::chrono::milliseconds kCancelTimeMax(20);
constexpr std::chrono::milliseconds kCloseTimeMax(80);

// UCX refuses to sleep while a send waits for room at the receiver, and nothing wakes the sender
// when there is: after this many refusals in a row, each of which lets another process run, we
// sleep for a moment.
constexpr int kBusyArmsMax = 64;
constexpr std::chrono::microseconds kBusySleep(100);

// The longest sleep: a guard should UCX ever let us sleep with work queued that no event announces.
constexpr std::chrono::milliseconds kSleepMax(50);

// An operation is given up this part of its timeout before the deadline, and the ranks it waits for
// are asked as long before that.
constexpr int kReservePart = 6;
constexpr std::chrono::milliseconds kReserveMax(150);

// Reading the clock takes as long as a poll of shared memory, and a message would wait for it.
constexpr int kPollsPerClock = 16;

std::chrono::nanoseconds ReserveOf(const WireOp& op) {
  const absl::Duration part =
      std::clamp(op.op.timeout, absl::ZeroDuration(), absl::Seconds(60)) / kReservePart;
  return std::min<std::chrono::nanoseconds>(absl::ToChronoNanoseconds(part), kReserveMax);
}

timespec ToTimespec(std::chrono::nanoseconds wait) {
  constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;
  const int64_t nanoseconds = std::max<int64_t>(0, wait.count());
  return {nanoseconds / kNanosecondsPerSecond, nanoseconds % kNanosecondsPerSecond};
}

}  // namespace

UcxTransport::UcxTransport(std::unique_ptr<UcxWorker> worker, World world)
    : worker_(std::move(worker)),
      rank_(world.rank),
      tag_epoch_(world.epoch & 0xffffffffu),
      spin_(absl::ToChronoNanoseconds(world.spin)),
      cancel_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      graph_(world.rank),
      notices_(std::make_unique<UcxNotices>(worker_->handle(), tag_epoch_, rank_)) {
  CHECK_GE(cancel_fd_, 0) << "no descriptor for an eventfd";
  peers_.resize(world.peers.size());
  for (size_t i = 0; i < peers_.size(); ++i) {
    peers_[i].owner = this;
    peers_[i].facts = std::move(world.peers[i]);
  }
}

absl::StatusOr<std::unique_ptr<UcxTransport>> UcxTransport::Create(
    std::unique_ptr<UcxWorker> worker, World world) {
  std::unique_ptr<UcxTransport> transport(new UcxTransport(std::move(worker), std::move(world)));
  for (int rank = 0; rank < transport->size(); ++rank) {
    Peer& peer = transport->peers_[rank];
    if (!peer.facts.same_node || peer.facts.process.pid == getpid()) continue;
    auto watch = ProcessWatch::Open(peer.facts.process);
    if (!watch.ok()) {
      return absl::UnavailableError(absl::StrCat("connecting fabric rank ", transport->rank_,
                                                 " to rank ", rank, ": ",
                                                 watch.status().message()));
    }
    peer.watch = *std::move(watch);
  }
  return transport;
}

UcxTransport::~UcxTransport() {
  Teardown();
  close(cancel_fd_);
}

void UcxTransport::Cancel(absl::Status reason) {
  absl::MutexLock lock(&mutex_);
  if (cancelled_.load(std::memory_order_relaxed)) return;
  cancel_reason_ = std::move(reason);
  cancelled_.store(true, std::memory_order_release);
  const uint64_t one = 1;
  CHECK_EQ(write(cancel_fd_, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
}

absl::Status UcxTransport::CheckCancelled(const WireOp& op) {
  if (!cancelled_.load(std::memory_order_acquire)) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  return CancelledError(rank_, op.op, cancel_reason_);
}

void UcxTransport::OnSent(void* request, ucs_status_t status, void* user_data) {
  Transfer& transfer = *static_cast<Transfer*>(user_data);
  ucp_request_free(request);
  transfer.owner->Finish(transfer, status);
}

void UcxTransport::OnReceived(void* request, ucs_status_t status, const ucp_tag_recv_info_t* info,
                              void* user_data) {
  Transfer& transfer = *static_cast<Transfer*>(user_data);
  if (status == UCS_OK) transfer.size = info->length;  // `info` is part of the request
  // Not yet known to the transfer: it completed while it was posted, and Started frees it.
  if (transfer.request != nullptr) ucp_request_free(request);
  transfer.owner->Finish(transfer, status);
}

void UcxTransport::OnEndpointError(void* peer, ucp_ep_h endpoint, ucs_status_t status) {
  Peer& failed = *static_cast<Peer*>(peer);
  failed.error = status;
  failed.owner->failed_ = true;
}

void UcxTransport::Finish(Transfer& transfer, ucs_status_t status) {
  transfer.done = true;
  transfer.request = nullptr;
  transfer.status = status;
  if (status != UCS_OK) failed_ = true;
  CHECK_GT(pending_, 0u);
  --pending_;
}

void UcxTransport::Started(void* request_or_status, Transfer& transfer) {
  if (UCS_PTR_IS_PTR(request_or_status)) {
    if (transfer.done) return ucp_request_free(request_or_status);
    transfer.request = request_or_status;
  } else {
    Finish(transfer, UCS_PTR_STATUS(request_or_status));
  }
}

UcxTransport::Transfer& UcxTransport::NewTransfer(int peer, bool receives, size_t size) {
  CHECK_LT(transfers_.size(), transfers_.capacity()) << "UCX holds pointers to transfers";
  transfers_.push_back({this, peer, receives, false, UCS_OK, size, nullptr});
  ++pending_;
  return transfers_.back();
}

ucs_status_t UcxTransport::EnsureEndpoint(Peer& peer) {
  if (peer.endpoint != nullptr) return UCS_OK;
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
  params.address = reinterpret_cast<const ucp_address_t*>(peer.facts.address.data());
  if (!peer.facts.same_node) {
    // Error handling would rule shared memory out, so it is for other nodes only.
    params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = OnEndpointError;
    params.err_handler.arg = &peer;
  }
  return ucp_ep_create(worker_->handle(), &params, &peer.endpoint);
}

void UcxTransport::PostReceive(const RecvBuffer& buffer) {
  Transfer& transfer = NewTransfer(buffer.peer, true, buffer.bytes.size());
  Peer& peer = peers_[buffer.peer];
  if (!peer.facts.same_node) {
    // UCX tells the loss of a peer to its endpoint.
    const ucs_status_t status = EnsureEndpoint(peer);
    if (status != UCS_OK) return Finish(transfer, status);
  }
  // UCX 1.13 does not always tell the size of a receive that completes at once, so it always makes
  // a request.
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                       UCP_OP_ATTR_FIELD_MEMORY_TYPE | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.recv = OnReceived;
  param.user_data = &transfer;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  Started(ucp_tag_recv_nbx(worker_->handle(), buffer.bytes.data(), buffer.bytes.size(),
                           PayloadTag(tag_epoch_, buffer.peer), kWholeTagMask, &param),
          transfer);
}

void UcxTransport::PostSend(const SendBuffer& buffer) {
  Transfer& transfer = NewTransfer(buffer.peer, false, buffer.bytes.size());
  Peer& peer = peers_[buffer.peer];
  const ucs_status_t status = EnsureEndpoint(peer);
  if (status != UCS_OK) return Finish(transfer, status);
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.send = OnSent;
  param.user_data = &transfer;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  Started(ucp_tag_send_nbx(peer.endpoint, buffer.bytes.data(), buffer.bytes.size(),
                           PayloadTag(tag_epoch_, rank_), &param),
          transfer);
  counters_.messages_sent += 1;
  counters_.bytes_sent += static_cast<int64_t>(buffer.bytes.size());
}

absl::Status UcxTransport::Exchange(absl::Span<const SendBuffer> sends,
                                    absl::Span<RecvBuffer> recvs, const WireOp& op) {
  if (!dead_.ok()) return dead_;
  dead_ = CheckCancelled(op);
  if (dead_.ok()) {
    transfers_.clear();
    transfers_.reserve(recvs.size() + sends.size());
    // Sends first: the peers wait for them, and nothing arrives before Wait polls.
    for (const SendBuffer& send : sends) PostSend(send);
    for (const RecvBuffer& recv : recvs) PostReceive(recv);
    if (std::optional<Failure> failure = Wait(op)) dead_ = GiveUp(op, *std::move(failure));
  }
  if (!dead_.ok()) {
    Teardown();
    return dead_;
  }
  for (size_t i = 0; i < recvs.size(); ++i) recvs[i].received = transfers_[sends.size() + i].size;
  return absl::OkStatus();
}

std::optional<UcxTransport::Failure> UcxTransport::Wait(const WireOp& op) {
  const bool spins = spin_ > std::chrono::nanoseconds::zero();
  SteadyTime spin_until = SteadyTime::min();  // not known yet
  int polls = 0;                              // since the clock was read
  ++waits_;
  if (asked_ || has_askers_) StartWatching();
  busy_arms_ = 0;
  while (pending_ > 0 || failed_) {
    if (failed_) {
      if (std::optional<Failure> failure = CheckTransfers(op)) return failure;
      failed_ = false;  // a peer that nothing is awaited from
      continue;
    }
    const bool progressed = ucp_worker_progress(worker_->handle()) != 0;
    if (cancelled_.load(std::memory_order_relaxed)) return Failure{.error = CheckCancelled(op)};
    // Large messages come in pieces: the spin starts anew with each.
    if (progressed) spin_until = SteadyTime::min();
    if (pending_ == 0 || (++polls < kPollsPerClock && (progressed || spins))) continue;
    polls = 0;
    if (std::optional<Failure> failure = HearNotices()) return failure;
    const std::chrono::nanoseconds reserve = ReserveOf(op);
    const SteadyTime give_up_at = op.deadline - reserve;
    const SteadyTime ask_at = give_up_at - reserve;
    const SteadyTime now = Clock::now();
    if (now >= give_up_at) return Failure{};  // the suspects are those awaited
    if (spin_until == SteadyTime::min()) spin_until = now + spin_;
    if (progressed || now < spin_until) continue;
    if (now >= ask_at && !asked_) AskAwaited();
    std::optional<Failure> failure = Sleep(op, now < ask_at ? ask_at : give_up_at);
    if (failure.has_value()) return failure;
    spin_until = SteadyTime::min();
  }
  return std::nullopt;
}

std::optional<UcxTransport::Failure> UcxTransport::Sleep(const WireOp& op, SteadyTime until) {
  std::chrono::nanoseconds wait =
      std::min<std::chrono::nanoseconds>(until - Clock::now(), kSleepMax);
  const ucs_status_t armed = ucp_worker_arm(worker_->handle());
  if (armed == UCS_ERR_BUSY) {
    if (++busy_arms_ < kBusyArmsMax) {
      sched_yield();
      return std::nullopt;
    }
    wait = std::min<std::chrono::nanoseconds>(wait, kBusySleep);
  } else if (armed != UCS_OK) {
    return Failure{.error = FabricError(absl::StatusCode::kUnavailable, rank_, op.op,
                                        absl::StrCat("waiting for UCX: ",
                                                     ucs_status_string(armed)))};
  }
  poll_.clear();
  poll_.push_back({cancel_fd_, POLLIN, 0});
  poll_.push_back({worker_->event_fd(), POLLIN, 0});
  for (const Transfer& transfer : transfers_) {
    const int watch = peers_[transfer.peer].watch.fd();
    if (!transfer.done && watch >= 0) poll_.push_back({watch, POLLIN, 0});
  }
  const timespec timeout = ToTimespec(wait);
  const int ready = ppoll(poll_.data(), poll_.size(), &timeout, nullptr);
  CHECK(ready >= 0 || errno == EINTR) << "ppoll: " << std::strerror(errno);
  if (armed == UCS_OK) busy_arms_ = 0;
  return ready > 0 ? CheckProcesses() : std::nullopt;
}

std::optional<UcxTransport::Failure> UcxTransport::CheckProcesses() {
  std::vector<int> ended;
  for (size_t peer = 0; peer < peers_.size(); ++peer) {
    const int watch = peers_[peer].watch.fd();
    for (const pollfd& polled : poll_) {
      if (watch >= 0 && polled.fd == watch && polled.revents != 0) {
        ended.push_back(static_cast<int>(peer));
        break;
      }
    }
  }
  if (ended.empty()) return std::nullopt;
  // What the processes sent before they ended still counts.
  while (ucp_worker_progress(worker_->handle()) != 0) {
  }
  if (std::optional<Failure> failure = HearNotices()) return failure;
  for (const Transfer& transfer : transfers_) {
    if (transfer.done || std::find(ended.begin(), ended.end(), transfer.peer) == ended.end()) {
      continue;
    }
    graph_.SetAwaited({transfer.peer});
    Failure failure{.gone = true, .certain = true};
    failure.detail = absl::StrCat("process ", peers_[transfer.peer].facts.process.pid,
                                  " of this node has ended");
    return failure;
  }
  return std::nullopt;
}

std::optional<UcxTransport::Failure> UcxTransport::CheckTransfers(const WireOp& op) {
  for (const Transfer& transfer : transfers_) {
    const int peer = transfer.peer;
    if (transfer.status == UCS_ERR_MESSAGE_TRUNCATED) {
      return Failure{.error = TooLongError(rank_, op.op, peer, transfer.size)};
    }
    ucs_status_t status = transfer.status;
    if (status == UCS_OK && !transfer.done) status = peers_[peer].error;
    if (status == UCS_OK) continue;
    graph_.SetAwaited({peer});
    return Failure{.gone = true, .detail = ucs_status_string(status)};
  }
  return std::nullopt;
}

AwaitedPeers UcxTransport::Awaited() const {
  AwaitedPeers awaited;
  for (const Transfer& transfer : transfers_) {
    if (transfer.done) continue;
    (transfer.receives ? awaited.receive_from : awaited.send_to).push_back(transfer.peer);
  }
  return awaited;
}

void UcxTransport::Teardown() {
  if (worker_ == nullptr) return;
  const SteadyTime start = Clock::now();
  for (Transfer& transfer : transfers_) {
    if (transfer.receives && transfer.request != nullptr) {
      ucp_request_cancel(worker_->handle(), transfer.request);
    }
  }
  while (pending_ > 0 && Clock::now() < start + kCancelTimeMax) {
    ucp_worker_progress(worker_->handle());
  }
  CloseRemoteEndpoints(start + kCloseTimeMax);
  worker_.reset();
  notices_.reset();
}

void UcxTransport::CloseRemoteEndpoints(SteadyTime until) {
  for (Peer& peer : peers_) {
    if (peer.endpoint == nullptr || peer.facts.same_node) continue;
    ucp_request_param_t param = {};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    void* closing = ucp_ep_close_nbx(peer.endpoint, &param);
    peer.endpoint = nullptr;
    if (!UCS_PTR_IS_PTR(closing)) continue;
    while (ucp_request_check_status(closing) == UCS_INPROGRESS && Clock::now() < until) {
      ucp_worker_progress(worker_->handle());
    }
    ucp_request_free(closing);
  }
}

}  // namespace conclave
