#include "tests/hosts/proxy_pipe.h"

#include <algorithm>

#include "glog/logging.h"

namespace conclave {
namespace {

// A link with a bandwidth releases its bytes this often, not all at the end.
constexpr absl::Duration kQuantum = absl::Milliseconds(10);
constexpr int64_t kPieceLeast = 64;  // bytes

}  // namespace

absl::Time ProxyPipe::Release(size_t bytes, const LinkRule& rule, absl::Time now) {
  sent_at_ = std::max(sent_at_, now);
  if (rule.bytes_per_second > 0) {
    sent_at_ += absl::Seconds(1) * (static_cast<double>(bytes) / rule.bytes_per_second);
  }
  last_release_ = std::max(last_release_, sent_at_ + rule.delay);
  return last_release_;
}

void ProxyPipe::Put(absl::string_view bytes, const LinkRule& rule, absl::Time now) {
  CHECK_LE(bytes.size(), Room());
  CHECK(!ended());
  held_ += bytes.size();
  size_t piece_max = bytes.size();
  if (rule.bytes_per_second > 0) {
    const double quantum = rule.bytes_per_second * absl::ToDoubleSeconds(kQuantum);
    piece_max = std::max(kPieceLeast, static_cast<int64_t>(quantum));
  }
  while (!bytes.empty()) {
    const absl::string_view piece = bytes.substr(0, piece_max);
    bytes.remove_prefix(piece.size());
    pieces_.push_back({std::string(piece), 0, Release(piece.size(), rule, now)});
  }
}

void ProxyPipe::PutEnd(const LinkRule& rule, absl::Time now) {
  if (!ended()) end_at_ = Release(0, rule, now);
}

absl::string_view ProxyPipe::Ready(absl::Time now) const {
  if (pieces_.empty() || pieces_.front().release > now) return {};
  return absl::string_view(pieces_.front().bytes).substr(pieces_.front().taken);
}

void ProxyPipe::Took(size_t bytes) {
  CHECK(!pieces_.empty());
  Piece& piece = pieces_.front();
  CHECK_LE(piece.taken + bytes, piece.bytes.size());
  piece.taken += bytes;
  held_ -= bytes;
  if (piece.taken == piece.bytes.size()) pieces_.pop_front();
}

bool ProxyPipe::EndReady(absl::Time now) const { return pieces_.empty() && end_at_ <= now; }

absl::Time ProxyPipe::NextRelease() const {
  return pieces_.empty() ? end_at_ : pieces_.front().release;
}

}  // namespace conclave
