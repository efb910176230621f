"""cuda_library: .cu files compiled by nvcc into a static library for sm_90a, with PTX for newer.

Without a toolkit it has its headers and deps but no code, so a caller guards each use with
`#if CONCLAVE_CUDA`, which @local_cuda//:cudart defines. Headers of deps are found as in cc_library:
by their path from the root.
"""

load("@local_cuda//:defs.bzl", "HAVE_CUDA", "NVCC")

_FLAGS = [
    "-std=c++20",
    "-O3",
    "-lineinfo",
    "--expt-relaxed-constexpr",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_90,code=compute_90",
    "-Xcompiler=-fPIC,-Wall,-UNDEBUG",
]

def _cuda_archive_impl(ctx):
    headers = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps]
    defines = [dep[CcInfo].compilation_context.defines for dep in ctx.attr.deps]
    inputs = depset(ctx.files.hdrs, transitive = headers)
    objects = []
    for src in ctx.files.srcs:
        out = ctx.actions.declare_file(src.basename + ".o", sibling = src)
        args = ctx.actions.args()
        args.add_all(_FLAGS)
        args.add("-DCONCLAVE_CUDA=1")
        args.add_all(depset(transitive = defines), format_each = "-D%s")
        args.add_all(["-I.", "-c", src, "-o", out])
        ctx.actions.run(
            executable = NVCC,
            arguments = [args],
            inputs = depset([src], transitive = [inputs]),
            outputs = [out],
            mnemonic = "Nvcc",
            progress_message = "Compiling %s for CUDA" % src.short_path,
            use_default_shell_env = True,
        )
        objects.append(out)
    archive = ctx.actions.declare_file("lib%s.a" % ctx.label.name)
    args = ctx.actions.args()
    args.add_all(["rcsD", archive] + objects)
    ctx.actions.run(
        executable = "/usr/bin/ar",
        arguments = [args],
        inputs = objects,
        outputs = [archive],
        mnemonic = "CudaArchive",
    )
    return [DefaultInfo(files = depset([archive]))]

_cuda_archive = rule(
    implementation = _cuda_archive_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

def cuda_library(name, srcs, hdrs = [], deps = [], absent = [], **kwargs):
    """A cc_library whose sources are .cu files.

    Args:
      name: of the library.
      srcs: the .cu files, each an nvcc run of its own.
      hdrs: headers, usable from host code: they name no CUDA type.
      deps: libraries whose headers the sources include.
      absent: .cc files compiled in their place where there is no toolkit.
      **kwargs: passed to cc_library.
    """
    if not HAVE_CUDA:
        native.cc_library(name = name, srcs = absent, hdrs = hdrs, deps = deps, **kwargs)
        return
    _cuda_archive(
        name = name + "_cu",
        srcs = srcs,
        hdrs = hdrs,
        deps = deps,
        testonly = kwargs.get("testonly", False),
        visibility = ["//visibility:private"],
    )
    native.cc_library(
        name = name,
        srcs = [":" + name + "_cu"],
        linkstatic = True,
        hdrs = hdrs,
        deps = deps + ["@local_cuda//:cudart"],
        **kwargs
    )
