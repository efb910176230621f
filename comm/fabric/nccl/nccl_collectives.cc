// The collectives of NcclFabric.
#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/base/status.h"
#include "comm/fabric/nccl/nccl_fabric.h"
#include "glog/logging.h"

namespace conclave {
namespace {

bool IsError(NcclResult result) {
  return result != NcclResult::kSuccess && result != NcclResult::kInProgress;
}

absl::Span<const uint8_t> AsBytes(absl::Span<const float> floats) {
  return {reinterpret_cast<const uint8_t*>(floats.data()), floats.size() * sizeof(float)};
}

absl::Span<uint8_t> AsBytes(absl::Span<float> floats) {
  return {reinterpret_cast<uint8_t*>(floats.data()), floats.size() * sizeof(float)};
}

// Parts of `count` elements, one for each member, as equal as can be.
size_t PartBegin(size_t count, int part, int parts) { return count * part / parts; }

}  // namespace

absl::Status NcclFabric::RunOn(const FabricGroup& group, const NcclWork& work, const WireOp& op) {
  ASSIGN_OR_RETURN(NcclCommunicator * communicator, CommunicatorOf(group, op));
  return communicator->Run(work, op);
}

absl::Status NcclFabric::Flush(std::function<absl::Status()> then, const WireOp& op) {
  NcclWork work;
  work.enqueue = [](NcclComm) { return NcclResult::kSuccess; };
  work.then = std::move(then);
  work.awaited = [] { return AwaitedPeers(); };
  return world_->Run(work, op);
}

absl::Status NcclFabric::CopySpan(absl::Span<const uint8_t> from, uint8_t* to, const WireOp& op) {
  if (from.empty() || from.data() == to) return absl::OkStatus();
  if (!device_->IsDeviceMemory(from.data()) && !device_->IsDeviceMemory(to)) {
    std::memmove(to, from.data(), from.size());
    return absl::OkStatus();
  }
  return Flush([&] { return device_->Copy(to, from.data(), from.size()); }, op);
}

absl::Status NcclFabric::AllGatherV(const FabricGroup& group, absl::Span<const uint8_t> part,
                                    absl::Span<const absl::Span<uint8_t>> out, const FabricOp& op) {
  CheckGroup(group);
  CHECK_EQ(static_cast<int>(out.size()), group.size());
  CHECK_EQ(part.size(), out[group.index].size());
  return Operate(op, [&](const WireOp& wire) -> absl::Status {
    if (group.size() == 1) return CopySpan(part, out[0].data(), wire);
    ASSIGN_OR_RETURN(NcclCommunicator * communicator, CommunicatorOf(group, wire));
    stager_.Clear();
    const size_t in = stager_.AddIn(part);
    std::vector<size_t> places;
    bool equal = true, empty = true;
    for (const absl::Span<uint8_t>& span : out) {
      places.push_back(stager_.AddOut(span));
      equal &= span.size() == part.size();
      empty &= span.empty();
    }
    if (empty) return absl::OkStatus();
    RETURN_IF_ERROR(stager_.Map());
    bool in_row = equal;
    for (int i = 0; i < group.size(); ++i) {
      in_row &= stager_.device(places[i]) == stager_.device(places[0]) + i * part.size();
    }
    uint8_t* row = stager_.device(places[0]);
    if (equal && !in_row) {
      ASSIGN_OR_RETURN(float* rows,
                       Rows((part.size() * group.size() + sizeof(float) - 1) / sizeof(float)));
      row = reinterpret_cast<uint8_t*>(rows);
    }
    NcclWork work;
    work.enqueue = [&](NcclComm comm) {
      if (equal) {
        return api_->all_gather(stager_.device(in), row, part.size(), NcclType::kUint8, comm,
                                device_->stream());
      }
      for (int i = 0; i < group.size(); ++i) {
        if (out[i].empty()) continue;
        uint8_t* to = stager_.device(places[i]);
        const NcclResult result =
            api_->broadcast(i == group.index ? stager_.device(in) : to, to, out[i].size(),
                            NcclType::kUint8, i, comm, device_->stream());
        if (IsError(result)) return result;
      }
      return NcclResult::kSuccess;
    };
    work.then = [&] {
      for (int i = 0; equal && !in_row && i < group.size(); ++i) {
        RETURN_IF_ERROR(
            device_->Copy(stager_.device(places[i]), row + i * part.size(), part.size()));
      }
      return stager_.CopyBack();
    };
    RETURN_IF_ERROR(communicator->Run(work, wire));
    stager_.Finish();
    Count(group.size() - 1, static_cast<int64_t>(part.size()) * (group.size() - 1));
    return absl::OkStatus();
  });
}

absl::Status NcclFabric::GatherAndSum(const FabricGroup& group, Floats data, const WireOp& op) {
  const int n = group.size();
  ASSIGN_OR_RETURN(float* rows, Rows(data.count * n));
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    return api_->all_gather(data.data, rows, data.count, NcclType::kFloat32, comm,
                            device_->stream());
  };
  work.then = [&] {
    RETURN_IF_ERROR(device_->TreeSum({rows, n, data.count}, data.data));
    return stager_.CopyBack();
  };
  RETURN_IF_ERROR(RunOn(group, work, op));
  Count(n - 1, static_cast<int64_t>(data.count * sizeof(float)) * (n - 1));
  return absl::OkStatus();
}

