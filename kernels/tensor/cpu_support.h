// Whether this machine can run the CPU kernels. main() asks once, before it builds an engine;
// PackedMatrix CHECKs it, so that no kernel can meet an unsupported machine. Thread-safe: no state.
#pragma once

#include "absl/status/status.h"

namespace conclave {

// Ok on a CPU with AVX2, FMA and F16C; else FailedPrecondition that names what is missing and what
// to do.
absl::Status CheckCpuSupported();

// What the CPU has of the instructions that the kernels rest on; a value, so that the check is
// testable anywhere.
struct CpuFeatures {
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
};
CpuFeatures DetectCpuFeatures();
absl::Status CheckCpuFeatures(const CpuFeatures& features);

}  // namespace conclave
