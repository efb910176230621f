"""Detects a CUDA toolkit, so that the tree builds with and without one.

@local_cuda//:defs.bzl then says HAVE_CUDA, and @local_cuda//:cudart is the static runtime, or an
empty library. The toolkit is looked for in $CUDA_HOME or, when that is unset, in /usr/local/cuda.
Host code that depends on :cudart sees CONCLAVE_CUDA=1 exactly when there is a toolkit.
"""

# Only the headers that host code includes: CCCL has thousands, and each sandbox links them all.
_WITH = """package(default_visibility = ["//visibility:public"])

cc_library(
    name = "cudart",
    srcs = ["libcudart_static.a"],
    hdrs = glob([
        "include/*.h",
        "include/*.hpp",
        "include/crt/**",
        "include/nv/**",
        "include/nvtx3/**",
        "include/cccl/nv/**",
    ]),
    includes = ["include"],
    defines = ["CONCLAVE_CUDA=1"],
    linkopts = ["-ldl", "-lrt", "-lpthread"],
)
"""

_WITHOUT = """package(default_visibility = ["//visibility:public"])

cc_library(name = "cudart")
"""

def _cuda_configure_impl(ctx):
    home = ctx.path(ctx.os.environ.get("CUDA_HOME") or "/usr/local/cuda")
    nvcc = home.get_child("bin").get_child("nvcc")
    library = home.get_child("lib64").get_child("libcudart_static.a")
    found = nvcc.exists and library.exists
    if found:
        ctx.symlink(home.get_child("include"), "include")
        ctx.symlink(library, "libcudart_static.a")
    ctx.file("BUILD", _WITH if found else _WITHOUT)
    ctx.file("defs.bzl", "HAVE_CUDA = %s\nNVCC = %r\n" % (found, str(nvcc) if found else ""))

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    environ = ["CUDA_HOME"],
    local = True,
)
