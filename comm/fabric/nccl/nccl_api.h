// NcclApi: NCCL's functions as a table, filled from a library opened at run time, or by a fake. A
// table is checked once (CheckNcclApi): a library that is too old or lacks a needed function is
// refused with the remedy, and what only newer ones have is switched off by name. The library stays
// open for the life of the process, because its threads outlive communicators. The table does not
// change after it is made; any thread may call its functions, under NCCL's own rules.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/device/cuda_stream.h"
#include "comm/fabric/nccl/nccl_abi.h"

namespace conclave {

// ncclCommShrink came with 2.27; without it the loss of a rank cannot be handled in place.
inline constexpr int kNcclVersionMin = NcclVersionCode(2, 27, 0);

// Something that not every library has.
struct NcclFeature {
  std::string name;  // "all_to_all"
  bool present = false;
  std::string detail;  // which function is missing, or what it is for
  bool operator==(const NcclFeature&) const = default;
};

// The members are NCCL's functions by their names, less "nccl"; see nccl.h for each contract.
struct NcclApi {
  template <typename... Args>
  using Function = std::function<NcclResult(Args...)>;
  using Collective = Function<const void*, void*, size_t, NcclType, NcclComm, CudaStream>;
  using Reduction =
      Function<const void*, void*, size_t, NcclType, NcclReduction, NcclComm, CudaStream>;

  Function<int*> get_version;
  Function<NcclUniqueId*> get_unique_id;
  Function<NcclComm*, int, NcclUniqueId, int, NcclConfig*> comm_init_rank_config;
  Function<NcclComm> comm_finalize;
  Function<NcclComm> comm_destroy;
  Function<NcclComm> comm_abort;
  Function<NcclComm, int*, int, NcclComm*, NcclConfig*, int> comm_shrink;
  Function<NcclComm, NcclResult*> comm_get_async_error;
  std::function<const char*(NcclResult)> get_error_string;
  std::function<const char*(NcclComm)> get_last_error;
  Function<> group_start;
  Function<> group_end;
  Function<const void*, size_t, NcclType, int, NcclComm, CudaStream> send;
  Function<void*, size_t, NcclType, int, NcclComm, CudaStream> recv;
  Reduction all_reduce;
  Reduction reduce_scatter;
  Collective all_gather;
  Function<const void*, void*, size_t, NcclType, int, NcclComm, CudaStream> broadcast;

  // Optional: empty where the library lacks them.
  Collective all_to_all;  // 2.28
  Function<NcclComm, void*, size_t, NcclWindow*, int> comm_window_register;
  Function<NcclComm, NcclWindow> comm_window_deregister;
  Function<void**, size_t> mem_alloc;
  Function<void*> mem_free;
  bool has_device_api = false;  // ncclDevCommCreate (2.28): reported; no kernel of ours uses it

  // Set by CheckNcclApi.
  int version = 0;      // NcclVersionCode
  std::string library;  // what was opened
  std::vector<NcclFeature> features;
};

// "2.28.9".
std::string NcclVersionText(int version);

// "NCCL 2.28.9 (libnccl.so.2): all_to_all, symmetric_windows; without device_api (no
// ncclDevCommCreate)".
std::string DescribeNccl(const NcclApi& api);

// Reads the version and lists the features. FailedPrecondition when the library is older than
// kNcclVersionMin, lacks a needed function, or does not tell its version.
absl::Status CheckNcclApi(NcclApi& api);

// Fills a table from named C functions ("ncclSend"), null where the library has none; not checked
// yet. `library` is for messages.
using NcclSymbolLookup = std::function<void*(const char* name)>;
NcclApi BindNcclApi(const NcclSymbolLookup& lookup, absl::string_view library);

struct NcclLoadOptions {
  std::string library;  // path or name; empty: libnccl.so.2 by the loader's search path
  bool nvls = false;    // NVLink multicast; NCCL_NVLS_ENABLE in the environment wins
};

// CONCLAVE_NCCL_LIBRARY names the library.
NcclLoadOptions NcclLoadOptionsFromEnvironment();

// Opens and checks the library. NotFound says what was tried and what to do; FailedPrecondition as
// in CheckNcclApi. Sets NCCL_NVLS_ENABLE=0 unless it is set or asked for: call it before the
// process has threads that read the environment.
absl::StatusOr<std::shared_ptr<const NcclApi>> LoadNccl(const NcclLoadOptions& options);

}  // namespace conclave
