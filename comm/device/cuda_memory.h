// Owners of what a CUDA device gives out: memory, pinned host memory, streams, events, captured
// graphs; and the copies between the two sides. Move-only; an owner is used on the thread that made
// it, with its device current (UseCudaDevice). A binary built without CUDA answers Unavailable.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/device/cuda_stream.h"

struct CUevent_st;
struct CUgraphExec_st;

namespace conclave {

// Makes device `index` the current one of the calling thread.
absl::Status UseCudaDevice(int index);

// Streaming multiprocessors of the current device.
absl::StatusOr<int> CurrentDeviceProcessors();

// Waits for all work of the current device, in all streams.
absl::Status SynchronizeCudaDevice();

struct CudaMemory {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
// Of the current device.
absl::StatusOr<CudaMemory> CurrentCudaMemory();

// Device memory, 256-byte aligned. Contents are undefined.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // ResourceExhausted names the size when the device has no more.
  static absl::StatusOr<DeviceBuffer> Create(int64_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Page-locked host memory, which copies run to and from at full speed and behind the host's back.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  static absl::StatusOr<PinnedBuffer> Create(int64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PinnedBuffer();

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

class CudaStreamOwner {
 public:
  CudaStreamOwner() = default;
  static absl::StatusOr<CudaStreamOwner> Create();
  CudaStreamOwner(CudaStreamOwner&& other) noexcept { std::swap(stream_, other.stream_); }
  CudaStreamOwner& operator=(CudaStreamOwner&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~CudaStreamOwner();

  CudaStream get() const { return stream_; }
  // Waits for all work in it; an error of any kernel shows here.
  absl::Status Synchronize() const;

 private:
  CudaStream stream_ = nullptr;
};

class CudaEvent {
 public:
  CudaEvent() = default;
  static absl::StatusOr<CudaEvent> Create();
  CudaEvent(CudaEvent&& other) noexcept { std::swap(event_, other.event_); }
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaEvent();

  absl::Status Record(CudaStream stream) const;
  // True when the work before the last Record is done, or has failed: Synchronize then tells.
  bool Done() const;
  absl::Status Synchronize() const;
  // From `start` to this one; both recorded and done.
  absl::StatusOr<double> MicrosecondsSince(const CudaEvent& start) const;

 private:
  CUevent_st* event_ = nullptr;
};

// Work captured once and launched many times.
class CudaGraph {
 public:
  CudaGraph() = default;
  // Captures what `enqueue` puts into `stream`.
  static absl::StatusOr<CudaGraph> Capture(CudaStream stream,
                                           absl::FunctionRef<absl::Status()> enqueue);
  CudaGraph(CudaGraph&& other) noexcept { std::swap(graph_, other.graph_); }
  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  ~CudaGraph();

  absl::Status Launch(CudaStream stream) const;

 private:
  CUgraphExec_st* graph_ = nullptr;
};

// Waits for all work in a stream; an error of any kernel shows here.
absl::Status SynchronizeStream(CudaStream stream);

// Copies in stream order; with pageable host memory they wait.
absl::Status CopyToDevice(void* to, const void* from, int64_t bytes, CudaStream stream);
absl::Status CopyToHost(void* to, const void* from, int64_t bytes, CudaStream stream);
absl::Status CopyOnDevice(void* to, const void* from, int64_t bytes, CudaStream stream);
absl::Status FillDevice(void* to, uint8_t byte, int64_t bytes, CudaStream stream);

}  // namespace conclave
