#include "comm/fabric/nccl/nccl_communicator.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

absl::StatusCode CodeOf(NcclResult result) {
  switch (result) {
    case NcclResult::kSystemError:
    case NcclResult::kRemoteError:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kInternal;
  }
}

bool IsError(NcclResult result) {
  return result != NcclResult::kSuccess && result != NcclResult::kInProgress;
}

absl::Duration Left(const WireOp& op) {
  return std::max(absl::ZeroDuration(),
                  absl::FromChrono(op.deadline - std::chrono::steady_clock::now()));
}

// "; waited for ranks 1, 2".
std::string WaitedFor(const AwaitedPeers& awaited) {
  std::vector<int> ranks = awaited.receive_from;
  ranks.insert(ranks.end(), awaited.send_to.begin(), awaited.send_to.end());
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  if (ranks.empty()) return "";
  return absl::StrCat("; waited for rank", ranks.size() == 1 ? " " : "s ",
                      absl::StrJoin(ranks, ", "));
}

NcclConfig Nonblocking() {
  NcclConfig config;
  config.blocking = 0;
  return config;
}

}  // namespace

NcclCommunicator::NcclCommunicator(NcclCommunicatorOptions options)
    : options_(std::move(options)), comm_(std::make_shared<NcclComm>(nullptr)) {
  CHECK(options_.api != nullptr && options_.device != nullptr && options_.cancel != nullptr);
  CHECK(options_.index >= 0 && options_.index < static_cast<int>(options_.ranks.size()));
}

NcclCommunicator::~NcclCommunicator() {
  if (const absl::Status status = Abort(); !status.ok()) LOG(ERROR) << status;
}

absl::Status NcclCommunicator::Apply(NcclEvent event) {
  ASSIGN_OR_RETURN(state_, NextNcclState(state_, event));
  return absl::OkStatus();
}

absl::Status NcclCommunicator::Check(NcclResult result, const char* attempt) const {
  if (!IsError(result)) return absl::OkStatus();
  const char* last = options_.api->get_last_error(*comm_);
  std::string text = absl::StrCat(attempt, " failed: ", options_.api->get_error_string(result));
  if (last != nullptr && *last != '\0') absl::StrAppend(&text, "; NCCL's last error: ", last);
  return absl::Status(CodeOf(result), text);
}

absl::StatusOr<bool> NcclCommunicator::Settled(const char* attempt) const {
  NcclResult async = NcclResult::kSuccess;
  RETURN_IF_ERROR(Check(options_.api->comm_get_async_error(*comm_, &async), attempt));
  RETURN_IF_ERROR(Check(async, attempt));
  return async != NcclResult::kInProgress;
}

NcclWaitLimits NcclCommunicator::Limits(const WireOp& op) const {
  return {op.deadline, options_.spin, options_.cancel};
}

NcclWaitResult NcclCommunicator::AwaitSettled(const char* attempt, const WireOp& op) const {
  return NcclPoll(Limits(op), [&] { return Settled(attempt); });
}

AwaitedPeers NcclCommunicator::AllOthers() const {
  AwaitedPeers awaited;
  for (const int rank : options_.ranks) {
    if (rank != options_.rank()) awaited.receive_from.push_back(rank);
  }
  return awaited;
}

absl::Status NcclCommunicator::EndedBy(const NcclWaitResult& result, const WireOp& op,
                                       AwaitedPeers awaited) const {
  switch (result.end) {
    case NcclWaitEnd::kDone:
      return absl::OkStatus();
    case NcclWaitEnd::kFailed:
      return FabricError(result.error.code(), options_.rank(), op.op,
                         absl::StrCat(result.error.message(), WaitedFor(awaited)));
    case NcclWaitEnd::kCancelled:
      return CancelledError(options_.rank(), op.op, result.error);
    case NcclWaitEnd::kDeadline:
      break;
  }
  if (awaited.receive_from.empty() && awaited.send_to.empty()) {
    return FabricError(
        absl::StatusCode::kDeadlineExceeded, options_.rank(), op.op,
        absl::StrCat("the device did not finish within ", absl::FormatDuration(op.op.timeout),
                     "; see the kernel's log for Xid errors"));
  }
  return DeadlineError(options_.rank(), op.op, std::move(awaited));
}

