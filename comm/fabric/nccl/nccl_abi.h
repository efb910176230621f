// The part of NCCL's binary interface that Conclave calls, declared here so that the tree builds
// where NCCL is absent: the library is opened at run time (nccl_api.h). Names and values are those
// of nccl.h of NCCL 2.28.9 (github.com/NVIDIA/nccl, tag v2.28.9-1, src/nccl.h.in); nccl_abi_test
// compares them with the real header where a toolkit has it. Plain values; any thread.
#pragma once

#include <climits>
#include <cstddef>

struct ncclComm;
struct ncclWindow_vidmem;

namespace conclave {

using NcclComm = ncclComm*;
using NcclWindow = ncclWindow_vidmem*;

// ncclResult_t.
enum class NcclResult : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

// ncclDataType_t: the ones that fabrics use.
enum class NcclType : int { kUint8 = 1, kFloat32 = 7 };

// ncclRedOp_t.
enum class NcclReduction : int { kSum = 0 };

// Names a communicator before it exists: rank 0 makes it, every rank passes it to init.
struct NcclUniqueId {
  char bytes[128];
};

// NCCL_VERSION(major, minor, patch) of 2.9 and later.
constexpr int NcclVersionCode(int major, int minor, int patch) {
  return major * 10000 + minor * 100 + patch;
}

inline constexpr int kNcclUndefinedInt = INT_MIN;
inline constexpr int kNcclWindowSymmetric = 1;  // NCCL_WIN_COLL_SYMMETRIC
inline constexpr int kNcclShrinkAbort = 1;      // NCCL_SHRINK_ABORT

// ncclConfig_t as of 2.28. An older library reads the first `size` bytes that it knows; a newer one
// takes its defaults for fields after `version`'s. Undefined fields take NCCL's defaults.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = NcclVersionCode(2, 28, 0);
  int blocking = kNcclUndefinedInt;
  int cga_cluster_size = kNcclUndefinedInt;
  int ctas_min = kNcclUndefinedInt;
  int ctas_max = kNcclUndefinedInt;
  const char* net_name = nullptr;
  int split_share = kNcclUndefinedInt;
  int traffic_class = kNcclUndefinedInt;
  const char* comm_name = nullptr;
  int collnet_enable = kNcclUndefinedInt;
  int cta_policy = kNcclUndefinedInt;
  int shrink_share = kNcclUndefinedInt;
  int nvls_ctas = kNcclUndefinedInt;
  int channels_per_net_peer = kNcclUndefinedInt;
  int nvlink_centric_sched = kNcclUndefinedInt;
};

}  // namespace conclave
