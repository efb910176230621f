// RandomCollectives: an endless run of operations of every kind, with random groups, sizes and
// values, each checked against a plain computation. All ranks of a world derive the same run from
// the seed; two worlds with one seed do the same on different fabrics, and their digests of all
// results are equal. For tests and the soak: driven by the thread that uses the fabric.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "comm/base/rng.h"
#include "comm/fabric/fabric.h"

namespace conclave {

enum class CollectiveKind {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kAllToAll,
  kExchange,
};
inline constexpr int kCollectiveKinds = 6;

class RandomCollectives {
 public:
  struct Options {
    int ranks = 1;
    uint64_t seed = 0;
    size_t bytes_max = 1 << 20;  // of a message; most are far smaller
  };

  // `fabric` outlives this.
  RandomCollectives(Fabric& fabric, const Options& options)
      : fabric_(fabric), options_(options) {}

  // Each kind in the group of all ranks with messages of bytes_max: after it no buffer grows.
  absl::Status RunLargest();
  // The next operation. Internal names it and the first value that is wrong; else what the fabric
  // returns.
  absl::Status RunNext();

  // Of the operations so far that this rank took part in.
  int64_t count(CollectiveKind kind) const { return counts_[static_cast<int>(kind)]; }
  // FNV-1a over all bytes received and sums made.
  uint64_t digest() const { return digest_; }

 private:
  // One operation as the whole group knows it; the seed gives every rank's data.
  struct Case {
    CollectiveKind kind = CollectiveKind::kAllReduce;
    FabricGroup group;
    size_t element_bytes = 1;
    size_t bytes_max = 0;  // 0: every message has options_.bytes_max
    uint64_t seed = 0;
  };

  Case NextCase();
  absl::Status Run(const Case& c);
  absl::Status RunAllReduce(const Case& c, Rng& rng);
  absl::Status RunReduceScatter(const Case& c, Rng& rng);
  absl::Status RunAllGather(const Case& c, Rng& rng);
  absl::Status RunBroadcast(const Case& c, Rng& rng);
  absl::Status RunAllToAll(const Case& c, Rng& rng);
  absl::Status RunExchange(const Case& c, Rng& rng);
  absl::Status Check(const Case& c, absl::Span<const uint8_t> got,
                     absl::Span<const uint8_t> expected);
  // Of the next message, in bytes.
  size_t SizeOf(const Case& c, Rng& rng, size_t element_bytes) const;
  FabricOp Op(const char* name) const;

  Fabric& fabric_;
  const Options options_;
  int64_t next_ = 0;
  int64_t counts_[kCollectiveKinds] = {};
  uint64_t digest_ = 0xcbf29ce484222325u;
};

}  // namespace conclave
