#include "comm/device/cuda_device.h"

#include "absl/strings/str_cat.h"

#if CONCLAVE_CUDA
#include <cuda_runtime.h>

#include "comm/device/cuda_probe.h"
#endif

namespace conclave {

#if CONCLAVE_CUDA
namespace {

constexpr int kProbeSum = 496;  // 0 + 1 + ... + 31

absl::Status Unavailable(absl::string_view attempt, cudaError_t error) {
  absl::string_view remedy = "see nvidia-smi and the kernel log, or pass --device cpu";
  if (error == cudaErrorInsufficientDriver) {
    remedy = "install an NVIDIA driver for CUDA 13 or later, or pass --device cpu";
  } else if (error == cudaErrorNoDevice) {
    remedy = "check CUDA_VISIBLE_DEVICES, or pass --device cpu";
  }
  return absl::UnavailableError(
      absl::StrCat(attempt, " failed: ", cudaGetErrorString(error), "; ", remedy));
}

absl::StatusOr<CudaDeviceInfo> Describe(int index) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) {
    return Unavailable(absl::StrCat("reading the properties of cuda:", index), error);
  }
  CudaDeviceInfo info;
  info.index = index;
  info.name = properties.name;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info.sm_version = properties.major * 10 + properties.minor;
  info.sm_count = properties.multiProcessorCount;
  return info;
}

}  // namespace

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return Unavailable("counting CUDA devices", error);
  if (count == 0) return Unavailable("counting CUDA devices", cudaErrorNoDevice);
  std::vector<CudaDeviceInfo> devices;
  for (int index = 0; index < count; ++index) {
    absl::StatusOr<CudaDeviceInfo> info = Describe(index);
    if (!info.ok()) return info.status();
    devices.push_back(*std::move(info));
  }
  return devices;
}

CudaVersions FindCudaVersions() {
  CudaVersions versions;
  if (cudaRuntimeGetVersion(&versions.runtime) != cudaSuccess) versions.runtime = 0;
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess) versions.driver = 0;
  return versions;
}

absl::Status CheckCudaDevice(int index) {
  absl::StatusOr<std::vector<CudaDeviceInfo>> devices = ListCudaDevices();
  if (!devices.ok()) return devices.status();
  const int count = static_cast<int>(devices->size());
  if (index < 0 || index >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("no device cuda:", index, ": this machine has cuda:0 to cuda:", count - 1));
  }
  int sum = 0;
  const auto error = static_cast<cudaError_t>(RunCudaProbe(index, &sum));
  const std::string name = absl::StrCat("cuda:", index, " (", (*devices)[index].name, ", sm_",
                                        (*devices)[index].sm_version, ")");
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(name,
                     " cannot run this binary's code, which is for sm_90 and newer chips; use "
                     "another device, or --device cpu"));
  }
  if (error != cudaSuccess) return Unavailable(absl::StrCat("running a kernel on ", name), error);
  if (sum != kProbeSum) {
    return absl::UnavailableError(
        absl::StrCat("a kernel on ", name, " summed its lanes to ", sum, ", not ", kProbeSum,
                     ": the device computes wrongly; take it out of service"));
  }
  return absl::OkStatus();
}

#else

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() {
  return absl::UnavailableError(
      "this binary was built without CUDA; build it where nvcc is in /usr/local/cuda or "
      "$CUDA_HOME, "
      "or pass --device cpu");
}

CudaVersions FindCudaVersions() { return {}; }

absl::Status CheckCudaDevice(int index) {
  return absl::Status(
      ListCudaDevices().status().code(),
      absl::StrCat("no device cuda:", index, ": ", ListCudaDevices().status().message()));
}

#endif

}  // namespace conclave
