#include "placement/migration/migration_test_inputs.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "glog/logging.h"
#include "placement/migration/rank_bytes.h"

namespace conclave {
namespace {

constexpr int64_t kUnitBytes = 1 << 20;

using Rows = std::vector<std::vector<int32_t>>;  // [units] owners, ascending

int Between(int low, int high, Rng* rng) {
  return low + static_cast<int>(rng->Below(static_cast<uint64_t>(high - low + 1)));
}

std::vector<int32_t> Draw(const std::vector<int32_t>& ranks, int count, Rng* rng) {
  std::vector<int32_t> pool = ranks;
  count = std::min<int>(count, static_cast<int>(pool.size()));
  for (int i = 0; i < count; ++i) {
    std::swap(pool[i], pool[Between(i, static_cast<int>(pool.size()) - 1, rng)]);
  }
  pool.resize(count);
  std::sort(pool.begin(), pool.end());
  return pool;
}

Rows RandomRows(int units, const std::vector<int32_t>& ranks, int copies_max, Rng* rng) {
  Rows rows;
  for (int u = 0; u < units; ++u) rows.push_back(Draw(ranks, Between(1, copies_max, rng), rng));
  return rows;
}

// Swaps owners of random pairs of units where neither gets one twice.
Rows Permuted(Rows rows, int swaps, const std::vector<char>& lost, Rng* rng) {
  const int units = static_cast<int>(rows.size());
  for (int i = 0; i < swaps && units > 1; ++i) {
    std::vector<int32_t>& a = rows[Between(0, units - 1, rng)];
    std::vector<int32_t>& b = rows[Between(0, units - 1, rng)];
    int32_t& from_a = a[rng->Below(a.size())];
    int32_t& from_b = b[rng->Below(b.size())];
    const bool twice =
        std::count(a.begin(), a.end(), from_b) > 0 || std::count(b.begin(), b.end(), from_a) > 0;
    if (&a == &b || twice || lost[from_a] || lost[from_b]) continue;
    std::swap(from_a, from_b);
  }
  for (std::vector<int32_t>& row : rows) std::sort(row.begin(), row.end());
  return rows;
}

// The new map has live owners only.
void MoveOffLost(const std::vector<char>& lost, const std::vector<int32_t>& live, Rows* rows,
                 Rng* rng) {
  for (std::vector<int32_t>& row : *rows) {
    row.erase(std::remove_if(row.begin(), row.end(), [&](int32_t r) { return lost[r]; }),
              row.end());
    if (row.empty()) row = Draw(live, 1, rng);
  }
}

void AddRanks(int ranks, Rng* rng, MigrationInput* input) {
  const int per_node = Between(1, 4, rng);
  const int stores = Between(0, 2, rng);  // none, some, all nodes
  for (int r = 0; r < ranks; ++r) {
    const int node = r / per_node;
    const bool store = stores == 2 || (stores == 1 && node % 2 == 0);
    input->ranks.push_back({node, 0, 400e9, 40e9, store ? 5e9 : 0.0});
  }
}

// Rows without a live owner get one, unless a store has the units.
void KeepReadable(const std::vector<char>& lost, const std::vector<int32_t>& live,
                  const MigrationInput& input, Rows* rows, Rng* rng) {
  const bool store = std::any_of(live.begin(), live.end(),
                                 [&](int32_t r) { return input.ranks[r].store_bandwidth > 0; });
  for (std::vector<int32_t>& row : *rows) {
    const bool readable =
        store || std::any_of(row.begin(), row.end(), [&](int32_t r) { return !lost[r]; });
    if (readable) continue;
    row.push_back(live[rng->Below(live.size())]);
    std::sort(row.begin(), row.end());
  }
}

void AddFreeBytes(FreeMemory memory, Rng* rng, MigrationInput* input) {
  const RankBytes bytes = CountRankBytes(*input);
  for (size_t r = 0; r < input->ranks.size(); ++r) {
    int64_t free = std::max<int64_t>(0, bytes.after[r] - bytes.capacity[r]);
    if (memory == FreeMemory::kLittle && rng->Chance(1, 2)) free += kUnitBytes;
    if (memory == FreeMemory::kPlenty) free += bytes.after[r];
    input->ranks[r].free_bytes = free;
  }
}

}  // namespace

RandomMigration MakeRandomMigration(const RandomMigrationOptions& options, Rng* rng) {
  RandomMigration made;
  MigrationInput& input = made.input;
  const int ranks = Between(1, options.ranks_max, rng);
  AddRanks(ranks, rng, &input);
  std::vector<char> lost(ranks);
  std::vector<int32_t> all(ranks);
  std::iota(all.begin(), all.end(), 0);
  if (options.lost_ranks && ranks > 2 && rng->Chance(1, 4)) {
    for (const int32_t rank : Draw(all, Between(1, ranks / 2, rng), rng)) {
      input.lost.push_back(rank);
      lost[rank] = true;
    }
  }
  std::vector<int32_t> live;
  std::copy_if(all.begin(), all.end(), std::back_inserter(live),
               [&](int32_t r) { return !lost[r]; });
  made.memory = static_cast<FreeMemory>(rng->Below(3));
  made.permutation = rng->Chance(1, 2);
  const int slices = Between(1, options.slices_max, rng);
  const int layers = Between(1, options.layers_max, rng);
  for (int layer = 0; layer < layers; ++layer) {
    const bool dense = layer > 0 && rng->Chance(1, 8);
    const int units = dense ? 0 : slices * Between(1, options.experts_max, rng);
    Rows from = RandomRows(units, all, options.copies_max, rng);
    KeepReadable(lost, live, input, &from, rng);
    Rows to = made.permutation ? Permuted(from, Between(0, 3 * units, rng), lost, rng)
                               : RandomRows(units, live, options.copies_max, rng);
    MoveOffLost(lost, live, &to, rng);
    input.from.layers.emplace_back(slices, from);
    input.to.layers.emplace_back(slices, to);
    const int64_t bytes = options.even_bytes ? kUnitBytes : kUnitBytes * Between(1, 4, rng) / 2;
    input.unit_bytes.push_back(dense ? 0 : bytes);
  }
  AddFreeBytes(made.memory, rng, &input);
  return made;
}

int GiveWhatItNeeds(absl::string_view message, MigrationInput* input) {
  const std::vector<std::string> words =
      absl::StrSplit(message, absl::ByAnyChar(" ,;:"), absl::SkipEmpty());
  int named = 0;
  for (size_t i = 0; i + 5 < words.size(); ++i) {  // "rank 3 needs 100 bytes more"
    int rank = 0;
    int64_t bytes = 0;
    if (words[i] != "rank" || words[i + 2] != "needs" || words[i + 5] != "more") continue;
    CHECK(absl::SimpleAtoi(words[i + 1], &rank) && absl::SimpleAtoi(words[i + 3], &bytes));
    input->ranks.at(rank).free_bytes += bytes;
    ++named;
  }
  return named;
}

MigrationInput MakeMigration(const std::vector<std::vector<int32_t>>& from,
                             const std::vector<std::vector<int32_t>>& to, int ranks) {
  MigrationInput input;
  input.from.layers.emplace_back(1, from);
  input.to.layers.emplace_back(1, to);
  for (int r = 0; r < ranks; ++r) input.ranks.push_back({0, 0, 100.0, 10.0, 0.0});
  input.unit_bytes = {100};
  return input;
}

MigrationInput MakeLargeMigration(int layers, int experts, int ranks, int percent, Rng* rng) {
  MigrationInput input;
  for (int r = 0; r < ranks; ++r) {
    input.ranks.push_back({r / 8, kUnitBytes, 400e9, 40e9, 5e9});
  }
  std::vector<int32_t> dealt(static_cast<size_t>(layers) * experts);
  for (size_t i = 0; i < dealt.size(); ++i) dealt[i] = static_cast<int32_t>(i) % ranks;
  std::vector<int32_t> moved = dealt;
  std::vector<size_t> chosen;
  for (size_t i = 0; i < dealt.size(); ++i) {
    if (rng->Chance(static_cast<uint32_t>(percent), 100)) chosen.push_back(i);
  }
  for (size_t i = 0; i + 1 < chosen.size(); ++i) {
    std::swap(moved[chosen[i]], moved[chosen[i + rng->Below(chosen.size() - i)]]);
  }
  for (int layer = 0; layer < layers; ++layer) {
    Rows from;
    Rows to;
    for (int expert = 0; expert < experts; ++expert) {
      const size_t i = static_cast<size_t>(layer) * experts + expert;
      from.push_back({dealt[i]});
      to.push_back({moved[i]});
    }
    input.from.layers.emplace_back(1, from);
    input.to.layers.emplace_back(1, to);
    input.unit_bytes.push_back(kUnitBytes);
  }
  return input;
}

}  // namespace conclave
