// DeviceKvPool: the memory of a rank's KV pages on a GPU, for all layers of its stage, as KvPool is
// for the CPU. One page more than asked for is there, `spare_page`: padding of a batch writes to
// it. Owned by the engine's backend; move-only; the views are used with its device current.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/device/cuda_memory.h"
#include "worker/kv/kv_pool.h"

namespace conclave {

class DeviceKvPool {
 public:
  // ResourceExhausted when the device has no such memory. Pages are zero: what was never written
  // must not be a NaN.
  static absl::StatusOr<std::unique_ptr<DeviceKvPool>> Create(const KvGeometry& geometry,
                                                              int32_t pages);

  int32_t pages() const { return pages_; }
  int32_t spare_page() const { return pages_; }
  const KvGeometry& geometry() const { return geometry_; }
  // Layer `index` of the stage, from 0; its data is in device memory.
  KvLayer Layer(int index) const;

 private:
  DeviceKvPool(const KvGeometry& geometry, int32_t pages) : geometry_(geometry), pages_(pages) {}

  KvGeometry geometry_;
  int32_t pages_;
  std::vector<DeviceBuffer> layers_;
};

}  // namespace conclave
