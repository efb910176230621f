// Microseconds of everything around a MoE layer's expert products. Prefill: the router's product,
// gate with table, permutation and weighted combine of 8192 tokens (hidden 2048, 128 experts, top
// 8), with bytes and their share of a streaming read of the same run. Decode: the gate kernel,
// add_norm and token_embed, chained by dependent launches in one graph over distinct layers. With
// --json the prefill parts alone, as one line.
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "comm/device/cuda_device.h"
#include "glog/logging.h"
#include "kernels/add_norm/add_norm.h"
#include "kernels/add_norm/device_test_kit.h"
#include "kernels/cuda/stream_read.h"
#include "kernels/moe_route/moe_route.h"
#include "kernels/moe_route/route_test_kit.h"
#include "kernels/token_embed/token_embed.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

constexpr int kHidden = 2048, kExperts = 128, kTopK = 8, kRuns = 9, kRepeats = 5, kLayers = 48;
using Enqueue = std::function<absl::Status(CudaStream)>;

// Microseconds of one of `kRepeats` in a row.
double Measure(const Enqueue& enqueue) {
  return GraphMicroseconds(
             [&](CudaStream stream) {
               absl::Status status;
               for (int i = 0; i < kRepeats && status.ok(); ++i) status = enqueue(stream);
               return status;
             },
             kRuns) /
         kRepeats;
}

// The layer of a prefill of `tokens`.
struct Prefill {
  explicit Prefill(int token_count) : tokens(token_count), routing({token_count, kExperts, kTopK}) {
    Rng rng(1);
    const RandomTiles tiles(rng, kExperts, kHidden, 0.1f);
    router_tiles = std::make_unique<OnDevice<uint16_t>>(tiles.tiles);
    router = tiles.On(*router_tiles);
    x = std::make_unique<OnDevice<uint16_t>>(RandomBf16Values(rng, int64_t{tokens} * kHidden, 1));
    logits = std::make_unique<OnDevice<float>>(int64_t{tokens} * kExperts);
    permuted = std::make_unique<OnDevice<uint16_t>>(int64_t{tokens} * kTopK * kHidden);
    residual = std::make_unique<OnDevice<float>>(int64_t{tokens} * kHidden);
    residual->Fill(0);
    scratch = std::make_unique<OnDevice<uint8_t>>(RouteScratchBytes(tokens, kExperts));
  }
  absl::Status Router(CudaStream stream) {
    return RouterLogits({.tokens = tokens,
                         .x = x->get(),
                         .x_stride = kHidden,
                         .router = router,
                         .logits = logits->get(),
                         .logits_stride = kExperts},
                        stream, true);
  }
  absl::Status Gate(CudaStream stream) {
    return PrefillGate({.tokens = tokens,
                        .experts = kExperts,
                        .logits = logits->get(),
                        .logits_stride = kExperts,
                        .choice = routing.choice(),
                        .table = routing.table(nullptr),
                        .scratch = scratch->get()},
                       stream, true);
  }
  absl::Status Permute(CudaStream stream) {
    return PermuteRows({.tokens = tokens,
                        .hidden = kHidden,
                        .top_k = kTopK,
                        .x = x->get(),
                        .row_of_entry = routing.row_of_entry.get(),
                        .x_perm = permuted->get()},
                       stream, true);
  }
  absl::Status Combine(CudaStream stream) {
    AddNormArgs args = {.tokens = tokens,
                        .hidden = kHidden,
                        .residual_in = residual->get(),
                        .residual_out = residual->get()};
    args.pending = {.kind = PendingKind::kRowsBf16,
                    .data = permuted->get(),
                    .count = kTopK,
                    .row_stride = kHidden,
                    .gate_weights = routing.gate_weights.get(),
                    .row_of_entry = routing.row_of_entry.get()};
    return AddNorm(args, stream, true);
  }
  absl::Status All(CudaStream stream) {
    for (const auto part : {&Prefill::Router, &Prefill::Gate, &Prefill::Permute}) {
      if (const auto status = (this->*part)(stream); !status.ok()) return status;
    }
    return Combine(stream);
  }

  int tokens;
  DeviceRouting routing;
  WeightView router;
  std::unique_ptr<OnDevice<uint16_t>> router_tiles, x, permuted;
  std::unique_ptr<OnDevice<float>> logits, residual;
  std::unique_ptr<OnDevice<uint8_t>> scratch;
};

struct Part {
  const char* name;
  double us;
  double bytes;
};

std::vector<Part> MeasurePrefill(int tokens) {
  Prefill p(tokens);
  const auto via = [&p](absl::Status (Prefill::*part)(CudaStream)) {
    return Measure([&p, part](CudaStream stream) { return (p.*part)(stream); });
  };
  const double rows = 1.0 * tokens * kHidden, entries = 1.0 * tokens * kTopK;
  const double logit_bytes = 4.0 * tokens * kExperts;
  std::vector<Part> parts = {
      {"router", via(&Prefill::Router), rows * 2 + logit_bytes},
      {"gate_table", via(&Prefill::Gate), logit_bytes + entries * 20},
      {"permute", via(&Prefill::Permute), rows * 2 * (1 + kTopK) + entries * 4},
      {"combine", via(&Prefill::Combine), rows * (2 * kTopK + 8) + entries * 8}};
  double bytes = 0;
  for (const Part& part : parts) bytes += part.bytes;
  parts.push_back({"total", via(&Prefill::All), bytes});
  return parts;
}

void PrintPrefill(int tokens, double read) {
  for (const Part& part : MeasurePrefill(tokens)) {
    std::printf("prefill %5d %-12s %9.2f us %8.1f MB %5.1f %% of a read\n", tokens, part.name,
                part.us, part.bytes / 1e6, 100 * part.bytes / part.us * 1e6 / read);
  }
}

