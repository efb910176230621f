// Latency of exchanges and sums over UCX between processes of this machine, by size and number of
// ranks; and what it takes to start a fabric. Prints one line a size: microseconds per call (median
// of the calls of rank 0) and the share of a copy at memory speed that the bytes would allow.
// Usage: fabric_bench [tcp]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/fabric/process_world.h"
#include "comm/fabric/ucx_fabric.h"
#include "glog/logging.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Microseconds to copy `bytes` once within this process.
double CopyTime(size_t bytes) {
  std::vector<uint8_t> from(bytes, 1), to(bytes, 2);
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    std::memcpy(to.data(), from.data(), bytes);
    best = std::min(best, MicrosecondsSince(start));
  }
  return best;
}

double Median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

int CallsFor(size_t bytes) { return bytes < (1 << 16) ? 2000 : bytes < (1 << 20) ? 200 : 20; }

// Every rank sends `bytes` to every other.
double TimeExchange(ProcessRank& rank, size_t bytes) {
  const std::vector<uint8_t> out(bytes, 1);
  std::vector<std::vector<uint8_t>> in(rank.ranks(), std::vector<uint8_t>(bytes));
  std::vector<SendBuffer> sends;
  std::vector<RecvBuffer> recvs;
  for (int peer = 0; peer < rank.ranks(); ++peer) {
    if (peer == rank.rank()) continue;
    sends.push_back({peer, out});
    recvs.push_back({peer, absl::MakeSpan(in[peer])});
  }
  std::vector<double> times;
  for (int call = 0; call < CallsFor(bytes); ++call) {
    const auto start = Clock::now();
    const absl::Status status =
        rank.fabric()->Exchange(sends, absl::MakeSpan(recvs), {"bench_exchange", call});
    CHECK(status.ok()) << status;
    times.push_back(MicrosecondsSince(start));
  }
  return Median(std::move(times));
}

double TimeSum(ProcessRank& rank, size_t bytes) {
  std::vector<float> data(bytes / sizeof(float), 0.0f);
  std::vector<double> times;
  for (int call = 0; call < CallsFor(bytes); ++call) {
    const auto start = Clock::now();
    const absl::Status status =
        rank.fabric()->AllReduceSum(rank.Whole(), absl::MakeSpan(data), {"bench_sum", call});
    CHECK(status.ok()) << status;
    times.push_back(MicrosecondsSince(start));
  }
  return Median(std::move(times));
}

void Measure(ProcessRank& rank) {
  for (const size_t bytes : {size_t{4}, size_t{4} << 10, size_t{16} << 10, size_t{64} << 10,
                             size_t{1} << 20, size_t{8} << 20}) {
    const double exchange = TimeExchange(rank, bytes);
    const double sum = TimeSum(rank, bytes);
    if (rank.rank() != 0) continue;
    rank.Say(absl::StrCat(bytes, " B  exchange ", exchange, " us (ratio to one copy ",
                          exchange / CopyTime(bytes), ")  all_reduce ", sum, " us"));
  }
  rank.Say("end");
}

void Main(bool one_node) {
  for (const int ranks : {2, 4, 8}) {
    const auto start = Clock::now();
    ProcessWorld world(ranks, one_node, Measure);
    std::printf("%d ranks, started and connected in %.1f ms\n", ranks,
                MicrosecondsSince(start) / 1000);
    for (int rank = 0; rank < ranks; ++rank) {
      while (true) {
        const auto text = world.Receive(rank, absl::Seconds(100));
        CHECK(text.ok()) << text.status();
        if (*text == "end") break;
        std::printf("  %s\n", text->c_str());
      }
    }
  }
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  conclave::Main(argc < 2 || std::string(argv[1]) != "tcp");
  return 0;
}