absl::Status NcclFabric::SumOwnPart(const FabricGroup& group, Floats data, float* out,
                                    const WireOp& op) {
  const int n = group.size();
  const size_t begin = PartBegin(data.count, group.index, n);
  const size_t own = PartBegin(data.count, group.index + 1, n) - begin;
  ASSIGN_OR_RETURN(float* rows, Rows(own * n));
  const bool all_to_all = data.count % n == 0 && api_->all_to_all != nullptr && options_.all_to_all;
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    if (all_to_all) {
      return api_->all_to_all(data.data, rows, own, NcclType::kFloat32, comm, device_->stream());
    }
    for (int i = 0; i < n; ++i) {
      const size_t first = PartBegin(data.count, i, n);
      const size_t count = PartBegin(data.count, i + 1, n) - first;
      if (count > 0) {
        const NcclResult result =
            api_->send(data.data + first, count, NcclType::kFloat32, i, comm, device_->stream());
        if (IsError(result)) return result;
      }
      if (own == 0) continue;
      const NcclResult result =
          api_->recv(rows + i * own, own, NcclType::kFloat32, i, comm, device_->stream());
      if (IsError(result)) return result;
    }
    return NcclResult::kSuccess;
  };
  work.then = [&] { return own == 0 ? absl::OkStatus() : device_->TreeSum({rows, n, own}, out); };
  RETURN_IF_ERROR(RunOn(group, work, op));
  Count(n - 1, static_cast<int64_t>((data.count - own) * sizeof(float)));
  return absl::OkStatus();
}

absl::Status NcclFabric::GatherParts(const FabricGroup& group, Floats data, const WireOp& op) {
  const int n = group.size();
  const size_t begin = PartBegin(data.count, group.index, n);
  const size_t own = PartBegin(data.count, group.index + 1, n) - begin;
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    if (data.count % n == 0) {
      return api_->all_gather(data.data + begin, data.data, own, NcclType::kFloat32, comm,
                              device_->stream());
    }
    for (int i = 0; i < n; ++i) {
      const size_t first = PartBegin(data.count, i, n);
      const size_t count = PartBegin(data.count, i + 1, n) - first;
      if (count == 0) continue;
      const NcclResult result = api_->broadcast(data.data + first, data.data + first, count,
                                                NcclType::kFloat32, i, comm, device_->stream());
      if (IsError(result)) return result;
    }
    return NcclResult::kSuccess;
  };
  work.then = [&] { return stager_.CopyBack(); };
  RETURN_IF_ERROR(RunOn(group, work, op));
  Count(n - 1, static_cast<int64_t>(own * sizeof(float)) * (n - 1));
  return absl::OkStatus();
}

absl::Status NcclFabric::AllReduceInTree(const FabricGroup& group, Floats data, const WireOp& op) {
  if (data.count * sizeof(float) <= kOneRoundBytesMax) return GatherAndSum(group, data, op);
  float* own = data.data + PartBegin(data.count, group.index, group.size());
  RETURN_IF_ERROR(SumOwnPart(group, data, own, op));
  return GatherParts(group, data, op);
}

