#include "comm/fabric/random_collectives.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/reduction.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr const char* kNames[kCollectiveKinds] = {"all_reduce", "reduce_scatter", "all_gather",
                                                  "broadcast",  "all_to_all",     "exchange"};

// Sizes where an algorithm or one of UCX's protocols changes; a row of 7168 floats or bytes.
constexpr size_t kEdges[] = {16 << 10, 16 << 10, 64 << 10, 256 << 10, 7168, 4 * 7168};

// xorshift64*: bytes by the million.
class Stream {
 public:
  Stream(uint64_t seed, uint64_t member, uint64_t part)
      : state_((seed * 64 + member) * 0x9e3779b97f4a7c15u + part * 0xd1342543de82ef95u + 1) {}
  uint64_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }

 private:
  uint64_t state_;
};

std::vector<uint8_t> BytesOf(size_t size, Stream stream) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
    const uint64_t word = stream.Next();
    std::memcpy(bytes.data() + i, &word, std::min(sizeof(word), size - i));
  }
  return bytes;
}

// Floats of many magnitudes and both signs, so that the order of additions shows; some zeros and
// denormals.
std::vector<float> FloatsOf(size_t count, Stream stream) {
  std::vector<float> floats(count);
  for (float& value : floats) {
    const uint64_t word = stream.Next();
    const uint32_t exponent = word % 64 == 0 ? 0 : 100 + (word >> 8) % 40;
    value =
        std::bit_cast<float>((static_cast<uint32_t>(word >> 32) & 0x807fffffu) | exponent << 23);
  }
  return floats;
}

absl::Span<const uint8_t> AsBytes(absl::Span<const float> floats) {
  return {reinterpret_cast<const uint8_t*>(floats.data()), floats.size() * sizeof(float)};
}

// The tree of comm/base/reduction.h, element by element.
std::vector<float> SumOf(size_t count, int members, uint64_t seed) {
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < members; ++i) rows.push_back(FloatsOf(count, Stream(seed, i, 0)));
  std::vector<float> sum(count), values(members);
  for (size_t k = 0; k < count; ++k) {
    for (int i = 0; i < members; ++i) values[i] = rows[i][k];
    sum[k] = TreeSum(values.data(), members);
  }
  return sum;
}

// Elements of one message: often none or one, mostly few, seldom up to the limit or at an edge.
size_t RandomCount(size_t bytes_max, size_t element_bytes, Rng& rng) {
  const size_t limit = bytes_max / element_bytes;
  const uint64_t choice = rng.Below(100);
  if (choice < 8) return 0;
  if (choice < 16) return std::min<size_t>(1, limit);
  if (choice < 19) {
    const size_t edge = kEdges[rng.Below(std::size(kEdges))] / element_bytes;
    return std::min(limit, edge + rng.Below(3) - (edge > 0 ? 1 : 0));
  }
  // Below a random power of two: as many of each magnitude, the large ones thinned out.
  const int bits = static_cast<int>(std::bit_width(limit));
  const int small = std::min(bits, 10);
  const int power = choice == 99 ? bits : static_cast<int>(rng.Below(small + 1));
  return std::min<size_t>(limit, rng.Below(uint64_t{1} << power) + 1);
}

}  // namespace

FabricOp RandomCollectives::Op(const char* name) const {
  return {name, static_cast<int>(next_ % 1000), absl::Seconds(60)};
}

RandomCollectives::Case RandomCollectives::NextCase() {
  Rng rng(options_.seed, static_cast<uint64_t>(next_++));
  Case c;
  c.kind = static_cast<CollectiveKind>(rng.Below(kCollectiveKinds));
  constexpr size_t kElementBytes[] = {1, 2, 4, 8};
  c.element_bytes = kElementBytes[rng.Below(4)];
  c.bytes_max = options_.bytes_max;
  c.seed = rng.Next();
  // A random order of the ranks, cut into groups; this rank works in its own.
  std::vector<int> order(options_.ranks);
  std::iota(order.begin(), order.end(), 0);
  for (int i = options_.ranks - 1; i > 0; --i) std::swap(order[i], order[rng.Below(i + 1)]);
  const bool whole = rng.Chance(1, 3);
  for (int begin = 0; begin < options_.ranks;) {
    const int left = options_.ranks - begin;
    const int size = whole ? left : 1 + static_cast<int>(rng.Below(left));
    const auto first = order.begin() + begin;
    const auto own = std::find(first, first + size, fabric_.rank());
    if (own != first + size) {
      c.group.ranks.assign(first, first + size);
      c.group.index = static_cast<int>(own - first);
      c.seed += static_cast<uint64_t>(begin);  // groups differ
    }
    begin += size;
  }
  return c;
}

