// The inner kernel: a block of up to six tokens against up to four panels, accumulators in
// registers, one reduction slice at a time. Partial sums of slices meet in the fixed tree as they
// appear (a binary counter), so three levels suffice.
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm/gemm_cpu.cc"
#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "glog/logging.h"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/gemm/panel_job.h"
#include "kernels/tensor/aligned_floats.h"

// Accumulator arrays stay in registers only when every loop over them is unrolled.
#define CONCLAVE_UNROLL _Pragma("GCC unroll 16")

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int kPanel = PackedMatrix::kPanel;
constexpr int kLanes = static_cast<int>(HWY_LANES(float));
constexpr int kVectors = kPanel / kLanes;  // vectors of a panel: 2 (AVX2) or 1 (AVX-512)
constexpr int kGroup = 4;                  // panels whose slice is kept in the cache for all tokens
constexpr int kBlock = 6;                  // tokens in registers
constexpr int kLevels = 3;                 // of the tree over at most eight slices
constexpr int kPrefetchBytes = 2048;  // ahead in each panel; measured best of 512, 1024 and 2048

// Panels in registers for `tokens` tokens: AVX2 has 16 registers (tokens * panels * 2 + 4 of them
// are needed), AVX-512 has 32.
constexpr int PanelsAtOnce(int tokens) {
  if (kVectors == 1) return 4;
  return tokens == 1 ? 4 : tokens <= 3 ? 2 : 1;
}

// 16 weights as float vectors. The order of lanes is undone by StoreInOrder.
HWY_INLINE void LoadWeights(const float* from, V (&w)[kVectors]) {
  const D d;
  for (int v = 0; v < kVectors; ++v) w[v] = hn::Load(d, from + v * kLanes);
}

HWY_INLINE void LoadWeights(const hwy::float16_t* from, V (&w)[kVectors]) {
  const D d;
  const hn::Rebind<hwy::float16_t, D> d16;
  for (int v = 0; v < kVectors; ++v) w[v] = hn::PromoteTo(d, hn::Load(d16, from + v * kLanes));
}

HWY_INLINE void LoadWeights(const hwy::bfloat16_t* from, V (&w)[kVectors]) {
  const D d;
  if constexpr (kVectors == 1) {
    w[0] = hn::PromoteTo(d, hn::Load(hn::Rebind<hwy::bfloat16_t, D>(), from));
  } else {
    // One load of 16 pairs: even outputs are the lower halves, odd outputs the upper ones.
    const hn::RebindToUnsigned<D> du;
    const auto pairs = hn::Load(du, reinterpret_cast<const uint32_t*>(from));
    w[0] = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
    w[kVectors - 1] = hn::BitCast(d, hn::And(pairs, hn::Set(du, 0xffff0000u)));
  }
}

template <typename W>
HWY_INLINE void StoreInOrder(const V (&sum)[kVectors], float* to) {
  const D d;
  if constexpr (kVectors == 2 && std::is_same_v<W, hwy::bfloat16_t>) {
    hn::StoreInterleaved2(sum[0], sum[kVectors - 1], d, to);
  } else {
    for (int v = 0; v < kVectors; ++v) hn::Store(sum[v], d, to + v * kLanes);
  }
}

// One slice of the reduction of one block.
struct Block {
  const float* const* x;  // [tokens in the block], at input 0
  float* const* y;        // [tokens in the block], at the group's first output
  const void* weights;    // the first panel of this tile, at input 0
  int64_t inputs;         // between panels: inputs * 16 elements
  int64_t begin, end;     // inputs of the slice
  int slice, slices;
  float* levels;  // [kLevels][level_stride], at the block's first token and the tile's panel
  int64_t level_stride;
  int64_t column;   // of the tile in the group
  int64_t columns;  // stored outputs of the tile: 16 a panel, fewer in the last
};

// Takes the sums of a tile, [tokens][panels][16]: adds those of the finished left neighbours in the
// tree, then keeps the results for the right ones, or stores them.
HWY_NOINLINE void FinishTile(const Block& b, int tokens, int panels, const float* sums) {
  const D d;
  const int merges = std::countr_one(static_cast<unsigned>(b.slice));
  const bool last = b.slice + 1 == b.slices;
  for (int t = 0; t < tokens; ++t) {
    for (int p = 0; p < panels; ++p, sums += kPanel) {
      float* level = b.levels + t * (kGroup * kPanel) + p * kPanel;
      V sum[kVectors];
      for (int v = 0; v < kVectors; ++v) sum[v] = hn::Load(d, sums + v * kLanes);
      for (int m = 0; m < merges; ++m, level += b.level_stride) {
        for (int v = 0; v < kVectors; ++v)
          sum[v] = hn::Add(hn::Load(d, level + v * kLanes), sum[v]);
      }
      float* y = last ? b.y[t] + b.column + p * kPanel : level;
      const int64_t stored = last ? b.columns - p * kPanel : kPanel;
      if (stored >= kPanel) {
        for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[v], d, y + v * kLanes);
      } else {
        HWY_ALIGN float padded[kPanel];
        for (int v = 0; v < kVectors; ++v) hn::Store(sum[v], d, padded + v * kLanes);
        std::copy_n(padded, std::max<int64_t>(stored, 0), y);
      }
    }
  }
}

