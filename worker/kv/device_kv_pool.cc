#include "worker/kv/device_kv_pool.h"

#include <utility>

#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<DeviceKvPool>> DeviceKvPool::Create(const KvGeometry& geometry,
                                                                   int32_t pages) {
  CHECK_GT(pages, 0);
  std::unique_ptr<DeviceKvPool> pool(new DeviceKvPool(geometry, pages));
  const int64_t bytes = (pages + 1LL) * (geometry.PageBytes() / geometry.layers);
  for (int layer = 0; layer < geometry.layers; ++layer) {
    ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(bytes));
    RETURN_IF_ERROR(FillDevice(buffer.data(), 0, bytes, nullptr));
    pool->layers_.push_back(std::move(buffer));
  }
  RETURN_IF_ERROR(SynchronizeCudaDevice());
  return pool;
}

KvLayer DeviceKvPool::Layer(int index) const {
  CHECK_GE(index, 0);
  CHECK_LT(index, geometry_.layers);
  KvLayer layer;
  layer.data = layers_[index].data();
  layer.dtype = geometry_.dtype;
  layer.pages = pages_ + 1;
  layer.page_tokens = geometry_.page_tokens;
  layer.kv_heads = geometry_.kv_heads;
  layer.head_dim = geometry_.head_dim;
  return layer;
}

}  // namespace conclave
