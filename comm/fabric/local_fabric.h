// Fabrics whose ranks are threads of one process: for tests, and for several workers in one
// process. A LocalFabricHub stands for the network: endpoints made by it find one another at
// Connect. The hub is thread-safe; a fabric has one user.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "comm/fabric/fabric.h"
#include "comm/fabric/local_transport.h"

namespace conclave {

// The fabrics of a world, by rank.
std::vector<std::unique_ptr<Fabric>> CreateLocalFabrics(int ranks);

class LocalFabricHub : public std::enable_shared_from_this<LocalFabricHub> {
 public:
  static std::shared_ptr<LocalFabricHub> Create();

  // The endpoint keeps the hub alive. Its Connect does not wait for the peers: ranks that connect
  // with the same addresses and epoch share a world.
  std::unique_ptr<FabricEndpoint> CreateEndpoint();

 private:
  friend class LocalEndpoint;
  LocalFabricHub() = default;
  std::shared_ptr<LocalWorld> Join(const std::string& key, int ranks);

  absl::Mutex mutex_;
  int endpoints_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::weak_ptr<LocalWorld>> worlds_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace conclave
