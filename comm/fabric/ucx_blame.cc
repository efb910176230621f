// The part of UcxTransport that settles who is at fault when an exchange fails. Each rank names
// whom it waits for; those that answer live. A rank that gives up says so to all others, with the
// ranks it blames, and lingers for a moment: its own connections then end only after the others
// know, so that a rank which merely gave up is not taken for the one that failed.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/fabric/ucx_transport.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

// After a connection broke: how long to hear whether its rank had only given up.
constexpr std::chrono::milliseconds kHearsayMax(50);
// How long ranks that are asked at the last moment may take to answer.
constexpr std::chrono::milliseconds kAnswerMax(20);
// After giving up: how long the other ranks may take to hear it and give up themselves.
constexpr std::chrono::milliseconds kFarewellMax(60);

// In larger worlds only ranks with a connection are told: making one to each takes too long.
constexpr int kTellAllMax = 64;

bool Contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

}  // namespace

template <typename Done>
void UcxTransport::RunUntil(SteadyTime until, const Done& done) {
  while (!done() && Clock::now() < until) {
    if (ucp_worker_progress(worker_->handle()) != 0) continue;
    if (ucp_worker_arm(worker_->handle()) != UCS_OK) continue;
    pollfd wait = {worker_->event_fd(), POLLIN, 0};
    poll(&wait, 1, 1);
  }
}

void UcxTransport::AskSuspects() {
  for (const int rank : graph_.Suspects()) {
    Peer& peer = peers_[rank];
    if (peer.asked_in == waits_ || peer.error != UCS_OK || EnsureEndpoint(peer) != UCS_OK) continue;
    peer.asked_in = waits_;
    notices_->Send(peer.endpoint, {NoticeKind::kAsk, false, rank_, {}});
  }
}

std::optional<UcxTransport::Failure> UcxTransport::HearNotices() {
  std::optional<Failure> failure;
  while (std::optional<Notice> notice = notices_->Next()) {
    if (notice->from >= size() || notice->from == rank_) continue;
    std::erase_if(notice->ranks, [&](int rank) { return rank < 0 || rank >= size(); });
    Peer& peer = peers_[notice->from];
    if (notice->kind == NoticeKind::kAsk) {
      if (peer.error != UCS_OK || EnsureEndpoint(peer) != UCS_OK) continue;
      notices_->Send(peer.endpoint, {NoticeKind::kAnswer, false, rank_, Awaited().All()});
      continue;
    }
    graph_.Heard(notice->from, notice->ranks);
    if (notice->kind == NoticeKind::kAnswer) {
      AskSuspects();  // those it waits for
      continue;
    }
    peer.gave_up = true;
    if (!failure.has_value()) {
      failure = Failure{.gone = notice->gone, .told_by = notice->from};
    }
  }
  return failure;
}

void UcxTransport::HearWhetherItGaveUp(Failure& failure) {
  const int broken = graph_.Suspects().front();
  RunUntil(Clock::now() + kHearsayMax, [&] {
    std::optional<Failure> told = HearNotices();
    if (!told.has_value()) return false;
    if (!peers_[broken].gave_up && Contains(graph_.WaitsOf(told->told_by), broken)) return true;
    failure = *std::move(told);
    return true;
  });
}

void UcxTransport::SettleSuspects(const Failure& failure) {
  if (failure.gone && failure.told_by < 0) return;  // set where it was found
  if (failure.told_by >= 0) {
    // Only what that rank says: others that this one waits for may be well.
    graph_.SetAwaited({failure.told_by});
    if (graph_.Suspects() != std::vector<int>{failure.told_by}) return;
  }
  // Nobody is silent, so this rank itself was waited for: whom does it wait for?
  graph_.SetAwaited(Awaited().All());
  AskSuspects();
  RunUntil(Clock::now() + kAnswerMax, [&] {
    HearNotices();
    const std::vector<int> suspects = graph_.Suspects();
    return std::all_of(suspects.begin(), suspects.end(),
                       [&](int rank) { return graph_.HeardOf(rank); });
  });
}

void UcxTransport::TellOthers(const std::vector<int>& suspects, bool gone) {
  for (int rank = 0; rank < size(); ++rank) {
    Peer& peer = peers_[rank];
    if (rank == rank_ || peer.error != UCS_OK || Contains(suspects, rank)) continue;
    if (peer.endpoint == nullptr && size() > kTellAllMax) continue;
    if (EnsureEndpoint(peer) != UCS_OK) continue;
    notices_->Send(peer.endpoint, {NoticeKind::kGaveUp, gone, rank_, suspects});
  }
}

absl::Status UcxTransport::GiveUp(const WireOp& op, Failure failure) {
  if (!failure.error.ok()) return std::move(failure.error);
  if (failure.gone && failure.told_by < 0 && !failure.certain) HearWhetherItGaveUp(failure);
  SettleSuspects(failure);
  const std::vector<int> suspects = graph_.Suspects();
  TellOthers(suspects, failure.gone);
  RunUntil(Clock::now() + kFarewellMax, [&] {
    HearNotices();
    if (!notices_->Flushed()) return false;
    for (int rank = 0; rank < size(); ++rank) {
      const Peer& peer = peers_[rank];
      if (rank != rank_ && peer.endpoint != nullptr && peer.error == UCS_OK && !peer.gave_up &&
          !Contains(suspects, rank)) {
        return false;
      }
    }
    return true;
  });
  return SettledError(op, failure);
}

absl::Status UcxTransport::SettledError(const WireOp& op, const Failure& failure) const {
  Blame blame = {graph_.Suspects(), failure.detail};
  if (blame.ranks.empty()) {
    // Told by a rank that waited for this one, which waited for nobody.
    return BlameError(rank_, op.op, failure.gone,
                      {{rank_}, absl::StrCat("too late for rank ", failure.told_by)});
  }
  if (failure.told_by >= 0) blame.detail = absl::StrCat("so says rank ", failure.told_by);
  if (failure.gone || failure.told_by >= 0) {
    return BlameError(rank_, op.op, failure.gone, std::move(blame));
  }
  return DeadlineError(rank_, op.op, Awaited(), blame.ranks);
}

}  // namespace conclave
