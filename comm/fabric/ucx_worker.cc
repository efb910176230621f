#include "comm/fabric/ucx_worker.h"

#include <ucs/config/global_opts.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

bool SetByUser(const char* variable) { return std::getenv(variable) != nullptr; }

bool HasRdma() {
  std::error_code error;
  return !std::filesystem::is_empty("/sys/class/infiniband", error) && !error;
}

// No "cma": copying from a peer's address space needs ptrace rights, and could read a buffer that a
// rank has given up after an error. No "sysv": its segments may outlive kill -9; posix segments are
// unlinked as soon as they are made.
std::string TransportsOf(const UcxOptions& options) {
  if (!options.transports.empty()) return options.transports;
  return HasRdma() ? "posix,tcp,rc,ud" : "posix,tcp";
}

struct Setting {
  const char* variable;  // by which the user overrides it
  const char* key;
  std::string value;                      // empty leaves UCX's default
  const char* other_variable = variable;  // that overrides it too
};

absl::Status Configure(ucp_config_t* config, const UcxOptions& options) {
  const Setting settings[] = {
      {"UCX_TLS", "TLS", TransportsOf(options)},
      {"UCX_NET_DEVICES", "NET_DEVICES", options.net_devices},
      // Or neighbours would send large messages through TCP, which can write directly, beside
      // shared memory.
      {"UCX_MAX_RNDV_LANES", "MAX_RNDV_LANES", HasRdma() ? "" : "0"},
      // Messages of a decode step go without a handshake. Each rank has 2 MiB of shared memory to
      // receive in, which holds them: a full queue costs the sender polls.
      {"UCX_RNDV_THRESH", "RNDV_THRESH", "262144"},
      // Over TCP a larger send ends when the kernel has all of it. UCX copies smaller ones, and the
      // tail of a copy may stay with it while the rank computes, but only once the socket's buffer
      // is full.
      {"UCX_ZCOPY_THRESH", "ZCOPY_THRESH", HasRdma() ? "" : "16384"},
      // Or making a connection to a host that does not answer keeps the thread for minutes. UCX
      // 1.13 ignores this key with its prefix.
      {"UCX_TCP_CONN_NB", "CONN_NB", "y"},
      // By the names of all shared memory: UCX takes those of posix from the environment only, and
      // here ignores them without a word.
      {"UCX_MM_SEG_SIZE", "MM_SEG_SIZE", "16384", "UCX_POSIX_SEG_SIZE"},
      {"UCX_MM_FIFO_SIZE", "MM_FIFO_SIZE", "128", "UCX_POSIX_FIFO_SIZE"},
  };
  for (const Setting& setting : settings) {
    if (setting.value.empty() || SetByUser(setting.variable) || SetByUser(setting.other_variable)) {
      continue;
    }
    const ucs_status_t status = ucp_config_modify(config, setting.key, setting.value.c_str());
    if (status != UCS_OK) {
      return UcxError(status, absl::StrCat("setting ", setting.key, "=", setting.value));
    }
  }
  return absl::OkStatus();
}

// UCX warns about what it does not find on a machine; errors come as statuses too, but say more in
// its log.
void QuietLog() {
  if (!SetByUser("UCX_LOG_LEVEL")) ucs_global_opts_set_value("LOG_LEVEL", "error");
}

}  // namespace

std::string UcxVersion() {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  return absl::StrCat(major, ".", minor, ".", release);
}

absl::Status UcxError(ucs_status_t status, absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", ucs_status_string(status)));
}

bool UsesSharedMemory(const UcxOptions& options) {
  const char* user = std::getenv("UCX_TLS");
  const std::string transports = user != nullptr ? user : TransportsOf(options);
  if (absl::StartsWith(transports, "^")) return !absl::StrContains(transports, "posix");
  for (const absl::string_view name : absl::StrSplit(transports, ',')) {
    if (name == "posix" || name == "sysv" || name == "shm" || name == "sm" || name == "mm" ||
        name == "all")
      return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Create(const UcxOptions& options) {
  std::unique_ptr<UcxWorker> worker(new UcxWorker());
  RETURN_IF_ERROR(worker->Init(options));
  return worker;
}

absl::Status UcxWorker::Init(const UcxOptions& options) {
  QuietLog();
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return UcxError(status, "reading the UCX configuration");
  const std::unique_ptr<ucp_config_t, void (*)(ucp_config_t*)> owned(config, ucp_config_release);
  RETURN_IF_ERROR(Configure(config, options));

  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_TAG | UCP_FEATURE_WAKEUP;
  status = ucp_init(&params, config, &context_);
  if (status != UCS_OK) {
    return UcxError(status, "starting UCX (is a transport of UCX_TLS present on this machine?)");
  }

  ucp_worker_params_t worker_params = {};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  status = ucp_worker_create(context_, &worker_params, &worker_);
  if (status != UCS_OK) return UcxError(status, "creating a UCX worker");
  status = ucp_worker_get_efd(worker_, &event_fd_);
  if (status != UCS_OK) return UcxError(status, "getting UCX's event descriptor");

  ucp_address_t* address = nullptr;
  size_t length = 0;
  status = ucp_worker_get_address(worker_, &address, &length);
  if (status != UCS_OK) return UcxError(status, "getting the UCX worker's address");
  address_.assign(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(worker_, address);
  return absl::OkStatus();
}

UcxWorker::~UcxWorker() {
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

}  // namespace conclave
