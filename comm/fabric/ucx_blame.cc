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

// How often a rank corrects what it blames.
constexpr int kTellsMax = 4;

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

void UcxTransport::StartWatching() {
  graph_ = WaitGraph(rank_);
  asked_ = false;
  answers_left_ = kAnswersMax;
  answered_.clear();
}

void UcxTransport::AskAwaited() {
  asked_ = true;
  const std::vector<int> awaited = Awaited().All();
  graph_.SetAwaited(awaited);
  for (const int rank : awaited) {
    Peer& peer = peers_[rank];
    if (peer.asked_in == waits_ || peer.error != UCS_OK || EnsureEndpoint(peer) != UCS_OK) continue;
    peer.asked_in = waits_;
    notices_->Send(peer.endpoint,
                   {.kind = NoticeKind::kAsk, .exchange = static_cast<uint32_t>(waits_)});
  }
}

void UcxTransport::AnswerAskers() {
  graph_.SetAwaited(Awaited().All());
  const std::vector<int> suspects = graph_.Suspects();
  for (Peer& peer : peers_) {
    // A new question is answered even when nothing is new.
    const bool known = peer.answered_in == peer.asks_in && suspects == answered_;
    if (peer.asks_in == 0 || known || answers_left_ == 0) continue;
    if (peer.error != UCS_OK || EnsureEndpoint(peer) != UCS_OK) continue;
    --answers_left_;
    peer.answered_in = peer.asks_in;
    notices_->Send(peer.endpoint, {.kind = NoticeKind::kAnswer,
                                   .exchange = peer.asks_in,
                                   .ranks = suspects});
  }
  answered_ = suspects;
}

std::optional<UcxTransport::Failure> UcxTransport::HearNotices() {
  std::optional<Failure> failure;
  bool news = false;
  while (std::optional<Notice> notice = notices_->Next()) {
    if (notice->from >= size() || notice->from == rank_) continue;
    std::erase_if(notice->ranks, [&](int rank) { return rank < 0 || rank >= size(); });
    Peer& peer = peers_[notice->from];
    switch (notice->kind) {
      case NoticeKind::kAsk:
        peer.asks_in = notice->exchange;
        has_askers_ = true;
        if (!gave_up_) AskAwaited();  // what they say is the answer
        news = true;
        break;
      case NoticeKind::kAnswer:
        if (notice->exchange != static_cast<uint32_t>(waits_)) break;
        graph_.Heard(notice->from, notice->ranks);
        news = true;
        break;
      case NoticeKind::kGaveUp:
        graph_.Heard(notice->from, notice->ranks);
        peer.gave_up = true;
        if (!failure.has_value()) {
          failure = Failure{.gone = notice->gone, .told_by = notice->from};
        }
        break;
    }
  }
  if (news && has_askers_ && !gave_up_) AnswerAskers();
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
  AskAwaited();
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
    notices_->Send(peer.endpoint, {.kind = NoticeKind::kGaveUp, .gone = gone, .ranks = suspects});
  }
}

absl::Status UcxTransport::GiveUp(const WireOp& op, Failure failure) {
  if (!failure.error.ok()) return std::move(failure.error);
  if (failure.gone && failure.told_by < 0 && !failure.certain) HearWhetherItGaveUp(failure);
  SettleSuspects(failure);
  gave_up_ = true;
  std::vector<int> told;
  int tells_left = kTellsMax;
  RunUntil(Clock::now() + kFarewellMax, [&] {
    HearNotices();
    if (graph_.Suspects() != told && tells_left-- > 0) {
      told = graph_.Suspects();
      TellOthers(told, failure.gone);
    }
    if (!notices_->Flushed()) return false;
    for (int rank = 0; rank < size(); ++rank) {
      const Peer& peer = peers_[rank];
      if (rank != rank_ && peer.endpoint != nullptr && peer.error == UCS_OK && !peer.gave_up &&
          !Contains(told, rank)) {
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