absl::Status NcclCommunicator::Conclude(const NcclWaitResult& result, const WireOp& op,
                                        absl::FunctionRef<AwaitedPeers()> awaited) {
  if (result.end == NcclWaitEnd::kDone) return Apply(NcclEvent::kComplete);
  RETURN_IF_ERROR(Apply(NcclEvent::kFault));
  absl::Status aborted;
  if (!options_.shrink_on_fault) aborted = Abort();
  const absl::Status error = EndedBy(result, op, awaited());
  if (aborted.ok()) return error;
  return absl::Status(error.code(), absl::StrCat(error.message(), "; ", aborted.message()));
}

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Init(
    NcclCommunicatorOptions options, const NcclUniqueId& id, const WireOp& op) {
  RETURN_IF_ERROR(options.device->MakeCurrent());
  const NcclCommunicatorOptions& o = options;
  const int size = static_cast<int>(o.ranks.size());
  std::unique_ptr<NcclCommunicator> made(new NcclCommunicator(options));
  if (const absl::Status reason = o.cancel->reason(); !reason.ok()) {
    return CancelledError(o.rank(), op.op, reason);
  }
  RETURN_IF_ERROR(made->Apply(NcclEvent::kInit));
  NcclConfig config = Nonblocking();
  constexpr char kAttempt[] = "ncclCommInitRankConfig";
  const NcclResult called =
      o.api->comm_init_rank_config(made->comm_.get(), size, id, o.index, &config);
  NcclWaitResult end;
  if (IsError(called)) {
    end = {NcclWaitEnd::kFailed, made->Check(called, kAttempt)};
  } else {
    end = made->AwaitSettled(kAttempt, op);
  }
  RETURN_IF_ERROR(made->Conclude(end, op, [&] { return made->AllOthers(); }));
  return made;
}

NcclWaitResult NcclCommunicator::RunGroup(const NcclWork& work, const WireOp& op) {
  constexpr char kAttempt[] = "ncclGroupEnd";
  const auto failed = [](absl::Status error) -> NcclWaitResult {
    return {NcclWaitEnd::kFailed, std::move(error)};
  };
  NcclResult started = options_.api->group_start();
  if (IsError(started)) return failed(Check(started, "ncclGroupStart"));
  const NcclResult enqueued = work.enqueue(*comm_);
  const NcclResult ended = options_.api->group_end();  // also after an error, which it clears
  if (IsError(enqueued)) return failed(Check(enqueued, "enqueueing the NCCL operation"));
  if (IsError(ended)) return failed(Check(ended, kAttempt));
  // A thread of NCCL launches the kernels of a nonblocking communicator: what is put into the
  // stream before it has done so would run before them.
  NcclWaitResult end = AwaitSettled(kAttempt, op);
  if (end.end != NcclWaitEnd::kDone) return end;
  if (work.then != nullptr) {
    if (absl::Status status = work.then(); !status.ok()) return failed(std::move(status));
  }
  return NcclPoll(Limits(op), [&]() -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const bool settled, Settled("the NCCL operation"));
    if (!settled) return false;
    return options_.device->Done();
  });
}

