#include "kernels/gemm/packed_matrix.h"

#include <emmintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "glog/logging.h"
#include "kernels/tensor/cpu_support.h"

namespace conclave {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Zeroed memory that starts on a huge page; the kernel backs it with huge pages where it has them.
void* MapHuge(int64_t bytes) {
  const int64_t reserved = bytes + kHugePage;
  void* map = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  PCHECK(map != MAP_FAILED) << "mapping " << bytes << " bytes for a weight matrix";
  const uintptr_t begin = reinterpret_cast<uintptr_t>(map);
  const uintptr_t aligned = RoundUp(begin, kHugePage);
  if (aligned > begin) PCHECK(munmap(map, aligned - begin) == 0);
  const uintptr_t end = aligned + bytes;
  if (begin + reserved > end) {
    PCHECK(munmap(reinterpret_cast<void*>(end), begin + reserved - end) == 0);
  }
  void* data = reinterpret_cast<void*>(aligned);
  // Refused where the system has huge pages switched off: slower, not wrong.
  (void)madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

// One panel: panel[k * 16 + lane] = source[lane * stride + k].
void PackPanel(const float* source, int64_t stride, int64_t inputs, float* panel) {
  constexpr int64_t kBlock = 32;  // inputs whose lines stay in the first cache for all lanes
  for (int64_t begin = 0; begin < inputs; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, inputs);
    for (int lane = 0; lane < PackedMatrix::kPanel; ++lane) {
      const float* row = source + lane * stride;
      for (int64_t k = begin; k < end; ++k) panel[k * PackedMatrix::kPanel + lane] = row[k];
    }
  }
}

// Transposes 8 rows of 8 sixteen-bit elements into 8 rows of a panel, three rounds of interleaving.
void Transpose8x8(const uint16_t* source, int64_t stride, uint16_t* panel) {
  __m128i a[8], b[8];
  for (int i = 0; i < 8; ++i) {
    a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i * stride));
  }
  for (int i = 0; i < 4; ++i) {  // pairs of rows
    b[i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
    b[i + 4] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {  // four rows: a[2i], a[2i + 1] hold inputs 4(i / 2) to + 3
    a[2 * i] = _mm_unpacklo_epi32(b[2 * i], b[2 * i + 1]);
    a[2 * i + 1] = _mm_unpackhi_epi32(b[2 * i], b[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half) {
    for (int j = 0; j < 2; ++j) {
      const __m128i low = a[4 * half + j], high = a[4 * half + 2 + j];
      uint16_t* to = panel + (4 * half + 2 * j) * PackedMatrix::kPanel;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi64(low, high));
      to += PackedMatrix::kPanel;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpackhi_epi64(low, high));
    }
  }
}

void PackPanel(const uint16_t* source, int64_t stride, int64_t inputs, uint16_t* panel) {
  constexpr int kPanel = PackedMatrix::kPanel;
  int64_t k = 0;
  for (; k + 8 <= inputs; k += 8) {
    Transpose8x8(source + k, stride, panel + k * kPanel);
    Transpose8x8(source + 8 * stride + k, stride, panel + k * kPanel + 8);
  }
  for (; k < inputs; ++k) {
    for (int lane = 0; lane < kPanel; ++lane) panel[k * kPanel + lane] = source[lane * stride + k];
  }
}

struct RowRange {
  int64_t first = 0, count = 0;
};

template <typename T>
void PackRows(RowRange range, const T* source, int64_t stride, int64_t inputs, T* data) {
  constexpr int kPanel = PackedMatrix::kPanel;
  const int64_t end = range.first + range.count;
  for (int64_t n = range.first; n < end;) {
    T* panel = data + n / kPanel * inputs * kPanel;
    const T* row = source + (n - range.first) * stride;
    if (n % kPanel == 0 && n + kPanel <= end) {
      PackPanel(row, stride, inputs, panel);
      n += kPanel;
    } else {
      for (int64_t k = 0; k < inputs; ++k) panel[k * kPanel + n % kPanel] = row[k];
      ++n;
    }
  }
}

}  // namespace

PackedMatrix::PackedMatrix(int64_t outputs, int64_t inputs, Dtype dtype, int slices)
    : outputs_(outputs), inputs_(inputs), dtype_(dtype), slices_(slices) {
  CHECK_GE(outputs, 0);
  CHECK_GE(inputs, 0);
  CHECK(dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16)
      << "weights of dtype " << DtypeName(dtype);
  CHECK(slices == 1 || slices == 2 || slices == 4 || slices == 8) << slices << " slices";
  const absl::Status cpu = CheckCpuSupported();
  CHECK(cpu.ok()) << cpu;
  if (bytes() == 0) return;
  if (bytes() >= kHugePage) {
    mapped_bytes_ = RoundUp(bytes(), 4096);
    data_ = static_cast<uint8_t*>(MapHuge(mapped_bytes_));
  } else {
    data_ = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, RoundUp(bytes(), kAlignment)));
    CHECK(data_ != nullptr) << "no memory for a weight matrix of " << bytes() << " bytes";
    std::memset(data_, 0, bytes());
  }
}

PackedMatrix::PackedMatrix(PackedMatrix&& other) noexcept { *this = std::move(other); }

PackedMatrix& PackedMatrix::operator=(PackedMatrix&& other) noexcept {
  std::swap(outputs_, other.outputs_);
  std::swap(inputs_, other.inputs_);
  std::swap(dtype_, other.dtype_);
  std::swap(slices_, other.slices_);
  std::swap(data_, other.data_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

PackedMatrix::~PackedMatrix() {
  if (mapped_bytes_ > 0) {
    PCHECK(munmap(data_, mapped_bytes_) == 0);
  } else {
    std::free(data_);
  }
}

int64_t PackedMatrix::bytes() const {
  return panels() * kPanel * inputs_ * static_cast<int64_t>(DtypeBytes(dtype_));
}

const void* PackedMatrix::panel(int64_t p) const {
  return data_ + p * kPanel * inputs_ * static_cast<int64_t>(DtypeBytes(dtype_));
}

void PackedMatrix::SetRows(int64_t first, int64_t count, const void* source,
                           int64_t source_stride) {
  CHECK(first >= 0 && count >= 0 && first + count <= outputs_)
      << "rows [" << first << ", " << first + count << ") of " << outputs_;
  CHECK(count <= 1 || source_stride >= inputs_);
  if (dtype_ == Dtype::kF32) {
    PackRows({first, count}, static_cast<const float*>(source), source_stride, inputs_,
             reinterpret_cast<float*>(data_));
  } else {
    PackRows({first, count}, static_cast<const uint16_t*>(source), source_stride, inputs_,
             reinterpret_cast<uint16_t*>(data_));
  }
}

float PackedMatrix::At(int64_t output, int64_t input) const {
  CHECK(output >= 0 && output < outputs_ && input >= 0 && input < inputs_);
  const int64_t i = input * kPanel + output % kPanel;
  const void* base = panel(output / kPanel);
  switch (dtype_) {
    case Dtype::kF32:
      return static_cast<const float*>(base)[i];
    case Dtype::kF16:
      return F16ToFloat(static_cast<const uint16_t*>(base)[i]);
    default:
      return Bf16ToFloat(static_cast<const uint16_t*>(base)[i]);
  }
}

}  // namespace conclave