absl::Status RandomCollectives::RunLargest() {
  for (int kind = 0; kind < kCollectiveKinds; ++kind) {
    Case c;
    c.kind = static_cast<CollectiveKind>(kind);
    c.group.ranks.resize(options_.ranks);
    std::iota(c.group.ranks.begin(), c.group.ranks.end(), 0);
    c.group.index = fabric_.rank();
    c.seed = options_.seed;
    RETURN_IF_ERROR(Run(c));
  }
  return absl::OkStatus();
}

absl::Status RandomCollectives::RunNext() { return Run(NextCase()); }

absl::Status RandomCollectives::Run(const Case& c) {
  counts_[static_cast<int>(c.kind)] += 1;
  Rng rng(c.seed, 1);
  switch (c.kind) {
    case CollectiveKind::kAllReduce:
      return RunAllReduce(c, rng);
    case CollectiveKind::kReduceScatter:
      return RunReduceScatter(c, rng);
    case CollectiveKind::kAllGather:
      return RunAllGather(c, rng);
    case CollectiveKind::kBroadcast:
      return RunBroadcast(c, rng);
    case CollectiveKind::kAllToAll:
      return RunAllToAll(c, rng);
    case CollectiveKind::kExchange:
      return RunExchange(c, rng);
  }
  LOG(FATAL) << "no such kind: " << static_cast<int>(c.kind);
}

absl::Status RandomCollectives::Check(const Case& c, absl::Span<const uint8_t> got,
                                      absl::Span<const uint8_t> expected) {
  for (const uint8_t byte : got) digest_ = (digest_ ^ byte) * 0x100000001b3u;
  if (got.size() == expected.size() &&
      (got.empty() || std::memcmp(got.data(), expected.data(), got.size()) == 0)) {
    return absl::OkStatus();
  }
  const size_t shorter = std::min(got.size(), expected.size());
  const auto first = std::mismatch(got.begin(), got.begin() + shorter, expected.begin()).first;
  return absl::InternalError(
      absl::StrCat("operation ", next_ - 1, " of seed ", options_.seed, ", ",
                   kNames[static_cast<int>(c.kind)], " in a group of ", c.group.size(), " at rank ",
                   fabric_.rank(), ": ", got.size(), " bytes came where ", expected.size(),
                   " were due; the first wrong byte is ", first - got.begin()));
}

absl::Status RandomCollectives::RunAllReduce(const Case& c, Rng& rng) {
  const size_t count = SizeOf(c, rng, sizeof(float)) / sizeof(float);
  std::vector<float> data = FloatsOf(count, Stream(c.seed, c.group.index, 0));
  RETURN_IF_ERROR(fabric_.AllReduceSum(c.group, absl::MakeSpan(data), Op("soak_all_reduce")));
  return Check(c, AsBytes(data), AsBytes(SumOf(count, c.group.size(), c.seed)));
}

absl::Status RandomCollectives::RunReduceScatter(const Case& c, Rng& rng) {
  const size_t part = SizeOf(c, rng, sizeof(float)) / sizeof(float) / c.group.size();
  const size_t count = part * c.group.size();
  const std::vector<float> data = FloatsOf(count, Stream(c.seed, c.group.index, 0));
  std::vector<float> out(part);
  RETURN_IF_ERROR(
      fabric_.ReduceScatterSum(c.group, data, absl::MakeSpan(out), Op("soak_reduce_scatter")));
  const std::vector<float> sum = SumOf(count, c.group.size(), c.seed);
  return Check(c, AsBytes(out),
               AsBytes(sum).subspan(part * c.group.index * sizeof(float), part * sizeof(float)));
}

