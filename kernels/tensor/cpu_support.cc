#include "kernels/tensor/cpu_support.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace conclave {

CpuFeatures DetectCpuFeatures() {
  __builtin_cpu_init();
  return {.avx2 = __builtin_cpu_supports("avx2") != 0,
          .fma = __builtin_cpu_supports("fma") != 0,
          .f16c = __builtin_cpu_supports("f16c") != 0};
}

absl::Status CheckCpuFeatures(const CpuFeatures& features) {
  std::string missing;
  if (!features.avx2) absl::StrAppend(&missing, " AVX2");
  if (!features.fma) absl::StrAppend(&missing, " FMA");
  if (!features.f16c) absl::StrAppend(&missing, " F16C");
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "this CPU lacks", missing,
      ", which the CPU kernels need; use an x86-64-v3 machine "
      "(Intel Haswell, AMD Zen or later; in a virtual machine pass the host CPU through)"));
}

absl::Status CheckCpuSupported() { return CheckCpuFeatures(DetectCpuFeatures()); }

}  // namespace conclave
