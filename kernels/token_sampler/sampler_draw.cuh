// The second kernel of token_sampler: a row that samples, by a cluster of 8 blocks. Each holds a
// run of the row's weights exp((x - max) / temperature) in registers; in it, thread t has values
// 4t..4t+3 of each run of 2048. Which tokens are left is one cut: those of larger weight than
// `value`, and of those equal to it the first `quota` by id. It is found by narrowing the range of
// the weights' bits, three trial values at a time. Sums go over the cluster through distributed
// shared memory and come out alike in every block. Device code only.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/moe_route/cluster.cuh"
#include "kernels/token_sampler/sampler_launch.h"
#include "kernels/token_sampler/sampler_row.cuh"

namespace conclave {

inline constexpr int kDrawWarps = kDrawThreads / 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr uint32_t kOneBits = 0x3f800000u;  // of the largest weight, 1
inline constexpr int kTrials = 3;
inline constexpr int kGroupsMax = 16 * kDrawWarps;

struct DrawShared {
  float warp[kDrawWarps][kTrials];
  double cluster[2][kDrawCluster][kTrials];  // of each block; alternately, as blocks may run ahead
  double group[kGroupsMax + 1];              // of a warp's part of a run of 2048; in order of ids
  int pick;
};

struct Cut {
  uint32_t bits = 0;  // tokens of larger weight are left,
  double quota = 0;   // and so many of this weight
};

template <int kQuads>
class RowDraw {
 public:
  static constexpr int kValues = kQuads * 4;

  __device__ RowDraw(const TokenSamplerArgs& args, int row, int rank, DrawShared& shared)
      : args_(args), shared_(shared), row_(row), rank_(rank) {}

  __device__ void Run() {
    state_ = ScratchOf(args_).states[row_];
    LoadWeights();
    const Cut cut = ChooseCut();
    if (cut.bits > 0) Apply(cut);
    Walk();
  }

 private:
  __device__ int TokenAt(int i) const {
    return rank_ * kQuads * kDrawThreads * 4 + (i / 4 * kDrawThreads + threadIdx.x) * 4 + i % 4;
  }

  __device__ void LoadWeights() {
    const float* logits = args_.logits + row_ * args_.logits_stride;
    const float temperature = args_.temperature[row_], min_p = args_.min_p[row_];
    const float weight_min = min_p < 1.0f ? min_p : 1.0f;
#pragma unroll
    for (int j = 0; j < kQuads; ++j) {
      const int first = TokenAt(j * 4);
      float4 v = {0, 0, 0, 0};
      if (first + 3 < args_.vocab) {
        v = __ldcg(reinterpret_cast<const float4*>(logits + first));
      } else {
        if (first < args_.vocab) v.x = __ldcg(logits + first);
        if (first + 1 < args_.vocab) v.y = __ldcg(logits + first + 1);
        if (first + 2 < args_.vocab) v.z = __ldcg(logits + first + 2);
      }
      const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = expf((CleanLogit(x[i]) - state_.max) / temperature);
        w_[j * 4 + i] = first + i < args_.vocab && weight >= weight_min ? weight : 0.0f;
      }
    }
  }

  // Gives every block this block's values, in shared_.cluster[parity_]. `mine` counts in threads
  // below kTrials * kDrawCluster: thread i sends value i % kTrials to block i / kTrials.
  __device__ void Exchange(double mine) {
    parity_ ^= 1;
    if (threadIdx.x < kTrials * kDrawCluster) {
      double* at = &shared_.cluster[parity_][rank_][threadIdx.x % kTrials];
      StoreRemote(RemoteAddress(at, threadIdx.x / kTrials), mine);
    }
    __syncwarp();
    ClusterArrive();
    ClusterWait();
  }

  // Sums over the cluster; the same in every thread of it.
  __device__ void ClusterSum(float (&part)[kTrials], double (&sum)[kTrials]) {
#pragma unroll
    for (int k = 0; k < kTrials; ++k) {
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) {
        part[k] += __shfl_xor_sync(kAllLanes, part[k], offset);
      }
    }
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int k = 0; k < kTrials; ++k) shared_.warp[threadIdx.x / 32][k] = part[k];
    }
    __syncthreads();
    double block = 0;
    if (threadIdx.x < kTrials * kDrawCluster) {
      for (int w = 0; w < kDrawWarps; ++w) block += shared_.warp[w][threadIdx.x % kTrials];
    }
    Exchange(block);
