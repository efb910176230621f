// NcclDevice: what a fabric over NCCL needs of the GPU it is bound to: a stream, memory, copies in
// stream order, and the fixed-tree sum. The real one is CUDA (cuda_nccl_device.h); tests give one
// whose device memory is the host's. Owned by the fabric; used on the one thread that uses it.
//
// A fabric takes spans of host and of device memory alike and tells them apart by IsDeviceMemory:
// what NCCL may read and write directly (device and managed memory) goes as it is, all else through
// staging memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

// Which GPU it is, for peers: NCCL takes one rank a GPU.
struct NcclDeviceId {
  std::array<uint8_t, 16> uuid = {};  // cudaDeviceProp::uuid
  uint64_t host = 0;                  // hash of the boot id: equal on one machine
  std::array<char, 16> bus_id = {};   // "0000:1b:00.0", zero-padded; parts of one GPU share it
  int index = 0;                      // as in --device cuda:N of its process
  bool operator==(const NcclDeviceId&) const = default;
};

// Memory of both sides that lives until the last copy of `owner` goes.
struct NcclMemory {
  uint8_t* device = nullptr;
  uint8_t* host = nullptr;  // pinned
  size_t bytes = 0;         // of each side that was asked for
  std::shared_ptr<void> owner;
};

// Floats [rows, count].
struct NcclRows {
  float* data = nullptr;
  int rows = 0;
  size_t count = 0;
};

class NcclDevice {
 public:
  enum class Sides { kDevice, kBoth };

  virtual ~NcclDevice() = default;
  virtual NcclDeviceId id() const = 0;
  // Makes the device the calling thread's current one; NCCL binds a communicator to it.
  virtual absl::Status MakeCurrent() = 0;
  virtual CudaStream stream() const = 0;
  virtual bool IsDeviceMemory(const void* data) const = 0;
  // ResourceExhausted names the size.
  virtual absl::StatusOr<NcclMemory> Allocate(size_t bytes, Sides sides) = 0;
  // In stream order; each side may be any memory. Pageable memory makes it wait.
  virtual absl::Status Copy(void* to, const void* from, size_t bytes) = 0;
  // out := sum of the rows in the tree of comm/base/reduction.h, in stream order; overwrites rows.
  virtual absl::Status TreeSum(const NcclRows& rows, float* out) = 0;
  // True when all that was put into the stream is done; an error of it shows here.
  virtual absl::StatusOr<bool> Done() = 0;
};

}  // namespace conclave