absl::Status NcclCommunicator::Run(const NcclWork& work, const WireOp& op) {
  RETURN_IF_ERROR(options_.device->MakeCurrent());
  const auto awaited = [&] { return work.awaited == nullptr ? AllOthers() : work.awaited(); };
  if (absl::Status reason = options_.cancel->reason(); !reason.ok() && NcclStateHasHandle(state_)) {
    return Conclude({NcclWaitEnd::kCancelled, std::move(reason)}, op, awaited);
  }
  RETURN_IF_ERROR(Apply(NcclEvent::kOperate));
  return Conclude(RunGroup(work, op), op, awaited);
}

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Shrink(std::vector<int> lost,
                                                                           const WireOp& op) {
  NcclCommunicatorOptions options = options_;
  options.ranks.clear();
  for (int i = 0; i < static_cast<int>(options_.ranks.size()); ++i) {
    if (std::binary_search(lost.begin(), lost.end(), i)) continue;
    if (i == options_.index) options.index = static_cast<int>(options.ranks.size());
    options.ranks.push_back(options_.ranks[i]);
  }
  if (lost.empty() || !std::is_sorted(lost.begin(), lost.end()) ||
      options.ranks.size() + lost.size() != options_.ranks.size() ||
      std::binary_search(lost.begin(), lost.end(), options_.index)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shrink of an NCCL communicator of ", options_.ranks.size(), ": lost members [",
        absl::StrJoin(lost, ", "), "]; give ascending indexes of others, at least one"));
  }
  RETURN_IF_ERROR(options_.device->MakeCurrent());
  RETURN_IF_ERROR(Apply(NcclEvent::kShrink));
  constexpr char kAttempt[] = "ncclCommShrink";
  std::unique_ptr<NcclCommunicator> child(new NcclCommunicator(options));
  auto called = std::make_shared<NcclResult>(NcclResult::kSuccess);
  // It waits for the parent's kernels before it returns.
  const bool returned =
      CallWithin(Left(op), [api = options_.api, parent = comm_, made = child->comm_, lost, called] {
        NcclConfig config = Nonblocking();
        std::vector<int> excluded = lost;
        *called = api->comm_shrink(*parent, excluded.data(), static_cast<int>(excluded.size()),
                                   made.get(), &config, kNcclShrinkAbort);
      });
  NcclWaitResult end;
  if (!returned) {
    end.end = NcclWaitEnd::kDeadline;
  } else if (IsError(*called)) {
    end = {NcclWaitEnd::kFailed, Check(*called, kAttempt)};
  } else {
    end = AwaitSettled(kAttempt, op);  // the parent's: the child's handle comes last
  }
  if (end.end == NcclWaitEnd::kDone && *child->comm_ == nullptr) {
    end = {NcclWaitEnd::kFailed, absl::InternalError("ncclCommShrink gave no communicator")};
  }
  const bool made = end.end == NcclWaitEnd::kDone;
  RETURN_IF_ERROR(Apply(made ? NcclEvent::kComplete : NcclEvent::kFault));
  const absl::Status aborted = Abort();
  if (!made) {
    if (!returned || *child->comm_ == nullptr) return EndedBy(end, op, child->AllOthers());
  }
  RETURN_IF_ERROR(child->Apply(NcclEvent::kInit));
  RETURN_IF_ERROR(child->Conclude(end, op, [&] { return child->AllOthers(); }));
  RETURN_IF_ERROR(aborted);
  return child;
}

absl::Status NcclCommunicator::Stuck(const char* call) {
  RETURN_IF_ERROR(Apply(NcclEvent::kAbortHung));
  return FabricError(
      absl::StatusCode::kInternal, options_.rank(), {"abort"},
      absl::StrCat(call, " did not return within ", absl::FormatDuration(options_.abort_timeout),
                   ": its kernels may still write to buffers; start the worker "
                   "again"));
}

absl::Status NcclCommunicator::Finalize(const WireOp& op) {
  RETURN_IF_ERROR(options_.device->MakeCurrent());
  RETURN_IF_ERROR(Apply(NcclEvent::kFinalize));
  constexpr char kAttempt[] = "ncclCommFinalize";
  const NcclResult called = options_.api->comm_finalize(*comm_);
  NcclWaitResult end;
  if (IsError(called)) {
    end = {NcclWaitEnd::kFailed, Check(called, kAttempt)};
  } else {
    end = AwaitSettled(kAttempt, op);
  }
  if (end.end != NcclWaitEnd::kDone) {
    RETURN_IF_ERROR(Apply(NcclEvent::kFault));
    const absl::Status aborted = Abort();
    return aborted.ok() ? EndedBy(end, op, AllOthers()) : aborted;
  }
  const bool returned = CallWithin(
      options_.abort_timeout, [api = options_.api, comm = comm_] { api->comm_destroy(*comm); });
  if (returned) return Apply(NcclEvent::kComplete);
  RETURN_IF_ERROR(Apply(NcclEvent::kFault));
  RETURN_IF_ERROR(Apply(NcclEvent::kAbort));
  return Stuck("ncclCommDestroy");
}

absl::Status NcclCommunicator::Abort() {
  if (!NcclStateHasHandle(state_)) return absl::OkStatus();
  if (state_ != NcclState::kFaulted) RETURN_IF_ERROR(Apply(NcclEvent::kFault));
  RETURN_IF_ERROR(Apply(NcclEvent::kAbort));
  if (*comm_ == nullptr) return Apply(NcclEvent::kComplete);  // init gave no handle
  const SteadyTime deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(options_.abort_timeout);
  const bool returned = CallWithin(options_.abort_timeout,
                                   [api = options_.api, comm = comm_] { api->comm_abort(*comm); });
  if (!returned) return Stuck("ncclCommAbort");
  const NcclCancel nobody;
  const NcclWaitResult drained =
      NcclPoll({deadline, options_.spin, &nobody}, [&] { return options_.device->Done(); });
  // An error of the device also ends what ran on it.
  if (drained.end == NcclWaitEnd::kDeadline) return Stuck("work on the stream after ncclCommAbort");
  return Apply(NcclEvent::kComplete);
}

}  // namespace conclave
