#include "comm/fabric/collectives_soak.h"

#include <algorithm>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/process_world.h"
#include "comm/fabric/random_collectives.h"

namespace conclave {
namespace {

constexpr int kSamples = 10;

// Lines of a rank: "use RESIDENT HEAP FILES MAPPINGS BYTES", "end DIGEST", or an error.
std::string UseLine(const ResourceUse& use) {
  return absl::StrCat("use ", use.resident_bytes, " ", use.heap_bytes, " ", use.open_files, " ",
                      use.shared_mappings, " ", use.shared_bytes);
}

absl::Status SoakRank(ProcessRank& rank, const SoakOptions& options) {
  RandomCollectives run(*rank.fabric(), {.ranks = options.ranks,
                                         .seed = options.seed,
                                         .bytes_max = options.bytes_max});
  RETURN_IF_ERROR(run.RunLargest());
  int64_t done = 0;
  for (int sample = 1; sample <= kSamples; ++sample) {
    for (; done < options.operations * sample / kSamples; ++done) RETURN_IF_ERROR(run.RunNext());
    rank.Say(UseLine(OwnResourceUse()));
  }
  rank.Say(absl::StrCat("end ", run.digest()));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReceiveLine(ProcessWorld& world, int rank, absl::string_view word,
                                        absl::Duration timeout) {
  absl::StatusOr<std::string> line = world.Receive(rank, timeout);
  if (line.ok() && absl::StartsWith(*line, word)) return line->substr(word.size());
  return absl::InternalError(absl::StrCat(
      "soak, rank ", rank, ": ", line.ok() ? *line : std::string(line.status().message())));
}

absl::Status GrowthError(int rank, const char* what, int64_t before, int64_t after) {
  return absl::InternalError(absl::StrCat("soak, rank ", rank, ": ", what, " grew from ", before,
                                          " to ", after, " after the warm-up"));
}

}  // namespace

absl::StatusOr<SoakReport> RunSoak(const SoakOptions& options,
                                   const std::function<void(const SoakSample&)>& on_sample) {
  ProcessWorldOptions world_options;
  world_options.one_node = options.one_node;
  ASSIGN_OR_RETURN(const std::unique_ptr<ProcessWorld> world,
                   ProcessWorld::Start(options.ranks, world_options, [&](ProcessRank& rank) {
                     const absl::Status status = SoakRank(rank, options);
                     if (!status.ok()) rank.Say(std::string(status.message()));
                     rank.AwaitGoOn();
                   }));
  SoakReport report;
  for (int i = 1; i <= kSamples; ++i) {
    SoakSample sample;
    sample.operations = options.operations * i / kSamples;
    for (int rank = 0; rank < options.ranks; ++rank) {
      ASSIGN_OR_RETURN(const std::string line, ReceiveLine(*world, rank, "use ", options.stall));
      ResourceUse& use = sample.ranks.emplace_back();
      std::istringstream(line) >> use.resident_bytes >> use.heap_bytes >> use.open_files >>
          use.shared_mappings >> use.shared_bytes;
    }
    on_sample(sample);
    report.samples.push_back(std::move(sample));
  }
  for (int rank = 0; rank < options.ranks; ++rank) {
    ASSIGN_OR_RETURN(const std::string line, ReceiveLine(*world, rank, "end ", options.stall));
    std::istringstream(line) >> report.digests.emplace_back();
  }
  for (int rank = 0; rank < options.ranks; ++rank) world->GoOn(rank);
  for (int rank = 0; rank < options.ranks; ++rank) {
    if (world->EndsWell(rank)) continue;
    return absl::InternalError(absl::StrCat("soak, rank ", rank, ": the process ended badly"));
  }
  return report;
}

absl::Status CheckNoGrowth(const SoakReport& report, const SoakLimits& limits) {
  if (report.samples.empty()) return absl::InvalidArgumentError("soak: the report has no sample");
  const SoakSample& first = report.samples.front();
  const SoakSample& last = report.samples.back();
  for (size_t i = 0; i < first.ranks.size(); ++i) {
    const ResourceUse& a = first.ranks[i];
    const ResourceUse& b = last.ranks[i];
    const int rank = static_cast<int>(i);
    if (b.heap_bytes > a.heap_bytes + limits.heap_bytes) {
      return GrowthError(rank, "heap bytes", a.heap_bytes, b.heap_bytes);
    }
    if (b.resident_bytes > a.resident_bytes + limits.resident_bytes) {
      return GrowthError(rank, "resident bytes", a.resident_bytes, b.resident_bytes);
    }
    if (b.open_files > a.open_files) {
      return GrowthError(rank, "open files", a.open_files, b.open_files);
    }
    if (b.shared_bytes > a.shared_bytes) {
      return GrowthError(rank, "bytes of shared memory", a.shared_bytes, b.shared_bytes);
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