absl::Status NcclFabric::AllReduceSum(const FabricGroup& group, absl::Span<float> data,
                                      const FabricOp& op) {
  CheckGroup(group);
  return Operate(op, [&](const WireOp& wire) -> absl::Status {
    if (data.empty() || group.size() == 1) return absl::OkStatus();
    // Made first, because it stages the group's id.
    ASSIGN_OR_RETURN(NcclCommunicator * communicator, CommunicatorOf(group, wire));
    stager_.Clear();
    const size_t place = stager_.AddInOut(AsBytes(data));
    RETURN_IF_ERROR(stager_.Map());
    const Floats floats = {reinterpret_cast<float*>(stager_.device(place)), data.size()};
    if (options_.sums == NcclSums::kFixedTree) {
      RETURN_IF_ERROR(AllReduceInTree(group, floats, wire));
    } else {
      NcclWork work;
      work.enqueue = [&](NcclComm comm) {
        return api_->all_reduce(floats.data, floats.data, floats.count, NcclType::kFloat32,
                                NcclReduction::kSum, comm, device_->stream());
      };
      work.then = [&] { return stager_.CopyBack(); };
      RETURN_IF_ERROR(communicator->Run(work, wire));
      // As if each member reduced and then shared a part.
      const int64_t others = group.size() - 1;
      Count(2 * others,
            static_cast<int64_t>(data.size() * sizeof(float)) * 2 * others / group.size());
    }
    stager_.Finish();
    return absl::OkStatus();
  });
}

absl::Status NcclFabric::ReduceScatterSum(const FabricGroup& group, absl::Span<const float> data,
                                          absl::Span<float> out, const FabricOp& op) {
  CheckGroup(group);
  CHECK_EQ(data.size(), out.size() * group.size()) << op.name << ": parts are equal";
  return Operate(op, [&](const WireOp& wire) -> absl::Status {
    const absl::Span<uint8_t> out_bytes = AsBytes(out);
    if (group.size() == 1) return CopySpan(AsBytes(data), out_bytes.data(), wire);
    if (out.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(NcclCommunicator * communicator, CommunicatorOf(group, wire));
    stager_.Clear();
    const size_t in = stager_.AddIn(AsBytes(data));
    const size_t place = stager_.AddOut(out_bytes);
    RETURN_IF_ERROR(stager_.Map());
    auto* from = reinterpret_cast<float*>(stager_.device(in));
    auto* to = reinterpret_cast<float*>(stager_.device(place));
    if (options_.sums == NcclSums::kFixedTree) {
      RETURN_IF_ERROR(SumOwnPart(group, {from, data.size()}, to, wire));
      RETURN_IF_ERROR(Flush([&] { return stager_.CopyBack(); }, wire));
    } else {
      NcclWork work;
      work.enqueue = [&](NcclComm comm) {
        return api_->reduce_scatter(from, to, out.size(), NcclType::kFloat32, NcclReduction::kSum,
                                    comm, device_->stream());
      };
      work.then = [&] { return stager_.CopyBack(); };
      RETURN_IF_ERROR(communicator->Run(work, wire));
      Count(group.size() - 1, static_cast<int64_t>(out_bytes.size()) * (group.size() - 1));
    }
    stager_.Finish();
    return absl::OkStatus();
  });
}

absl::Status NcclFabric::Broadcast(const FabricGroup& group, int root, absl::Span<uint8_t> data,
                                   const FabricOp& op) {
  CheckGroup(group);
  CHECK(root >= 0 && root < group.size()) << "no such member: " << root;
  return Operate(op, [&](const WireOp& wire) -> absl::Status {
    if (data.empty() || group.size() == 1) return absl::OkStatus();
    ASSIGN_OR_RETURN(NcclCommunicator * communicator, CommunicatorOf(group, wire));
    stager_.Clear();
    const size_t place = group.index == root ? stager_.AddIn(data) : stager_.AddOut(data);
    RETURN_IF_ERROR(stager_.Map());
    NcclWork work;
    work.enqueue = [&](NcclComm comm) {
      return api_->broadcast(stager_.device(place), stager_.device(place), data.size(),
                             NcclType::kUint8, root, comm, device_->stream());
    };
    work.then = [&] { return stager_.CopyBack(); };
    RETURN_IF_ERROR(communicator->Run(work, wire));
    stager_.Finish();
    // As if the root sent it to each.
    if (group.index == root) {
      Count(group.size() - 1, static_cast<int64_t>(data.size()) * (group.size() - 1));
    }
    return absl::OkStatus();
  });
}

}  // namespace conclave
