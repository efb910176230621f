#include "tests/hosts/fault_rank.h"

#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "tests/hosts/hooked_fabric.h"

namespace conclave {
namespace {

constexpr int kExchangesMax = 200;  // by then a fault has struck
constexpr absl::Duration kPatience = absl::Seconds(120);

// The phase that begins with an operation, if one does.
bool Begins(FaultPhase phase, absl::string_view op) {
  return (phase == FaultPhase::kInDispatch && absl::StartsWith(op, "moe_dispatch")) ||
         (phase == FaultPhase::kInCombine && absl::StartsWith(op, "moe_combine")) ||
         (phase == FaultPhase::kInGather && absl::StartsWith(op, "moe_gather"));
}

class Round {
 public:
  // `victim`: this rank stops at `phase` of exchange `good_before`.
  struct Part {
    bool victim = false;
    FaultPhase phase = FaultPhase::kBeforeDispatch;
    int good_before = 0;
    int exchanges = kExchangesMax;
  };

  Round(RankLine& line, Fabric& fabric, const Part& part)
      : line_(line), part_(part), hooked_(fabric, [this](const FabricOp& op, auto moment) {
          if (moment == HookedFabric::Moment::kBefore) OnOp(op);
        }) {}

  absl::Status Run(const ExchangeCase& what) {
    ExchangeRun run(hooked_, what);
    for (exchange_ = 0; exchange_ < part_.exchanges; ++exchange_) {
      RETURN_IF_ERROR(Stand(FaultPhase::kBeforeDispatch));
      RETURN_IF_ERROR(run.Dispatch());
      if (exchange_ == 0) run.Compute();
      RETURN_IF_ERROR(Stand(FaultPhase::kBetween));
      RETURN_IF_ERROR(run.Combine());
      RETURN_IF_ERROR(run.Check());
    }
    return absl::OkStatus();
  }

  std::string Report(const absl::Status& status) const {
    return absl::StrCat("failed|", op_started_us_, "|", MonotonicMicroseconds(), "|", op_, "|",
                        absl::StrJoin(FaultyRanks(status), ","), "|", status.ToString());
  }

 private:
  bool Now(FaultPhase phase) const {
    return part_.victim && exchange_ == part_.good_before && phase == part_.phase;
  }

  absl::Status Stand(FaultPhase phase) {
    if (!Now(phase)) return absl::OkStatus();
    RETURN_IF_ERROR(line_.Say(kAtPhase));
    return line_.Hear(kPatience).status();
  }

  void OnOp(const FabricOp& op) {
    op_ = op.name;
    op_started_us_ = MonotonicMicroseconds();
    if (Begins(part_.phase, op_) && Now(part_.phase)) CHECK(line_.Say(kAtPhase).ok());
  }

  RankLine& line_;
  const Part part_;
  HookedFabric hooked_;
  int exchange_ = 0;
  std::string op_ = "none";
  int64_t op_started_us_ = 0;
};

absl::StatusOr<Round::Part> ParsePart(absl::string_view text) {
  const std::vector<std::string> words = absl::StrSplit(text, ' ');
  Round::Part part;
  int victim = 0, phase = 0;
  if (words.size() != 4 || !absl::SimpleAtoi(words[0], &victim) ||
      !absl::SimpleAtoi(words[1], &phase) || !absl::SimpleAtoi(words[2], &part.good_before) ||
      !absl::SimpleAtoi(words[3], &part.exchanges)) {
    return absl::InvalidArgumentError(absl::StrCat("a round's word '", text, "'"));
  }
  part.victim = victim != 0;
  part.phase = static_cast<FaultPhase>(phase);
  return part;
}

}  // namespace

std::string FaultyWord(const FaultPlan& plan, bool victim) {
  return absl::StrCat("run|", victim ? 1 : 0, " ", static_cast<int>(plan.phase), " ",
                      plan.good_before, " ", kExchangesMax, "|", plan.exchange.ToString());
}

std::string CleanWord(const ExchangeCase& what) {
  return absl::StrCat("run|0 0 0 2|", what.ToString());
}

absl::StatusOr<FaultReport> ParseFaultReport(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('|', 5));
  FaultReport report;
  if (parts.size() != 6 || parts[0] != "failed" ||
      !absl::SimpleAtoi(parts[1], &report.op_started_us) ||
      !absl::SimpleAtoi(parts[2], &report.reported_us)) {
    return absl::InternalError(absl::StrCat("no report of a failure: '", text, "'"));
  }
  report.op = parts[3];
  for (const absl::string_view rank : absl::StrSplit(parts[4], ',', absl::SkipEmpty())) {
    report.blamed.push_back(-1);
    if (!absl::SimpleAtoi(rank, &report.blamed.back())) {
      return absl::InternalError(absl::StrCat("no rank: '", rank, "'"));
    }
  }
  report.text = parts[5];
  return report;
}

int64_t MonotonicMicroseconds() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void RunFaultRank(RankLine& line) {
  std::unique_ptr<Fabric> fabric;
  while (true) {
    const auto said = line.Hear(kPatience);
    if (!said.ok() || *said == "end") break;
    if (*said == kGoOn) continue;  // it had failed before it heard
    if (*said == "join") {
      fabric.reset();
      auto joined = JoinFabric(line);
      if (joined.ok()) fabric = *std::move(joined);
      continue;
    }
    const std::vector<std::string> words = absl::StrSplit(*said, absl::MaxSplits('|', 2));
    CHECK_EQ(words.size(), 3u) << *said;
    const auto part = ParsePart(words[1]);
    const auto what = ParseExchangeCase(words[2]);
    CHECK(part.ok() && what.ok() && fabric != nullptr) << *said;
    Round round(line, *fabric, *part);
    const absl::Status status = round.Run(*what);
    if (!line.Say(status.ok() ? "ok" : round.Report(status)).ok()) break;
  }
}

}  // namespace conclave
