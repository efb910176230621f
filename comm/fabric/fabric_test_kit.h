// For tests: worlds of fabrics in one process, each rank driven by a thread of its own.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/fabric/fabric.h"

namespace conclave {

enum class FabricKind { kLocal, kUcxShared, kUcxTcp, kNcclFake };

const char* FabricKindName(FabricKind kind);

// `ranks` connected fabrics of `epoch`. kUcxTcp pretends that each rank is on a node of its own;
// kNcclFake is the fabric over NCCL on comm/fabric/nccl/fake_nccl.h.
std::vector<std::unique_ptr<Fabric>> MakeFabrics(FabricKind kind, int ranks, uint64_t epoch = 1);

// Runs body(rank, fabric) on a thread for each rank and joins them.
void RunRanks(std::vector<std::unique_ptr<Fabric>>& fabrics,
              const std::function<void(int rank, Fabric& fabric)>& body);

// The group of all ranks, as `rank` sees it.
FabricGroup WholeGroup(int ranks, int rank);

}  // namespace conclave
