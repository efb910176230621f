// The smallest kernel there is: it shows that a device runs code of this binary. Only
// cuda_device.cc calls it, and only in a build with a CUDA toolkit. Any thread; it sets the calling
// thread's current device.
#pragma once

namespace conclave {

// Launches one warp on device `index`; each lane writes its number and the host checks the sum.
// Moves 4 bytes. Returns the cudaError_t of the first call that failed, or 0. `*sum` is 496 (0 + 1
// + ... + 31) on a sound device.
int RunCudaProbe(int index, int* sum);

}  // namespace conclave
