// The declarations of nccl_abi.h against the real header, where there is one.
#include "comm/fabric/nccl/nccl_abi.h"

#include <cstddef>

#include "gtest/gtest.h"

#if __has_include(<nccl.h>)
#include <nccl.h>
#define CONCLAVE_HAS_NCCL_H 1
#else
#define CONCLAVE_HAS_NCCL_H 0
#endif

namespace conclave {
namespace {

TEST(NcclAbiTest, SizesAreThoseOfThe64BitInterface) {
  EXPECT_EQ(sizeof(NcclUniqueId), 128u);
  EXPECT_EQ(sizeof(NcclConfig), 80u);
  EXPECT_EQ(offsetof(NcclConfig, blocking), 16u);
  EXPECT_EQ(offsetof(NcclConfig, comm_name), 48u);
  EXPECT_EQ(NcclConfig{}.size, sizeof(NcclConfig));
  EXPECT_EQ(NcclVersionCode(2, 28, 9), 22809);
}

#if CONCLAVE_HAS_NCCL_H

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
TEST(NcclAbiTest, ConfigHasTheLayoutOfTheHeader) {
  const ncclConfig_t real = NCCL_CONFIG_INITIALIZER;
  const NcclConfig ours;
  EXPECT_LE(sizeof(NcclConfig), sizeof(ncclConfig_t));  // a newer header may append fields
  EXPECT_EQ(ours.magic, real.magic);
  EXPECT_EQ(ours.version / 100, NCCL_VERSION(2, 28, 0) / 100);
  EXPECT_EQ(ours.blocking, real.blocking);
  EXPECT_EQ(offsetof(NcclConfig, magic), offsetof(ncclConfig_t, magic));
  EXPECT_EQ(offsetof(NcclConfig, version), offsetof(ncclConfig_t, version));
  EXPECT_EQ(offsetof(NcclConfig, blocking), offsetof(ncclConfig_t, blocking));
  EXPECT_EQ(offsetof(NcclConfig, cga_cluster_size), offsetof(ncclConfig_t, cgaClusterSize));
  EXPECT_EQ(offsetof(NcclConfig, ctas_min), offsetof(ncclConfig_t, minCTAs));
  EXPECT_EQ(offsetof(NcclConfig, ctas_max), offsetof(ncclConfig_t, maxCTAs));
  EXPECT_EQ(offsetof(NcclConfig, net_name), offsetof(ncclConfig_t, netName));
  EXPECT_EQ(offsetof(NcclConfig, split_share), offsetof(ncclConfig_t, splitShare));
  EXPECT_EQ(offsetof(NcclConfig, traffic_class), offsetof(ncclConfig_t, trafficClass));
  EXPECT_EQ(offsetof(NcclConfig, comm_name), offsetof(ncclConfig_t, commName));
  EXPECT_EQ(offsetof(NcclConfig, collnet_enable), offsetof(ncclConfig_t, collnetEnable));
  EXPECT_EQ(offsetof(NcclConfig, cta_policy), offsetof(ncclConfig_t, CTAPolicy));
  EXPECT_EQ(offsetof(NcclConfig, shrink_share), offsetof(ncclConfig_t, shrinkShare));
  EXPECT_EQ(offsetof(NcclConfig, nvls_ctas), offsetof(ncclConfig_t, nvlsCTAs));
  EXPECT_EQ(offsetof(NcclConfig, channels_per_net_peer),
            offsetof(ncclConfig_t, nChannelsPerNetPeer));
  EXPECT_EQ(offsetof(NcclConfig, nvlink_centric_sched), offsetof(ncclConfig_t, nvlinkCentricSched));
}
#endif

TEST(NcclAbiTest, ValuesAreThoseOfTheHeader) {
  EXPECT_EQ(static_cast<int>(NcclResult::kSuccess), ncclSuccess);
  EXPECT_EQ(static_cast<int>(NcclResult::kUnhandledCudaError), ncclUnhandledCudaError);
  EXPECT_EQ(static_cast<int>(NcclResult::kSystemError), ncclSystemError);
  EXPECT_EQ(static_cast<int>(NcclResult::kInternalError), ncclInternalError);
  EXPECT_EQ(static_cast<int>(NcclResult::kInvalidArgument), ncclInvalidArgument);
  EXPECT_EQ(static_cast<int>(NcclResult::kInvalidUsage), ncclInvalidUsage);
  EXPECT_EQ(static_cast<int>(NcclResult::kRemoteError), ncclRemoteError);
  EXPECT_EQ(static_cast<int>(NcclResult::kInProgress), ncclInProgress);
  EXPECT_EQ(static_cast<int>(NcclType::kUint8), ncclUint8);
  EXPECT_EQ(static_cast<int>(NcclType::kFloat32), ncclFloat32);
  EXPECT_EQ(static_cast<int>(NcclReduction::kSum), ncclSum);
  EXPECT_EQ(sizeof(NcclUniqueId), sizeof(ncclUniqueId));
  EXPECT_EQ(kNcclUndefinedInt, NCCL_CONFIG_UNDEF_INT);
  EXPECT_EQ(kNcclWindowSymmetric, NCCL_WIN_COLL_SYMMETRIC);
  EXPECT_EQ(kNcclShrinkAbort, NCCL_SHRINK_ABORT);
  EXPECT_EQ(sizeof(NcclResult), sizeof(ncclResult_t));
  EXPECT_EQ(sizeof(NcclType), sizeof(ncclDataType_t));
  EXPECT_EQ(sizeof(NcclReduction), sizeof(ncclRedOp_t));
}

#endif

}  // namespace
}  // namespace conclave
