#include "tests/sim/scenario.h"

#include <array>

#include "absl/strings/str_format.h"
#include "comm/base/rng.h"

namespace conclave {
namespace {

constexpr uint64_t kScenarioStream = 11;

ModelShape SmallMoe() {
  ModelShape shape;
  shape.architecture = Architecture::kQwen3Moe;
  shape.layers = 3;
  shape.hidden = 16;
  shape.heads = 4;
  shape.kv_heads = 4;
  shape.head_dim = 4;
  shape.ffn = 32;
  shape.vocab = 61;
  shape.context_tokens = 96;
  shape.moe = {.experts = 11, .top_k = 2, .ffn = 16};
  shape.eos_token_ids = {0};
  return shape;
}

int Between(Rng& rng, int low, int high) {
  return low + static_cast<int>(rng.Below(high - low + 1));
}

absl::Duration MillisBetween(Rng& rng, int low, int high) {
  return absl::Milliseconds(Between(rng, low, high));
}

void ChooseGrid(Rng& rng, Scenario* scenario) {
  static constexpr std::array<const char*, 10> kSpecs = {
      "",     "tp=1",      "tp=2",      "dp=2",           "tp=2,dp=2",
      "pp=2", "dp=2,pp=2", "dp=4,pp=2", "tp=4,dp=2,pp=1", "tp=2,dp=2,slices=2"};
  const std::string text = kSpecs[rng.Below(kSpecs.size())];
  const int spares = Between(rng, 0, 2);
  if (text.empty()) {
    scenario->workers = Between(rng, 1, 6);
    scenario->coordinator.workers_expected = scenario->workers;
    return;
  }
  scenario->coordinator.spec = ParseParallelSpec(text).value();
  scenario->workers = scenario->coordinator.spec->WorkerCount() + spares;
}

}  // namespace

std::string Scenario::ToString() const {
  return absl::StrFormat(
      "seed %d: %d workers, %s, %d pages of %d, batch %d tokens %d sequences, queue %d, network "
      "drop %d dup %d reorder %d per mille, step %s",
      seed, workers, coordinator.spec.has_value() ? coordinator.spec->ToString() : "automatic",
      kv_pages, coordinator.cache.page_tokens, coordinator.batch_tokens_max,
      coordinator.sequences_max, coordinator.waiting_max, faulty.drop_per_mille,
      faulty.duplicate_per_mille, faulty.reorder_per_mille, absl::FormatDuration(step_time));
}

Scenario MakeScenario(uint64_t seed, Canary canary) {
  Rng rng(seed, kScenarioStream);
  Scenario scenario;
  scenario.seed = seed;
  scenario.canary = canary;
  CoordinatorOptions& coordinator = scenario.coordinator;
  coordinator.shape = SmallMoe();
  coordinator.model = "sim";
  coordinator.source.dummy = true;
  coordinator.cache.page_tokens = 1 << Between(rng, 1, 4);
  coordinator.batch_tokens_max = Between(rng, 2, 40);
  coordinator.sequences_max = Between(rng, 1, 8);
  coordinator.waiting_max = rng.Chance(1, 4) ? Between(rng, 1, 8) : 64;
  // Room for one request of the longest kind (40 tokens) at least, and for a few at most.
  const int pages_of_one = (40 + coordinator.cache.page_tokens) / coordinator.cache.page_tokens;
  scenario.kv_pages = pages_of_one * Between(rng, 1, 4);
  ChooseGrid(rng, &scenario);
  scenario.step_time = MillisBetween(rng, 2, 25);
  scenario.prepare_time = MillisBetween(rng, 10, 1500);
  scenario.peer_lost_hints = rng.Chance(1, 2);
  if (rng.Chance(3, 4)) {
    scenario.faulty.drop_per_mille = static_cast<uint32_t>(rng.Below(120));
    scenario.faulty.duplicate_per_mille = static_cast<uint32_t>(rng.Below(120));
    scenario.faulty.reorder_per_mille = static_cast<uint32_t>(rng.Below(120));
    scenario.faulty.delay_max = absl::Microseconds(Between(rng, 500, 20000));
  }
  scenario.fault_gap = MillisBetween(rng, 300, 5000);
  scenario.requests = Between(rng, 10, 150);
  return scenario;
}

std::optional<Canary> ParseCanary(const std::string& name) {
  if (name == "none") return Canary::kNone;
  if (name == "token") return Canary::kToken;
  if (name == "page") return Canary::kPage;
  if (name == "hang") return Canary::kHang;
  return std::nullopt;
}

}  // namespace conclave