#pragma unroll
    for (int k = 0; k < kTrials; ++k) {
      sum[k] = 0;
      for (int r = 0; r < kDrawCluster; ++r) sum[k] += shared_.cluster[parity_][r][k];
    }
  }

  // Counts, or sums of weights, of the tokens of at least each trial weight.
  template <bool kCount>
  __device__ void SumAtLeast(const uint32_t (&trial)[kTrials], double (&sum)[kTrials]) {
    float least[kTrials], part[kTrials] = {};
#pragma unroll
    for (int k = 0; k < kTrials; ++k) least[k] = __uint_as_float(trial[k]);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
#pragma unroll
      for (int k = 0; k < kTrials; ++k) {
        if (w_[i] >= least[k]) part[k] += kCount ? 1.0f : w_[i];
      }
    }
    ClusterSum(part, sum);
  }

  // The largest weight such that the tokens of at least it reach `need`, which those above 0 do.
  template <bool kCount>
  __device__ Cut FindCut(double need) {
    uint32_t low = 1, high = kOneBits + 1;  // `need` is reached at low, not at high
    double above = 0;                       // what is at least high
    while (high - low > 1) {
      const uint32_t step = max((high - low) / (kTrials + 1), 1u);
      const uint32_t trial[kTrials] = {low + step, low + 2 * step, low + 3 * step};
      double sum[kTrials];
      SumAtLeast<kCount>(trial, sum);
      bool exact = false;
#pragma unroll
      for (int k = kTrials - 1; k >= 0; --k) {
        if (sum[k] >= need || trial[k] >= high) continue;
        high = trial[k];
        above = sum[k];
      }
#pragma unroll
      for (int k = 0; k < kTrials; ++k) {
        if (sum[k] < need || trial[k] >= high) continue;
        low = trial[k];
        exact = kCount && sum[k] == need;
      }
      if (exact) return {low - 1, 0};
    }
    if (kCount) return {low, need - above};
    return {low, fmax(ceil((need - above) / __uint_as_float(low)), 1.0)};
  }

  // min-p is in the weights; top-k, then top-p of what that leaves.
  __device__ Cut ChooseCut() {
    const int top_k = args_.top_k[row_];
    const float top_p = args_.top_p[row_];
    const bool cut_k = top_k > 0 && top_k < args_.vocab;
    const bool cut_p = cut_k ? top_p < 1 : !(top_p >= 1);
    Cut cut;
    if (!cut_k && !cut_p) return cut;
    double sum[kTrials], weight[kTrials];
    SumAtLeast<true>({1, 1, 1}, sum);
    if (cut_k && sum[0] > top_k) cut = FindCut<true>(top_k);
    if (!cut_p) return cut;
    SumAtLeast<false>({cut.bits + 1, cut.bits + 1, cut.bits + 1}, weight);
    const double total = weight[0] + cut.quota * __uint_as_float(cut.bits);
    // At least one token is left, also of a top-p that is not a number.
    const double enough = fmax(total * top_p, 1e-300);
    const Cut nucleus = FindCut<false>(enough);
    const bool narrower =
        nucleus.bits > cut.bits || (nucleus.bits == cut.bits && nucleus.quota < cut.quota);
    return narrower ? nucleus : cut;
  }

  // The sums of the groups before each group, in place; group[kQuads * kDrawWarps] gets all. By the
  // first warp; the caller synchronises before and after.
  __device__ void ScanGroups() {
    constexpr int kEach = kQuads * kDrawWarps / 32;
    static_assert(kQuads * kDrawWarps % 32 == 0);
    if (threadIdx.x >= 32) return;
    double* mine = shared_.group + threadIdx.x * kEach;
    double own = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) own += mine[i];
    double before = ExclusiveScan(own);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const double value = mine[i];
      mine[i] = before;
      before += value;
    }
    if (threadIdx.x == 31) shared_.group[kQuads * kDrawWarps] = before;
  }

  // Over the lanes of a warp.
  __device__ double ExclusiveScan(double value) {
    double through = value;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const double before = __shfl_up_sync(kAllLanes, through, offset);
      if (threadIdx.x % 32 >= offset) through += before;
    }
    const double before = __shfl_up_sync(kAllLanes, through, 1);
    return threadIdx.x % 32 == 0 ? 0 : before;
  }

  // Leaves the tokens of the cut; the others weigh 0.
  __device__ void Apply(const Cut& cut) {
    const float value = __uint_as_float(cut.bits);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < kQuads; ++j) {
      int equal = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) equal += w_[j * 4 + i] == value ? 1 : 0;
      equal = __reduce_add_sync(kAllLanes, equal);
      if (lane == 0) shared_.group[j * kDrawWarps + warp] = equal;
    }
    __syncthreads();
    ScanGroups();
    __syncthreads();
    Exchange(shared_.group[kQuads * kDrawWarps]);
    double before = 0;
    for (int r = 0; r < rank_; ++r) before += shared_.cluster[parity_][r][0];
