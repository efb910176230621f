// The CUDA devices of this machine: which there are, and whether this binary's code runs on one.
// A machine without a GPU, without a driver, or a binary built without a CUDA toolkit answers
// Unavailable with the remedy; nothing here aborts. Plain functions of values; any thread may call
// them. The first call loads the driver and may take a second.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave {

struct CudaDeviceInfo {
  int index = 0;             // as in --device cuda:N
  std::string name;          // the vendor's, such as "NVIDIA H200"
  int64_t memory_bytes = 0;  // all of it, used or free
  int sm_version = 0;        // compute capability as major * 10 + minor: 90 is Hopper
  int sm_count = 0;          // streaming multiprocessors

  friend bool operator==(const CudaDeviceInfo&, const CudaDeviceInfo&) = default;
};

// The devices in the driver's order, which CUDA_VISIBLE_DEVICES narrows; never an empty list.
// Unavailable when there are none or the driver is absent or too old: the message says which, and
// what to do.
absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices();

// As CUDA counts: 13000 is 13.0.
struct CudaVersions {
  int runtime = 0;  // of this binary; 0 when built without CUDA
  int driver = 0;   // the newest that the driver supports; 0 without a driver
};
CudaVersions FindCudaVersions();

// Runs a kernel of one warp on the device and checks what it wrote. FailedPrecondition when the
// binary holds no code for this chip, InvalidArgument when there is no such device, Unavailable for
// any other failure.
absl::Status CheckCudaDevice(int index);

}  // namespace conclave
