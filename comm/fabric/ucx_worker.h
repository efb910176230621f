// UcxWorker: a UCX context and its one worker, configured for this project and released in order.
// Owned by a fabric endpoint, then by its transport; used by one thread at a time.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/fabric/ucx_fabric.h"

namespace conclave {

// Unavailable: "what: UCX's text".
absl::Status UcxError(ucs_status_t status, absl::string_view what);

// True when the transports in use, the user's UCX_TLS before the options, include shared memory.
bool UsesSharedMemory(const UcxOptions& options);

class UcxWorker {
 public:
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create(const UcxOptions& options);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  ucp_worker_h handle() const { return worker_; }
  const std::string& address() const { return address_; }
  int event_fd() const { return event_fd_; }

 private:
  UcxWorker() = default;
  absl::Status Init(const UcxOptions& options);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;  // owned by the worker
  std::string address_;
};

}  // namespace conclave
