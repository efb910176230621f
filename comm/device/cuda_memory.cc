#include "comm/device/cuda_memory.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#if CONCLAVE_CUDA
#include <cuda_runtime.h>
#endif

namespace conclave {

#if CONCLAVE_CUDA
namespace {

absl::Status Check(cudaError_t error, absl::string_view attempt) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(attempt, " failed: ", cudaGetErrorString(error),
                                          "; the worker must be started "
                                          "again, see its log and the kernel's for the cause"));
}

absl::Status NoMemory(cudaError_t error, absl::string_view what, int64_t bytes) {
  cudaGetLastError();  // an allocation that failed leaves no other trace
  return absl::ResourceExhaustedError(absl::StrFormat(
      "cannot allocate %.1f MiB of %s: %s; lower --memory or --max-num-batched-tokens, or use more "
      "workers",
      bytes / 1048576.0, what, cudaGetErrorString(error)));
}

}  // namespace

absl::Status UseCudaDevice(int index) {
  return Check(cudaSetDevice(index), absl::StrCat("selecting cuda:", index));
}

absl::StatusOr<int> CurrentDeviceProcessors() {
  int device = 0, processors = 0;
  absl::Status status = Check(cudaGetDevice(&device), "reading the current device");
  if (!status.ok()) return status;
  status = Check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                 "counting processors");
  if (!status.ok()) return status;
  return processors;
}

absl::Status SynchronizeCudaDevice() {
  return Check(cudaDeviceSynchronize(), "work on the device");
}

absl::StatusOr<CudaMemory> CurrentCudaMemory() {
  size_t free = 0, total = 0;
  const absl::Status status = Check(cudaMemGetInfo(&free, &total), "reading the device's memory");
  if (!status.ok()) return status;
  return CudaMemory{static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(int64_t bytes) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  if (const cudaError_t error = cudaMalloc(&buffer.data_, bytes); error != cudaSuccess) {
    return NoMemory(error, "device memory", bytes);
  }
  buffer.bytes_ = bytes;
  return buffer;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) cudaFree(data_);
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Create(int64_t bytes) {
  PinnedBuffer buffer;
  if (bytes == 0) return buffer;
  if (const cudaError_t error = cudaMallocHost(&buffer.data_, bytes); error != cudaSuccess) {
    return NoMemory(error, "pinned host memory", bytes);
  }
  buffer.bytes_ = bytes;
  return buffer;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

absl::StatusOr<CudaStreamOwner> CudaStreamOwner::Create() {
  CudaStreamOwner owner;
  const absl::Status status =
      Check(cudaStreamCreateWithFlags(&owner.stream_, cudaStreamNonBlocking), "making a stream");
  if (!status.ok()) return status;
  return owner;
}

CudaStreamOwner::~CudaStreamOwner() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status SynchronizeStream(CudaStream stream) {
  return Check(cudaStreamSynchronize(stream), "work on the device");
}

absl::Status CudaStreamOwner::Synchronize() const { return SynchronizeStream(stream_); }

absl::StatusOr<CudaEvent> CudaEvent::Create() {
  CudaEvent event;
  const absl::Status status = Check(cudaEventCreate(&event.event_), "making an event");
  if (!status.ok()) return status;
  return event;
}

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

absl::Status CudaEvent::Record(CudaStream stream) const {
  return Check(cudaEventRecord(event_, stream), "recording an event");
}

bool CudaEvent::Done() const { return cudaEventQuery(event_) != cudaErrorNotReady; }

absl::Status CudaEvent::Synchronize() const {
  return Check(cudaEventSynchronize(event_), "work on the device");
}

absl::StatusOr<double> CudaEvent::MicrosecondsSince(const CudaEvent& start) const {
  float milliseconds = 0;
  const absl::Status status =
      Check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "reading event times");
  if (!status.ok()) return status;
  return milliseconds * 1e3;
}

absl::StatusOr<CudaGraph> CudaGraph::Capture(CudaStream stream,
                                             absl::FunctionRef<absl::Status()> enqueue) {
  absl::Status status = Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                              "beginning a capture");
  if (!status.ok()) return status;
  const absl::Status enqueued = enqueue();
  cudaGraph_t graph = nullptr;
  status = Check(cudaStreamEndCapture(stream, &graph), "ending a capture");
  CudaGraph made;
  if (enqueued.ok() && status.ok()) {
    status = Check(cudaGraphInstantiate(&made.graph_, graph, 0), "instantiating a graph");
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!enqueued.ok()) return enqueued;
  if (!status.ok()) return status;
  return made;
}

