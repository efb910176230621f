#include "comm/fabric/nccl/fake_nccl_work.h"

#include <cstring>
#include <set>

#include "comm/base/reduction.h"

namespace conclave {
namespace {

// The group of `comm` that runs, or null.
FakeNcclLaunch* Running(FakeNcclComm* comm) {
  if (comm == nullptr || comm->closed || comm->stream == nullptr) return nullptr;
  if (comm->stream->lost || comm->stream->tasks.empty()) return nullptr;
  FakeNcclTask& head = comm->stream->tasks.front();
  return head.launch.has_value() && head.launch->comm == comm ? &*head.launch : nullptr;
}

FakeNcclOp* FirstReceive(FakeNcclLaunch& launch, int from) {
  for (FakeNcclOp& op : launch.ops) {
    if (op.kind == FakeNcclKind::kRecv && !op.done && op.peer == from) return &op;
  }
  return nullptr;
}

// The operation of each member that goes with `op`; empty while one is missing or differs.
std::vector<FakeNcclOp*> Counterparts(const FakeNcclLaunch& launch, const FakeNcclOp& op) {
  std::vector<FakeNcclOp*> ops;
  for (FakeNcclComm* member : launch.comm->world->members) {
    FakeNcclLaunch* running = Running(member);
    if (running == nullptr) return {};
    FakeNcclOp* found = nullptr;
    for (FakeNcclOp& other : running->ops) {
      if (!IsPointToPoint(other.kind) && other.sequence == op.sequence) found = &other;
    }
    if (found == nullptr || found->kind != op.kind || found->bytes != op.bytes ||
        found->peer != op.peer) {
      return {};
    }
    ops.push_back(found);
  }
  return ops;
}

// Sums in descending order of ranks: not the order of the fixed tree.
std::vector<float> SumOf(const std::vector<std::vector<uint8_t>>& inputs) {
  std::vector<float> sum(inputs[0].size() / sizeof(float));
  for (size_t i = inputs.size(); i-- > 0;) {
    for (size_t k = 0; k < sum.size(); ++k) {
      float value;
      std::memcpy(&value, inputs[i].data() + k * sizeof(float), sizeof(float));
      sum[k] += value;
    }
  }
  return sum;
}

void RunCollective(const std::vector<FakeNcclOp*>& ops) {
  const int n = static_cast<int>(ops.size());
  const size_t bytes = ops[0]->bytes;
  std::vector<std::vector<uint8_t>> inputs(n);
  for (int i = 0; i < n; ++i) {
    const size_t size = ExtentOf(*ops[i], i, n).from;
    inputs[i].resize(size);
    if (size > 0) std::memcpy(inputs[i].data(), ops[i]->from, size);
  }
  std::vector<float> sum;
  const FakeNcclKind kind = ops[0]->kind;
  if (kind == FakeNcclKind::kAllReduce || kind == FakeNcclKind::kReduceScatter) sum = SumOf(inputs);
  const auto* summed = reinterpret_cast<const uint8_t*>(sum.data());
  for (int i = 0; i < n; ++i) {
    auto* to = static_cast<uint8_t*>(ops[i]->to);
    ops[i]->done = true;
    if (bytes == 0) continue;
    if (kind == FakeNcclKind::kAllReduce) {
      std::memcpy(to, summed, bytes);
    } else if (kind == FakeNcclKind::kReduceScatter) {
      std::memcpy(to, summed + i * bytes, bytes);
    } else if (kind == FakeNcclKind::kBroadcast) {
      std::memcpy(to, inputs[ops[i]->peer].data(), bytes);
    } else {
      for (int j = 0; j < n; ++j) {
        const size_t offset = kind == FakeNcclKind::kAllToAll ? i * bytes : 0;
        std::memcpy(to + j * bytes, inputs[j].data() + offset, bytes);
      }
    }
  }
}

bool AdvanceLaunch(FakeNcclLaunch& launch) {
  bool advanced = false;
  std::set<int> blocked;  // peers behind a send that waits
  for (FakeNcclOp& op : launch.ops) {
    if (op.done || op.kind == FakeNcclKind::kRecv) continue;
    if (!IsPointToPoint(op.kind)) {
      if (const auto ops = Counterparts(launch, op); !ops.empty()) {
        RunCollective(ops);
        advanced = true;
      }
      continue;
    }
    if (blocked.contains(op.peer)) continue;
    FakeNcclLaunch* peer = Running(launch.comm->world->members[op.peer]);
    FakeNcclOp* recv = peer == nullptr ? nullptr : FirstReceive(*peer, launch.comm->rank);
    if (recv == nullptr || recv->bytes != op.bytes) {
      blocked.insert(op.peer);
      continue;
    }
    if (op.bytes > 0) std::memcpy(recv->to, op.from, op.bytes);
    op.done = recv->done = advanced = true;
  }
  return advanced;
}

void RunSum(const FakeNcclSum& sum) {
  std::vector<float> values(sum.rows.rows);
  for (size_t k = 0; k < sum.rows.count; ++k) {
    for (int i = 0; i < sum.rows.rows; ++i) values[i] = sum.rows.data[i * sum.rows.count + k];
    sum.out[k] = TreeSum(values.data(), sum.rows.rows);
  }
}

bool AllDone(const FakeNcclLaunch& launch) {
  for (const FakeNcclOp& op : launch.ops) {
    if (!op.done) return false;
  }
  return true;
}

}  // namespace

bool IsPointToPoint(FakeNcclKind kind) {
  return kind == FakeNcclKind::kSend || kind == FakeNcclKind::kRecv;
}

FakeNcclExtent ExtentOf(const FakeNcclOp& op, int rank, int size) {
  const size_t bytes = op.bytes;
  const size_t all = bytes * size;
  switch (op.kind) {
    case FakeNcclKind::kSend:
      return {bytes, 0};
    case FakeNcclKind::kRecv:
      return {0, bytes};
    case FakeNcclKind::kAllReduce:
      return {bytes, bytes};
    case FakeNcclKind::kReduceScatter:
      return {all, bytes};
    case FakeNcclKind::kAllGather:
      return {bytes, all};
    case FakeNcclKind::kAllToAll:
      return {all, all};
    case FakeNcclKind::kBroadcast:
      return {rank == op.peer ? bytes : 0, bytes};
  }
  return {};
}

bool AdvanceHead(FakeNcclStream& stream) {
  if (stream.lost || stream.tasks.empty()) return false;
  FakeNcclTask& head = stream.tasks.front();
  bool advanced = false;
  if (head.launch.has_value()) {
    advanced = AdvanceLaunch(*head.launch);
    if (!AllDone(*head.launch)) return advanced;
  } else if (head.copy.has_value()) {
    std::memmove(head.copy->to, head.copy->from, head.copy->bytes);
  } else {
    RunSum(*head.sum);
  }
  stream.tasks.pop_front();
  return true;
}

}  // namespace conclave