template <typename W, int kTokens, int kPanels>
HWY_NOINLINE void Tile(const Block& b) {
  const D d;
  V sum[kTokens][kPanels][kVectors];
  const float* x[kTokens];
  CONCLAVE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    x[t] = b.x[t];
    CONCLAVE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      CONCLAVE_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[t][p][v] = hn::Zero(d);
    }
  }
  const W* HWY_RESTRICT w = static_cast<const W*>(b.weights);
  const int64_t panel_stride = b.inputs * kPanel;
  for (int64_t k = b.begin; k < b.end; ++k) {
    CONCLAVE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      V weight[kVectors];
      const W* from = w + p * panel_stride + k * kPanel;
      LoadWeights(from, weight);
      hwy::Prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes);
      CONCLAVE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const V value = hn::Set(d, x[t][k]);
        CONCLAVE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          sum[t][p][v] = hn::MulAdd(weight[v], value, sum[t][p][v]);
        }
      }
    }
  }
  HWY_ALIGN float sums[kTokens * kPanels * kPanel];
  CONCLAVE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    CONCLAVE_UNROLL
    for (int p = 0; p < kPanels; ++p) StoreInOrder<W>(sum[t][p], sums + (t * kPanels + p) * kPanel);
  }
  FinishTile(b, kTokens, kPanels, sums);
}

// The panels of a group against a block of kTokens tokens.
template <typename W, int kTokens>
void GroupOfBlock(Block b, int64_t panels, int64_t columns) {
  constexpr int kPanels = PanelsAtOnce(kTokens);
  const W* first = static_cast<const W*>(b.weights);
  float* levels = b.levels;
  for (int64_t p = 0; p < panels;) {
    b.weights = first + p * b.inputs * kPanel;
    b.levels = levels + p * kPanel;
    b.column = p * kPanel;
    b.columns = columns - b.column;
    if (p + kPanels <= panels) {
      Tile<W, kTokens, kPanels>(b);
      p += kPanels;
    } else {
      Tile<W, kTokens, 1>(b);
      p += 1;
    }
  }
}

template <typename W>
void RunBlock(const Block& b, int64_t tokens, int64_t panels, int64_t columns) {
  switch (tokens) {
    case 1:
      return GroupOfBlock<W, 1>(b, panels, columns);
    case 2:
      return GroupOfBlock<W, 2>(b, panels, columns);
    case 3:
      return GroupOfBlock<W, 3>(b, panels, columns);
    case 4:
      return GroupOfBlock<W, 4>(b, panels, columns);
    case 5:
      return GroupOfBlock<W, 5>(b, panels, columns);
    case 6:
      return GroupOfBlock<W, 6>(b, panels, columns);
    default:
      LOG(FATAL) << "block of " << tokens << " tokens";
  }
}

struct Group {
  int64_t panel, panels;  // of the matrix
  const float* const* x;  // [tokens]
  float* const* y;        // [tokens], at the group's first output
  int64_t tokens;
};

// Slice by slice, so that the weights of a slice (4 panels of inputs / 8) stay in the cache while
// every token block passes.
template <typename W>
void RunGroup(const PackedMatrix& weights, const Group& g) {
  // tidy: allow(mutable-global) scratch memory of a kernel, one per thread
  thread_local AlignedFloats scratch;
  const int64_t level_stride = g.tokens * kGroup * kPanel;
  float* levels = scratch.Get(kLevels * level_stride);
  const int64_t columns = weights.outputs() - g.panel * kPanel;
  const int64_t blocks = (g.tokens + kBlock - 1) / kBlock;
  Block b{.inputs = weights.inputs(), .slices = weights.slices(), .level_stride = level_stride};
  b.weights = weights.panel(g.panel);
  for (b.slice = 0; b.slice < b.slices; ++b.slice) {
    b.begin = b.slice * b.inputs / b.slices;
    b.end = (b.slice + 1) * b.inputs / b.slices;
    for (int64_t i = 0; i < blocks; ++i) {  // blocks of nearly equal size
      const int64_t t = i * g.tokens / blocks;
      b.x = g.x + t;
      b.y = g.y + t;
      b.levels = levels + t * kGroup * kPanel;
      RunBlock<W>(b, (i + 1) * g.tokens / blocks - t, g.panels, columns);
    }
  }
}

template <typename W>
void RunPanelsOf(const PanelJob& job) {
  for (int64_t p = job.panel_begin; p < job.panel_end; p += kGroup) {
    for (int64_t t = 0, tokens = 0; t < job.tokens; t += tokens) {
      tokens = NextChunk(job.tokens - t);
      float* y[kChunkTokens];
      const int64_t column = job.y_offset + (p - job.panel_begin) * kPanel;
      for (int64_t i = 0; i < tokens; ++i) y[i] = job.y[t + i] + column;
      RunGroup<W>(*job.weights, {.panel = p,
                                 .panels = std::min<int64_t>(kGroup, job.panel_end - p),
                                 .x = job.x + t,
                                 .y = y,
                                 .tokens = tokens});
    }
  }
}

void RunPanelsCpu(const PanelJob& job) {
  switch (job.weights->dtype()) {
    case Dtype::kF32:
      return RunPanelsOf<float>(job);
    case Dtype::kF16:
      return RunPanelsOf<hwy::float16_t>(job);
    default:
      return RunPanelsOf<hwy::bfloat16_t>(job);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(RunPanelsCpu);

void RunPanels(const PanelJob& job) { HWY_DYNAMIC_DISPATCH(RunPanelsCpu)(job); }

}  // namespace conclave
#endif  // HWY_ONCE
