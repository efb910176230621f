#include "tests/hosts/host_net.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "tests/hosts/command.h"
#include "tests/hosts/namespaces.h"

namespace conclave {
namespace {

constexpr int kHostsMax = 1024;
constexpr char kDevice[] = "eth0";  // in a host
// Of a link's rate: enough that the timer of the token bucket is no bound.
constexpr absl::Duration kBurstTime = absl::Microseconds(500);
constexpr absl::Duration kLinkUpMax = absl::Seconds(10);

// Each net of a process has a number.
int NextNumber() {
  static std::atomic<int> count{0};
  return count.fetch_add(1);
}

// Host i and its router port share a /30: .1 is the router, .2 the host.
std::string AddressIn(int host, int last) {
  const int at = host * 4 + last;
  return absl::StrFormat("10.%d.%d.%d", 64 + (at >> 16), at >> 8 & 255, at & 255);
}

absl::Status Run(const std::vector<std::string>& argv, const std::string& input = "") {
  return RunCommand(argv, {input}).status();
}

}  // namespace

HostNet::HostNet(const HostNetOptions& options)
    : options_(options),
      prefix_(absl::StrCat(OwnNamespacePrefix(), NextNumber(), "-")),
      router_(prefix_ + "router") {}

std::string HostNet::Name(int host) const { return absl::StrCat(prefix_, "h", host); }
std::string HostNet::Address(int host) const { return AddressIn(host, 2); }
std::string HostNet::RouterPort(int host) const { return absl::StrCat("h", host); }

absl::StatusOr<std::unique_ptr<HostNet>> HostNet::Create(const HostNetOptions& options) {
  if (options.hosts < 1 || options.hosts > kHostsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("hosts=", options.hosts, ": give 1 to ", kHostsMax));
  }
  RETURN_IF_ERROR(CheckNamespaceRights());
  SweepNamespaces();
  std::unique_ptr<HostNet> net(new HostNet(options));
  ASSIGN_OR_RETURN(net->janitor_, StartJanitor(net->prefix_));
  RETURN_IF_ERROR(net->Build());
  return net;
}

HostNet::~HostNet() {
  RemoveNamespaces(prefix_);
  if (janitor_ > 0) ReleaseJanitor(janitor_);
}

absl::Status HostNet::Build() {
  RETURN_IF_ERROR(Run({"ip", "netns", "add", router_}));
  std::string in_router = "link set lo up\n";
  for (int host = 0; host < hosts(); ++host) {
    RETURN_IF_ERROR(Run({"ip", "netns", "add", Name(host)}));
    const std::string port = RouterPort(host);
    absl::StrAppendFormat(
        &in_router,
        "link add %s mtu %d type veth peer name %s mtu %d netns %s\naddr add %s/30 dev %s\n"
        "link set %s up\n",
        port, options_.frame_bytes, kDevice, options_.frame_bytes, Name(host), AddressIn(host, 1),
        port, port);
  }
  RETURN_IF_ERROR(Run({"ip", "-n", router_, "-batch", "-"}, in_router));
  RETURN_IF_ERROR(
      Run({"ip", "netns", "exec", router_, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"}));
  for (int host = 0; host < hosts(); ++host) {
    const std::string in_host = absl::StrFormat(
        "link set lo up\naddr add %s/30 dev %s\nlink set %s up\nroute add default via %s\n",
        Address(host), kDevice, kDevice, AddressIn(host, 1));
    RETURN_IF_ERROR(Run({"ip", "-n", Name(host), "-batch", "-"}, in_host));
    RETURN_IF_ERROR(SetShape(host, LinkDirection::kOut, options_.link));
    RETURN_IF_ERROR(SetShape(host, LinkDirection::kIn, options_.link));
  }
  for (int host = 0; host < hosts(); ++host) RETURN_IF_ERROR(AwaitLinkUp(host));
  return absl::OkStatus();
}

absl::Status HostNet::AwaitLinkUp(int host) const {
  // The kernel tells a device of its new carrier up to a second late, and UCX leaves out devices
  // without one. Each look is a process, which is all the waiting that is needed.
  const absl::Time deadline = absl::Now() + kLinkUpMax;
  for (const bool in_host : {true, false}) {
    const std::string name = in_host ? kDevice : RouterPort(host);
    while (true) {
      ASSIGN_OR_RETURN(const std::string state,
                       RunCommand({"ip", "-n", in_host ? Name(host) : router_, "link", "show",
                                   "dev", name}));
      if (absl::StrContains(state, "state UP")) break;
      if (absl::Now() < deadline) continue;
      return absl::DeadlineExceededError(absl::StrCat("link ", name, " did not come up: ", state));
    }
  }
  return absl::OkStatus();
}

absl::Status HostNet::SetShape(int host, LinkDirection direction, const LinkShape& shape) {
  CHECK(host >= 0 && host < hosts()) << "no host " << host;
  const bool out = direction == LinkDirection::kOut;
  std::vector<std::string> argv = {"tc",  "-n",   out ? Name(host) : router_,      "qdisc",
                                   "replace", "dev", out ? kDevice : RouterPort(host), "root"};
  if (shape.bits_per_second <= 0) {
    argv.insert(argv.end(), {"pfifo", "limit", "1000"});
    return Run(argv);
  }
  const double bytes_per_second = static_cast<double>(shape.bits_per_second) / 8;
  const int64_t burst_least = std::max<int64_t>(
      2 * (options_.frame_bytes + 64),
      static_cast<int64_t>(bytes_per_second * absl::ToDoubleSeconds(kBurstTime)));
  const int64_t burst = shape.burst_bytes > 0 ? shape.burst_bytes : burst_least;
  argv.insert(argv.end(), {"tbf", "rate", absl::StrCat(shape.bits_per_second, "bit"), "burst",
                           absl::StrCat(burst), "latency",
                           absl::StrCat(absl::ToInt64Microseconds(shape.queue), "us")});
  return Run(argv);
}

absl::Status HostNet::Enter(int host) const { return EnterNamespace(Name(host)); }

absl::Status HostNet::SetLinkUp(int host, bool up) {
  CHECK(host >= 0 && host < hosts()) << "no host " << host;
  RETURN_IF_ERROR(
      Run({"ip", "-n", router_, "link", "set", RouterPort(host), up ? "up" : "down"}));
  return up ? AwaitLinkUp(host) : absl::OkStatus();
}

absl::Status HostNet::SetBlackHole(int host, LinkDirection direction, bool on) {
  CHECK(host >= 0 && host < hosts()) << "no host " << host;
  // A rule of its own priority for each host and direction, so that it can be taken back.
  const std::string priority = absl::StrCat(1000 + 2 * host + static_cast<int>(direction));
  // Taken away first: a second rule would outlive one removal.
  const auto removed = RunCommand({"ip", "-n", router_, "rule", "del", "pref", priority});
  if (!on) return absl::OkStatus();
  const std::string side = direction == LinkDirection::kOut ? "from" : "to";
  return Run(
      {"ip", "-n", router_, "rule", "add", "pref", priority, side, Address(host), "blackhole"});
}

absl::Status HostNet::Restore(int host) {
  for (const LinkDirection direction : {LinkDirection::kOut, LinkDirection::kIn}) {
    RETURN_IF_ERROR(SetBlackHole(host, direction, false));
    RETURN_IF_ERROR(SetShape(host, direction, options_.link));
  }
  return SetLinkUp(host, true);
}

}  // namespace conclave