void PrintJson() {
  std::printf("{\"tokens\": 8192, \"hidden\": %d, \"experts\": %d, \"top_k\": %d", kHidden,
              kExperts, kTopK);
  for (const Part& part : MeasurePrefill(8192)) {
    std::printf(", \"%s_us\": %.2f", part.name, part.us);
  }
  std::printf("}\n");
}

// A chain of gates over kLayers routers, and of add_norms.
void PrintDecode(int tokens, int prefetch_megabytes) {
  Rng rng(2);
  const RandomTiles tiles(rng, kExperts, kHidden, 0.1f);
  std::vector<std::unique_ptr<OnDevice<uint16_t>>> routers;
  for (int l = 0; l < kLayers; ++l) {
    routers.push_back(std::make_unique<OnDevice<uint16_t>>(tiles.tiles));
  }
  constexpr int kSplits = 4;
  const int64_t size = int64_t{tokens} * kHidden;
  const OnDevice<float> residual(RandomValues(rng, size, 1)), weight(RandomValues(rng, kHidden, 1)),
      pending(RandomValues(rng, size * kSplits, 0.1f));
  const OnDevice<uint16_t> normed(size);
  const OnDevice<int32_t> ticket(std::vector<int32_t>{0});
  const int64_t prefetch_bytes = int64_t{prefetch_megabytes} << 20;
  const OnDevice<uint8_t> prefetch(prefetch_bytes * 4);
  DeviceRouting routing({tokens, kExperts, kTopK});
  AddNormArgs norm = {.tokens = tokens,
                      .hidden = kHidden,
                      .residual_in = residual.get(),
                      .residual_out = residual.get(),
                      .norm_weight = weight.get(),
                      .normed = normed.get()};
  norm.pending = {.kind = PendingKind::kSlabs,
                  .data = pending.get(),
                  .count = kSplits,
                  .slab_stride = size,
                  .row_stride = kHidden};
  const auto per_layer = [&](const std::function<absl::Status(CudaStream, int)>& enqueue) {
    return GraphMicroseconds(
               [&](CudaStream stream) {
                 absl::Status status;
                 for (int l = 0; l < kLayers && status.ok(); ++l) status = enqueue(stream, l);
                 return status;
               },
               kRuns) /
           kLayers;
  };
  const double gate = per_layer([&](CudaStream stream, int l) {
    return DecodeGate(
        {.norm = norm,
         .router = tiles.On(*routers[l]),
         .choice = routing.choice(),
         .table = routing.table(nullptr),
         .ticket = ticket.get(),
         .prefetch = prefetch_bytes > 0 ? prefetch.get() + l % 4 * prefetch_bytes : nullptr,
         .prefetch_bytes = prefetch_bytes},
        stream, true);
  });
  const double add_norm =
      per_layer([&](CudaStream stream, int) { return AddNorm(norm, stream, true); });
  std::printf("decode %3d tokens: gate %6.2f us (prefetching %d MB), add_norm %6.2f us\n", tokens,
              gate, prefetch_megabytes, add_norm);
}

void PrintRows(int tokens, double read) {
  Rng rng(3);
  const RandomTiles tiles(rng, 4096, kHidden, 1);
  const OnDevice<uint16_t> table(tiles.tiles), normed(int64_t{tokens} * kHidden);
  const OnDevice<float> residual(int64_t{tokens} * kHidden), weight(RandomValues(rng, kHidden, 1)),
      pending(int64_t{tokens} * kHidden);
  std::vector<int32_t> ids(tokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(4096));
  const OnDevice<int32_t> token_id(ids);
  const double embed = Measure([&](CudaStream stream) {
    return TokenEmbed({.tokens = tokens,
                       .table = tiles.On(table),
                       .token_id = token_id.get(),
                       .residual = residual.get()},
                      stream, true);
  });
  AddNormArgs norm = {.tokens = tokens,
                      .hidden = kHidden,
                      .residual_in = residual.get(),
                      .residual_out = residual.get(),
                      .norm_weight = weight.get(),
                      .normed = normed.get()};
  norm.pending = {
      .kind = PendingKind::kSlabs, .data = pending.get(), .count = 1, .row_stride = kHidden};
  const double add_norm = Measure([&](CudaStream stream) { return AddNorm(norm, stream, true); });
  const double rows = 1.0 * tokens * kHidden;
  std::printf(
      "%5d tokens: token_embed %8.2f us (%4.1f %% of a read), add_norm %8.2f us (%4.1f %%)"
      "\n",
      tokens, embed, 100 * rows * 6 / embed * 1e6 / read, add_norm,
      100 * rows * 14 / add_norm * 1e6 / read);
}

int Main(bool json) {
  if (const auto status = CheckCudaDevice(0); !status.ok()) {
    std::printf("skipped: %s\n", std::string(status.message()).c_str());
    return 0;
  }
  if (json) {
    PrintJson();
    return 0;
  }
  const auto read = MeasureDeviceReadBandwidth(int64_t{2} << 30);
  CHECK(read.ok()) << read.status();
  std::printf("read %.0f GB/s\n", *read / 1e9);
  for (const int tokens : {1, 4, 8, 16, 32, 64}) PrintDecode(tokens, 0);
  for (const int tokens : {1, 64}) PrintDecode(tokens, 8);
  for (const int tokens : {1, 64, 16384}) PrintRows(tokens, *read);
  for (const int tokens : {128, 1024, 8192, 16384}) PrintPrefill(tokens, *read);
  return 0;
}

}  // namespace
}  // namespace conclave
int main(int argc, char** argv) {
  return conclave::Main(argc > 1 && std::strcmp(argv[1], "--json") == 0);
}
#else
int main() { std::printf("skipped: built without CUDA\n"); }
#endif