#pragma unroll
    for (int j = 0; j < kQuads; ++j) {
      int equal = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) equal += w_[j * 4 + i] == value ? 1 : 0;
      double rank = before + shared_.group[j * kDrawWarps + warp] + ExclusiveScan(equal);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& w = w_[j * 4 + i];
        const bool dropped = w < value || (w == value && rank >= cut.quota);
        if (w == value) rank += 1;
        if (dropped) w = 0;
      }
    }
    __syncthreads();  // the groups are read
  }

  __device__ double QuadSum(int j) const {
    return static_cast<double>(w_[j * 4]) + w_[j * 4 + 1] + w_[j * 4 + 2] + w_[j * 4 + 3];
  }

  // Draws among the tokens left.
  __device__ void Walk() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < kQuads; ++j) {
      double sum = QuadSum(j);
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, offset);
      }
      if (lane == 0) shared_.group[j * kDrawWarps + warp] = sum;
    }
    if (threadIdx.x == 0) shared_.pick = -1;
    __syncthreads();
    ScanGroups();
    __syncthreads();
    Exchange(shared_.group[kQuads * kDrawWarps]);
    double before = 0, total = 0;
    for (int r = 0; r < kDrawCluster; ++r) {
      if (r == rank_) before = total;
      total += shared_.cluster[parity_][r][0];
    }
    const float uniform =
        DeviceUniformAt(args_.seed[row_], static_cast<uint64_t>(args_.position[row_]));
    const double target = total * uniform;
    const double own = shared_.cluster[parity_][rank_][0];
    if (target < before || target >= before + own) return;
    WalkBlock(target - before);
  }

  // The block's token where the weights before and with it pass `target`.
  __device__ void WalkBlock(double target) {
    for (int g = threadIdx.x; g < kQuads * kDrawWarps; g += kDrawThreads) {
      if (shared_.group[g] <= target && shared_.group[g + 1] > shared_.group[g]) {
        atomicMax(&shared_.pick, g);
      }
    }
    __syncthreads();
    const int group = shared_.pick;
    if (group < 0 || static_cast<int>(threadIdx.x / 32) != group % kDrawWarps) return;
    float mine[4] = {};
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (i / 4 == group / kDrawWarps) mine[i % 4] = w_[i];
    }
    const double own = static_cast<double>(mine[0]) + mine[1] + mine[2] + mine[3];
    double walked = shared_.group[group] + ExclusiveScan(own);
    int passed = -1, last = -1;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (mine[i] == 0) continue;
      walked += mine[i];
      last = i;
      if (passed < 0 && walked > target) passed = i;
    }
    // Rounding may leave the target at the very end: then the group's last token has it.
    const uint32_t passing = __ballot_sync(kAllLanes, passed >= 0);
    const uint32_t weighing = __ballot_sync(kAllLanes, last >= 0);
    const int lane = threadIdx.x % 32;
    const int winner = passing != 0 ? __ffs(passing) - 1 : 31 - __clz(weighing);
    if (lane != winner) return;
    const int token = TokenAt(group / kDrawWarps * 4 + (passing != 0 ? passed : last));
    const float logit = CleanLogit(__ldcg(args_.logits + row_ * args_.logits_stride + token));
    WriteSample(args_, row_, token, logit, state_);
  }

  const TokenSamplerArgs& args_;
  DrawShared& shared_;
  RowState state_;
  const int row_, rank_;
  int parity_ = 0;
  float w_[kValues];
};

template <int kQuads>
__global__ void __launch_bounds__(kDrawThreads, 1)
    DrawRows(const __grid_constant__ TokenSamplerArgs args) {
  __shared__ DrawShared shared;
  ClusterArrive();
  ClusterWait();  // all blocks have started before any stores into another
  GridDependencyWait();
  LaunchDependents();
  const int row = blockIdx.x / kDrawCluster;
  if (!(args.temperature[row] >= kGreedyBelow)) return;
  RowDraw<kQuads> draw(args, row, static_cast<int>(ClusterRank()), shared);
  draw.Run();
}

template <int kQuads>
absl::Status LaunchDraw(const TokenSamplerArgs& args, CudaStream stream, bool dependent) {
  const LaunchShape shape = {.grid = dim3(args.rows * kDrawCluster),
                             .block = dim3(kDrawThreads),
                             .stream = stream,
                             .dependent = dependent,
                             .cluster = kDrawCluster};
  return Launch("sampler draw", shape, DrawRows<kQuads>, args);
}

}  // namespace conclave
