#include "comm/actor/sim_event.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "xxhash.h"

namespace conclave {
namespace {

const char* KindName(SimEvent::Kind kind) {
  switch (kind) {
    case SimEvent::Kind::kStart:
      return "start";
    case SimEvent::Kind::kMessage:
      return "message";
    case SimEvent::Kind::kTimer:
      return "timer";
    case SimEvent::Kind::kPost:
      return "post";
    case SimEvent::Kind::kPeerLost:
      return "lost peer";
    case SimEvent::Kind::kWorld:
      return "event";
  }
  return "unknown";
}

}  // namespace

std::string SimEvent::ToString() const {
  std::string text =
      absl::StrFormat("%.6f %s", absl::ToDoubleSeconds(at - SimEpoch()), to.empty() ? "world" : to);
  if (envelope != nullptr) {
    absl::StrAppend(&text, " <- ", from, " ", MessageName(envelope->message), " ",
                    envelope->epoch.ToString());
    return text;
  }
  absl::StrAppend(&text, " ", KindName(kind));
  if (kind == Kind::kTimer) absl::StrAppend(&text, " ", tag);
  if (kind == Kind::kPeerLost) absl::StrAppend(&text, " ", from);
  return text;
}

void SimEventLog::Record(SimEvent event, uint64_t digest) {
  event.order = ++count_;
  const uint64_t words[] = {hash_,
                            event.order,
                            static_cast<uint64_t>(absl::ToUnixNanos(event.at)),
                            static_cast<uint64_t>(event.kind),
                            XXH3_64bits(event.from.data(), event.from.size()),
                            XXH3_64bits(event.to.data(), event.to.size()),
                            digest};
  hash_ = XXH3_64bits(words, sizeof(words));
  if (observer_) observer_(event);
}

}  // namespace conclave
