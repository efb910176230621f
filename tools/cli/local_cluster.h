// LocalCluster: a coordinator and its workers as child processes of this one, on loopback, with
// keys and logs in a folder of their own. A throw-away cluster leaves nothing behind: Stop (or the
// destructor) ends the processes and removes the folder. Owned by one thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tools/cli/http_client.h"
#include "tools/cli/model_options.h"
#include "tools/cli/subprocess.h"

namespace conclave {

struct LocalClusterOptions {
  ModelOptions model;
  int workers = 1;
  std::string host = "127.0.0.1";
  int port = 0;           // 0: chosen by the system
  std::string state_dir;  // empty: a temporary folder, removed at the end
  std::string served_model_name;
  int nodes = 1;         // that the workers say they are on, neighbours together
  std::string program;   // the `conclave` binary; empty: this very program
  bool verbose = false;  // logs go to this process's stderr rather than to files
  absl::Duration start_timeout = absl::Minutes(30);
  const std::atomic<bool>* cancelled = nullptr;
};

class LocalCluster {
 public:
  // Returns when the cluster serves. `progress` gets a line whenever the state changes. An error
  // holds what the failing process said last.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(
      const LocalClusterOptions& options, const std::function<void(absl::string_view)>& progress);
  ~LocalCluster();

  const std::string& url() const { return url_; }
  // Where workers connect.
  const std::string& control() const { return control_; }
  // A client of this cluster, with the admin token when `admin`.
  HttpClient Client(bool admin) const;
  // A child that ended by itself, described; empty when all run.
  std::string FailedChild();
  // Starts workers that ended again, under their names; returns a line for each, for the operator.
  // ResourceExhausted when workers keep dying (kRestartsMax in a row without a minute of peace),
  // Unavailable when the coordinator itself ended.
  absl::StatusOr<std::vector<std::string>> Supervise();
  int worker_count() const { return static_cast<int>(workers_.size()); }
  const std::string& state_dir() const { return state_dir_; }
  const Subprocess& coordinator() const { return coordinator_[0]; }
  const Subprocess& worker(int i) const { return workers_[i]; }

  // Drains and stops everything; ok when all left in good order.
  absl::Status Stop();

 private:
  explicit LocalCluster(const LocalClusterOptions& options) : options_(options) {}
  absl::Status MakeStateDir();
  absl::StatusOr<std::string> Program() const;
  absl::Status StartCoordinator();
  absl::Status StartWorkers();
  absl::StatusOr<Subprocess> StartWorker(int i) const;
  absl::Status AwaitServing(const std::function<void(absl::string_view)>& progress);
  std::string LogPath(const std::string& name) const;
  std::string LogTail(const std::string& name) const;

  LocalClusterOptions options_;
  std::string state_dir_;
  bool remove_state_dir_ = false;
  std::string url_;
  std::string control_;
  std::string admin_token_;
  std::vector<Subprocess> coordinator_;  // one, once started
  std::vector<Subprocess> workers_;
  int restarts_ = 0;
  absl::Time last_restart_ = absl::InfinitePast();
};

// The path of this very program, for starting the other processes of a cluster.
absl::StatusOr<std::string> ProgramPath();

}  // namespace conclave
