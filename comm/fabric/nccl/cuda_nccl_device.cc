#include "comm/fabric/nccl/cuda_nccl_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/device/cuda_memory.h"
#include "comm/fabric/process_stamp.h"

#if CONCLAVE_CUDA
#include <cuda_runtime.h>

#include "comm/fabric/nccl/tree_sum.h"
#endif

namespace conclave {

#if CONCLAVE_CUDA
namespace {

absl::Status Check(cudaError_t error, absl::string_view attempt) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(attempt, " failed: ", cudaGetErrorString(error), "; start the worker again"));
}

struct Sides {
  DeviceBuffer device;
  PinnedBuffer host;
};

class CudaNcclDevice final : public NcclDevice {
 public:
  CudaNcclDevice(const NcclDeviceId& id, CudaStream borrowed, CudaStreamOwner own)
      : id_(id), own_(std::move(own)), stream_(borrowed != nullptr ? borrowed : own_.get()) {}

  NcclDeviceId id() const override { return id_; }
  absl::Status MakeCurrent() override { return UseCudaDevice(id_.index); }
  CudaStream stream() const override { return stream_; }

  bool IsDeviceMemory(const void* data) const override {
    cudaPointerAttributes attributes = {};
    if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  }

  absl::StatusOr<NcclMemory> Allocate(size_t bytes, NcclDevice::Sides sides) override {
    auto owner = std::make_shared<conclave::Sides>();
    ASSIGN_OR_RETURN(owner->device, DeviceBuffer::Create(static_cast<int64_t>(bytes)));
    if (sides == NcclDevice::Sides::kBoth) {
      ASSIGN_OR_RETURN(owner->host, PinnedBuffer::Create(static_cast<int64_t>(bytes)));
    }
    NcclMemory memory;
    memory.device = owner->device.as<uint8_t>();
    memory.host = owner->host.as<uint8_t>();
    memory.bytes = bytes;
    memory.owner = std::move(owner);
    return memory;
  }

  absl::Status Copy(void* to, const void* from, size_t bytes) override {
    // Default: the driver tells by the addresses which side each is on.
    return Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_),
                 "copying for the fabric");
  }

  absl::Status TreeSum(const NcclRows& rows, float* out) override {
    const int error = LaunchTreeSum({rows.data, rows.rows, rows.count}, out, stream_);
    return Check(static_cast<cudaError_t>(error), "summing in the fixed tree");
  }

  absl::StatusOr<bool> Done() override {
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    RETURN_IF_ERROR(Check(state, "work on the fabric's stream"));
    return true;
  }

 private:
  const NcclDeviceId id_;
  const CudaStreamOwner own_;
  const CudaStream stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclDevice>> CreateCudaNcclDevice(int index, CudaStream stream) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("no device cuda:", index,
                                               " for NCCL: ", cudaGetErrorString(error),
                                               "; see nvidia-smi and CUDA_VISIBLE_DEVICES"));
  }
  RETURN_IF_ERROR(UseCudaDevice(index));
  NcclDeviceId id;
  static_assert(sizeof(properties.uuid) == sizeof(id.uuid));
  std::memcpy(id.uuid.data(), &properties.uuid, sizeof(properties.uuid));
  id.host = OwnProcessStamp().boot;
  id.index = index;
  char bus_id[32] = {};
  RETURN_IF_ERROR(Check(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), index),
                        "reading the bus id of the device"));
  std::memcpy(id.bus_id.data(), bus_id, std::min(std::strlen(bus_id), id.bus_id.size()));
  CudaStreamOwner own;
  if (stream == nullptr) {
    ASSIGN_OR_RETURN(own, CudaStreamOwner::Create());
  }
  return std::make_unique<CudaNcclDevice>(id, stream, std::move(own));
}

#else

absl::StatusOr<std::unique_ptr<NcclDevice>> CreateCudaNcclDevice(int index, CudaStream) {
  return absl::UnavailableError(
      absl::StrCat("no device cuda:", index,
                   " for NCCL: this binary was built without CUDA; build it where nvcc is in "
                   "/usr/local/cuda or $CUDA_HOME, or use the UCX fabric"));
}

#endif

}  // namespace conclave