CudaGraph::~CudaGraph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

absl::Status CudaGraph::Launch(CudaStream stream) const {
  return Check(cudaGraphLaunch(graph_, stream), "launching a graph");
}

absl::Status CopyToDevice(void* to, const void* from, int64_t bytes, CudaStream stream) {
  return Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream),
               "copying to the device");
}

absl::Status CopyToHost(void* to, const void* from, int64_t bytes, CudaStream stream) {
  return Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream),
               "copying from the device");
}

absl::Status CopyOnDevice(void* to, const void* from, int64_t bytes, CudaStream stream) {
  return Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream),
               "copying on the device");
}

absl::Status FillDevice(void* to, uint8_t byte, int64_t bytes, CudaStream stream) {
  return Check(cudaMemsetAsync(to, byte, bytes, stream), "filling device memory");
}

#else

namespace {
absl::Status NoCuda() {
  return absl::UnavailableError(
      "this binary was built without CUDA; build it where nvcc is in /usr/local/cuda or "
      "$CUDA_HOME, "
      "or pass --device cpu");
}
}  // namespace

absl::Status UseCudaDevice(int) { return NoCuda(); }
absl::StatusOr<int> CurrentDeviceProcessors() { return NoCuda(); }
absl::Status SynchronizeCudaDevice() { return NoCuda(); }
absl::StatusOr<CudaMemory> CurrentCudaMemory() { return NoCuda(); }
absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(int64_t) { return NoCuda(); }
DeviceBuffer::~DeviceBuffer() = default;
absl::StatusOr<PinnedBuffer> PinnedBuffer::Create(int64_t) { return NoCuda(); }
PinnedBuffer::~PinnedBuffer() = default;
absl::StatusOr<CudaStreamOwner> CudaStreamOwner::Create() { return NoCuda(); }
CudaStreamOwner::~CudaStreamOwner() = default;
absl::Status SynchronizeStream(CudaStream) { return NoCuda(); }
absl::Status CudaStreamOwner::Synchronize() const { return NoCuda(); }
absl::StatusOr<CudaEvent> CudaEvent::Create() { return NoCuda(); }
CudaEvent::~CudaEvent() = default;
absl::Status CudaEvent::Record(CudaStream) const { return NoCuda(); }
bool CudaEvent::Done() const { return true; }
absl::Status CudaEvent::Synchronize() const { return NoCuda(); }
absl::StatusOr<double> CudaEvent::MicrosecondsSince(const CudaEvent&) const { return NoCuda(); }
absl::StatusOr<CudaGraph> CudaGraph::Capture(CudaStream, absl::FunctionRef<absl::Status()>) {
  return NoCuda();
}
CudaGraph::~CudaGraph() = default;
absl::Status CudaGraph::Launch(CudaStream) const { return NoCuda(); }
absl::Status CopyToDevice(void*, const void*, int64_t, CudaStream) { return NoCuda(); }
absl::Status CopyToHost(void*, const void*, int64_t, CudaStream) { return NoCuda(); }
absl::Status CopyOnDevice(void*, const void*, int64_t, CudaStream) { return NoCuda(); }
absl::Status FillDevice(void*, uint8_t, int64_t, CudaStream) { return NoCuda(); }

#endif

}  // namespace conclave
