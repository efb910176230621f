#include "worker/weights/dummy_source.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "worker/weights/tensor_names.h"
#include "worker/weights/tensor_region.h"
#include "xxhash.h"

namespace conclave {
namespace {

// A power of two: 2 MiB of bf16, which stays in a core's second-level cache.
constexpr int64_t kTableElements = 1 << 20;
constexpr double kStandardDeviation = 0.02;
// Of the sum of four uniform 16-bit numbers: 2^16 * sqrt(4 / 12).
constexpr double kSumDeviation = 65536 * 0.57735026918962576;

void StoreElement(float value, Dtype dtype, uint8_t* to) {
  switch (dtype) {
    case Dtype::kF32:
      std::memcpy(to, &value, 4);
      return;
    case Dtype::kF16: {
      const uint16_t bits = FloatToF16(value);
      std::memcpy(to, &bits, 2);
      return;
    }
    case Dtype::kBf16: {
      const uint16_t bits = FloatToBf16(value);
      std::memcpy(to, &bits, 2);
      return;
    }
    default:
      LOG(FATAL) << "dummy weights cannot be " << DtypeName(dtype);
  }
}

std::vector<uint8_t> MakeTable(uint64_t seed, Dtype dtype) {
  const size_t bytes = DtypeBytes(dtype);
  std::vector<uint8_t> table(kTableElements * bytes);
  Rng rng(seed);
  for (int64_t i = 0; i < kTableElements; ++i) {
    const uint64_t bits = rng.Next();
    double sum = -2.0 * 65535;
    for (int shift = 0; shift < 64; shift += 16)
      sum += static_cast<double>((bits >> shift) & 0xffff);
    StoreElement(static_cast<float>(sum * (kStandardDeviation / kSumDeviation)), dtype,
                 table.data() + i * bytes);
  }
  return table;
}

// A bijection that spreads neighbouring rows over the table.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 29)) * 0xD6E8FEB86659FD93u;
  return x ^ (x >> 32);
}

}  // namespace

DummySource::DummySource(const ModelShape& shape, uint64_t seed)
    : seed_(seed),
      dtype_(shape.weight_dtype),
      architecture_(ArchitectureName(shape.architecture)),
      table_(MakeTable(seed, shape.weight_dtype)) {
  for (NamedTensor& tensor : AllTensors(shape)) {
    dims_.emplace(std::move(tensor.name), std::move(tensor.dims));
  }
}

absl::StatusOr<TensorInfo> DummySource::Find(absl::string_view name) const {
  const auto found = dims_.find(name);
  if (found != dims_.end()) return TensorInfo{dtype_, found->second};
  return absl::NotFoundError(
      absl::StrCat("the dummy ", architecture_, " model has no tensor '", name, "'"));
}

absl::Status DummySource::Read(absl::string_view name, const TensorRegion& region, void* out) {
  ASSIGN_OR_RETURN(const TensorInfo info, Find(name));
  RETURN_IF_ERROR(CheckRegion(name, info.dims, region));
  const int64_t bytes = static_cast<int64_t>(DtypeBytes(dtype_));
  const int64_t columns = region.col_end - region.col_begin;
  uint8_t* to = static_cast<uint8_t*>(out);
  const uint64_t key = XXH3_64bits_withSeed(name.data(), name.size(), seed_);
  for (int64_t row = region.row_begin; row < region.row_end; ++row) {
    if (info.dims.size() == 1) {  // a norm
      StoreElement(1.0f, dtype_, to);
      to += columns * bytes;
      continue;
    }
    const uint64_t offset = Mix(key + static_cast<uint64_t>(row));
    int64_t at = static_cast<int64_t>((offset + region.col_begin) % kTableElements);
    for (int64_t left = columns; left > 0; at = 0) {
      const int64_t count = std::min(left, kTableElements - at);
      std::memcpy(to, table_.data() + at * bytes, count * bytes);
      to += count * bytes;
      left -= count;
    }
  }
  bytes_read_.fetch_add((region.row_end - region.row_begin) * columns * bytes,
                        std::memory_order_relaxed);
  return absl::OkStatus();
}

}  // namespace conclave
