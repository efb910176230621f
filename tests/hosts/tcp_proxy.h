// TcpProxy: TCP connections between named parties that tests delay, slow down, stall, cut into
// partitions and reset while they run. A route is a port on which party `from` reaches party `to`;
// rules name the two parties, so one rule holds for all their connections. Bounded: connections and
// bytes held in each direction. One thread of its own; every method may be called from any thread.
// Time is real, or moved by Advance alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/hosts/proxy_pipe.h"

namespace conclave {

struct TcpProxyOptions {
  std::string listen_address = "127.0.0.1";
  bool virtual_time = false;
  size_t buffer_bytes = 256 << 10;  // of each direction of a connection
  int connections_max = 512;        // more are reset
};

struct ProxyRoute {
  std::string from;
  std::string to;
  std::string address;  // IPv4, where `to` listens
  int port = 0;
};

// Of all connections together.
struct ProxyCounters {
  int64_t accepted = 0;
  int64_t open = 0;
  int64_t bytes_taken = 0;  // read from either party
  int64_t bytes_given = 0;  // written to either party
};

class TcpProxy {
 public:
  static absl::StatusOr<std::unique_ptr<TcpProxy>> Start(const TcpProxyOptions& options);
  virtual ~TcpProxy() = default;  // resets what is open

  // The port for `from` to connect to, chosen by the system.
  virtual absl::StatusOr<int> AddRoute(const ProxyRoute& route) = 0;

  // What happens to bytes that party `from` sends to `to`, whoever connected; "*" is any party. The
  // rule set last that fits counts. It holds for bytes not yet taken, a stall also for those held.
  virtual void SetRule(const std::string& from, const std::string& to, const LinkRule& rule) = 0;
  // Stalls both directions between any of `side` and any party that is not of it.
  virtual void Partition(const std::set<std::string>& side) = 0;
  // Takes all rules and partitions back.
  virtual void Heal() = 0;
  // Resets the open connections between two parties ("*": any), in both directions.
  virtual void Reset(const std::string& one, const std::string& other) = 0;

  // Virtual time: moves it on.
  virtual void Advance(absl::Duration duration) = 0;
  // False when `fits` does not become true of the counters within `timeout` of real time.
  virtual bool Await(const std::function<bool(const ProxyCounters&)>& fits,
                     absl::Duration timeout) = 0;
};

}  // namespace conclave
