// HookedFabric: a fabric that tells a hook before and after each operation, for tests and benches
// that time the parts of an exchange or strike in the midst of one. Borrows the fabric. Used like
// it.
#pragma once

#include <functional>
#include <utility>

#include "comm/fabric/fabric.h"

namespace conclave {

class HookedFabric final : public Fabric {
 public:
  enum class Moment { kBefore, kAfter };
  using Hook = std::function<void(const FabricOp&, Moment)>;

  HookedFabric(Fabric& fabric, Hook hook) : fabric_(fabric), hook_(std::move(hook)) {}

  int rank() const override { return fabric_.rank(); }
  absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                        const FabricOp& op) override {
    return Hooked(op, [&] { return fabric_.Exchange(sends, recvs, op); });
  }
  absl::Status AllReduceSum(const FabricGroup& group, absl::Span<float> data,
                            const FabricOp& op) override {
    return Hooked(op, [&] { return fabric_.AllReduceSum(group, data, op); });
  }
  absl::Status AllGatherV(const FabricGroup& group, absl::Span<const uint8_t> part,
                          absl::Span<const absl::Span<uint8_t>> out, const FabricOp& op) override {
    return Hooked(op, [&] { return fabric_.AllGatherV(group, part, out, op); });
  }
  absl::Status ReduceScatterSum(const FabricGroup& group, absl::Span<const float> data,
                                absl::Span<float> out, const FabricOp& op) override {
    return Hooked(op, [&] { return fabric_.ReduceScatterSum(group, data, out, op); });
  }
  absl::Status Broadcast(const FabricGroup& group, int root, absl::Span<uint8_t> data,
                         const FabricOp& op) override {
    return Hooked(op, [&] { return fabric_.Broadcast(group, root, data, op); });
  }
  void Cancel(absl::Status reason) override { fabric_.Cancel(std::move(reason)); }
  FabricCounters counters() const override { return fabric_.counters(); }

 private:
  template <typename Call>
  absl::Status Hooked(const FabricOp& op, const Call& call) {
    hook_(op, Moment::kBefore);
    absl::Status status = call();
    hook_(op, Moment::kAfter);
    return status;
  }

  Fabric& fabric_;
  const Hook hook_;
};

}  // namespace conclave