absl::Status RandomCollectives::RunAllGather(const Case& c, Rng& rng) {
  std::vector<std::vector<uint8_t>> out;
  for (int i = 0; i < c.group.size(); ++i) out.emplace_back(SizeOf(c, rng, c.element_bytes));
  std::vector<absl::Span<uint8_t>> spans;
  for (std::vector<uint8_t>& part : out) spans.push_back(absl::MakeSpan(part));
  const std::vector<uint8_t> own =
      BytesOf(out[c.group.index].size(), Stream(c.seed, c.group.index, 0));
  RETURN_IF_ERROR(fabric_.AllGatherV(c.group, own, spans, Op("soak_all_gather")));
  for (int i = 0; i < c.group.size(); ++i) {
    RETURN_IF_ERROR(Check(c, out[i], BytesOf(out[i].size(), Stream(c.seed, i, 0))));
  }
  return absl::OkStatus();
}

absl::Status RandomCollectives::RunBroadcast(const Case& c, Rng& rng) {
  const size_t size = SizeOf(c, rng, c.element_bytes);
  const int root = static_cast<int>(rng.Below(c.group.size()));
  std::vector<uint8_t> data = BytesOf(size, Stream(c.seed, c.group.index, 0));
  RETURN_IF_ERROR(fabric_.Broadcast(c.group, root, absl::MakeSpan(data), Op("soak_broadcast")));
  return Check(c, data, BytesOf(size, Stream(c.seed, root, 0)));
}

absl::Status RandomCollectives::RunAllToAll(const Case& c, Rng& rng) {
  const int n = c.group.size();
  std::vector<std::vector<uint8_t>> in, out;
  std::vector<size_t> sizes;
  for (int from = 0; from < n; ++from) {
    for (int to = 0; to < n; ++to) {
      const size_t size = SizeOf(c, rng, c.element_bytes) / n;
      if (from == c.group.index) out.push_back(BytesOf(size, Stream(c.seed, from, to)));
      if (to != c.group.index) continue;
      sizes.push_back(size);
      in.emplace_back(size + size % 7);  // capacity may exceed what comes
    }
  }
  const std::vector<absl::Span<const uint8_t>> sends(out.begin(), out.end());
  std::vector<RecvBuffer> recvs(n);
  for (int i = 0; i < n; ++i) recvs[i].bytes = absl::MakeSpan(in[i]);
  RETURN_IF_ERROR(AllToAllV(fabric_, c.group, sends, absl::MakeSpan(recvs), Op("soak_all_to_all")));
  for (int i = 0; i < n; ++i) {
    RETURN_IF_ERROR(Check(c, absl::MakeConstSpan(in[i]).first(recvs[i].received),
                          BytesOf(sizes[i], Stream(c.seed, i, c.group.index))));
  }
  return absl::OkStatus();
}

absl::Status RandomCollectives::RunExchange(const Case& c, Rng& rng) {
  // Up to three messages for each ordered pair, a rank's own included.
  const int n = c.group.size();
  std::vector<std::vector<uint8_t>> in, out;
  std::vector<SendBuffer> sends;
  std::vector<RecvBuffer> recvs;
  std::vector<std::pair<int, uint64_t>> sources;  // member and message of each receive
  for (int from = 0; from < n; ++from) {
    for (int to = 0; to < n; ++to) {
      const uint64_t messages = c.bytes_max == 0 ? 3 : rng.Below(4);
      for (uint64_t m = 0; m < messages; ++m) {
        const size_t size = SizeOf(c, rng, c.element_bytes) / n;
        const uint64_t part = static_cast<uint64_t>(to) * 4 + m;
        if (from == c.group.index) {
          out.push_back(BytesOf(size, Stream(c.seed, from, part)));
          sends.push_back({c.group.ranks[to], out.back()});
        }
        if (to != c.group.index) continue;
        in.emplace_back(size);
        recvs.push_back({c.group.ranks[from], absl::MakeSpan(in.back())});
        sources.emplace_back(from, part);
      }
    }
  }
  RETURN_IF_ERROR(fabric_.Exchange(sends, absl::MakeSpan(recvs), Op("soak_exchange")));
  for (size_t i = 0; i < recvs.size(); ++i) {
    const auto [from, part] = sources[i];
    RETURN_IF_ERROR(Check(c, recvs[i].bytes.first(recvs[i].received),
                          BytesOf(in[i].size(), Stream(c.seed, from, part))));
  }
  return absl::OkStatus();
}

size_t RandomCollectives::SizeOf(const Case& c, Rng& rng, size_t element_bytes) const {
  if (c.bytes_max == 0) return options_.bytes_max / element_bytes * element_bytes;
  return RandomCount(c.bytes_max, element_bytes, rng) * element_bytes;
}

}  // namespace conclave
