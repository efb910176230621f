// ProxyPipe: one direction of a connection through the proxy: bytes wait for their delay and for
// their turn at the bandwidth, in order, in bounded memory. Time is given with each call, so that
// it may be virtual. A value of one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

// What a link does to the bytes of one direction.
struct LinkRule {
  absl::Duration delay;
  int64_t bytes_per_second = 0;  // 0: no bound
  // Nothing passes, not even an end or a reset, and the connection stays: what a lost host, a
  // pulled cable or a partition looks like. Bytes wait and go on when it is taken back.
  bool stalled = false;
  bool operator==(const LinkRule&) const = default;
};

class ProxyPipe {
 public:
  // Through a delay d at most capacity / d bytes a second pass.
  explicit ProxyPipe(size_t capacity) : capacity_(capacity) {}

  size_t Room() const { return capacity_ - held_; }
  bool empty() const { return pieces_.empty(); }
  // At most Room() bytes.
  void Put(absl::string_view bytes, const LinkRule& rule, absl::Time now);
  // No bytes come after it.
  void PutEnd(const LinkRule& rule, absl::Time now);

  // The first bytes whose time has come; Took takes them, or some of them, away.
  absl::string_view Ready(absl::Time now) const;
  void Took(size_t bytes);
  // True when all bytes are gone and the end's time has come.
  bool EndReady(absl::Time now) const;
  bool ended() const { return end_at_ < absl::InfiniteFuture(); }
  // When Ready or EndReady will next have something; InfiniteFuture when nothing waits.
  absl::Time NextRelease() const;

 private:
  struct Piece {
    std::string bytes;
    size_t taken = 0;
    absl::Time release;
  };
  absl::Time Release(size_t bytes, const LinkRule& rule, absl::Time now);

  const size_t capacity_;
  size_t held_ = 0;
  std::deque<Piece> pieces_;
  absl::Time sent_at_ = absl::InfinitePast();     // when the link has sent what came so far
  absl::Time last_release_ = absl::InfinitePast();  // none overtakes
  absl::Time end_at_ = absl::InfiniteFuture();
};

}  // namespace conclave
