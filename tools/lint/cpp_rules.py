"""Rules on one C++ file: its shape, its header, what it includes and what it calls."""

import re

import cpp_source
from rule_list import (FUNCTION_LINES_MAX, INTERFACE_METHODS_MAX, KERNEL_LINES_MAX,
                       PARAMETERS_MAX, Finding)

CPP_SUFFIXES = (".cc", ".h", ".cu", ".cuh")
_CUDA_FOLDERS = ("comm/device/", "comm/fabric/", "kernels/", "worker/")
_THREAD_FOLDERS = ("comm/actor/", "comm/channel/", "comm/fabric/", "comm/device/",
                   "worker/weights/", "coordinator/api/", "tools/", "tests/")

# A folder may be included by those named here and by itself, as the root BUILD's groups say.
_EVERYONE = ("comm/", "coordinator/", "kernels/", "placement/", "worker/", "tools/", "tests/")
_PROCESSES = ("comm/", "coordinator/", "worker/", "tools/", "tests/")
INCLUDERS = {
    "comm/base/": _EVERYONE,
    "comm/types/": ("comm/", "coordinator/", "placement/", "worker/", "tools/", "tests/"),
    "comm/exchange/": ("comm/", "coordinator/", "placement/", "worker/", "tools/", "tests/"),
    "comm/schema/": ("comm/codec/",),
    "comm/codec/": _PROCESSES,
    "comm/channel/": _PROCESSES,
    "comm/actor/": _PROCESSES,
    "comm/device/": ("comm/fabric/", "kernels/", "worker/", "tools/", "tests/"),
    "comm/fabric/": ("worker/", "tools/", "tests/"),
    "kernels/": ("worker/", "tools/", "tests/"),
    "worker/": ("tools/", "tests/"),
    "coordinator/": ("tools/", "tests/"),
    "placement/": ("coordinator/", "tools/", "tests/"),
    "tools/": ("tests/",),
    "tests/": (),
}

_LIBRARIES = [
    (re.compile(r"capnp/|kj/|.*\.capnp\.h$"), ("comm/schema/", "comm/codec/")),
    (re.compile(r"zmq(_\w+)?\.h(pp)?$"), ("comm/channel/",)),
    (re.compile(r"(ucp|uct|ucs)/|nccl"), ("comm/fabric/",)),
    (re.compile(r"(cuda|cublas|cufile|nv)\w*(\.h$|/)"), _CUDA_FOLDERS),
]

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">]', re.M)
_SENTENCE_END = re.compile(r"[.!?:;](?=\s|$)", re.M)


def is_test(path):
    return path.startswith("tests/") or re.search(r"_(test|bench|fuzz)\.(cc|cu)$", path) or (
        "test_" in path or "testing" in path)


def _prints(path):
    return path.startswith("tools/") or is_test(path) or _is_main(path)


def _is_main(path):
    return path.endswith("main.cc") or "/main/" in path


def _decides(path):
    """Files whose decisions must repeat exactly: time and randomness come through the context."""
    return not is_test(path) and not _is_main(path) and (
        path.startswith("placement/") or "worker_actor" in path or
        path.startswith("coordinator/") and not path.startswith(("coordinator/api/",
                                                                 "coordinator/dashboard/")))


# A call of a free function; a declaration of that name (`Type name(`) is not one.
_FREE = r"(?:[^\w\s>&*.:\]]|\breturn|\belse|^)\s*(?:std::|::)?\b(?:"
_CALL = r")\s*\("
# (rule, words, pattern over masked text or None for the words themselves, who may, message).
# A file without one of the words is spared the pattern.
_CALLS = [
    ("sleep", "sleep_for sleep_until usleep nanosleep SleepFor", None, lambda path: False,
     "a sleep"),
    ("sleep", "sleep", _FREE + "sleep" + _CALL, lambda path: False, "a sleep"),
    ("random", "rand srand random srandom drand48",
     _FREE + "rand|srand|random|srandom|drand48" + _CALL, lambda path: False,
     "randomness of the C library"),
    ("random", "random_device", None, lambda path: not _decides(path), "random_device here"),
    ("clock", "gettimeofday", None, lambda path: False, "gettimeofday"),
    ("clock", "GetCurrentTimeNanos system_clock steady_clock high_resolution_clock clock_gettime",
     None, lambda path: not _decides(path), "a clock in a decision"),
    ("clock", "Now", r"\babsl::Now\b", lambda path: not _decides(path), "a clock in a decision"),
    ("console", "cout cerr clog", r"\bstd::(?:cout|cerr|clog)\b", _prints, "console output"),
    ("console", "printf puts putchar", _FREE + "printf|puts|putchar" + _CALL, _prints,
     "console output"),
    ("exit", "exit quick_exit abort terminate", _FREE + "exit|quick_exit|abort|terminate" + _CALL,
     _is_main, "an end of the process"),
    ("shell", "system popen", _FREE + "system|popen" + _CALL, lambda path: False, "a shell"),
    ("detach", "detach", r"(?:\.|->)detach\s*\(\s*\)", lambda path: False, "a detached thread"),
    ("thread-home", "thread jthread async", r"\bstd::(?:thread|jthread|async)\b(?!::)",
     lambda path: path.startswith(_THREAD_FOLDERS) or is_test(path) or _is_main(path), "a thread"),
    ("raw-delete", "delete", r"\bdelete\b\s*(?:\[\s*\])?\s*\w", lambda path: False, "delete"),
    ("using-namespace", "namespace", r"\busing\s+namespace\b", lambda path: False,
     "using namespace"),
    ("mutable-global", "Singleton NoDestructor Instance GetInstance",
     r"\b(?:Instance|GetInstance)\s*\(\s*\)|\b(?:Singleton|NoDestructor)\b",
     lambda path: False, "a singleton"),
]
_CALLS = [(rule, frozenset(words.split()),
           re.compile(pattern or rf"\b(?:{'|'.join(words.split())})\b"), may, what)
          for rule, words, pattern, may, what in _CALLS]

_WORD = re.compile(r"\w+")
_STATIC_LOCAL = re.compile(
    r"(?<![\w])(?:static|thread_local)\s+(?!(?:static|thread_local|inline|const\b|constexpr\b"
    r"|constinit const\b))[\w:<>,*& \t\n]+?[\s*&](\w+)\s*(?:[;={]|\()")
_MACRO = re.compile(r"[A-Z][A-Z0-9_]{2,}$")
_CONST = re.compile(r"\bconst\b|\bconstexpr\b")
_NOT_A_VARIABLE = re.compile(
    r"^(?:template\b|extern\b|enum\b|class\b|struct\b|union\b|namespace\b|concept\b|export\b"
    r"|[A-Z][A-Z0-9_]*\b(?!\s*<)\s*(?:\(|$)|~|requires\b)|\boperator\b")
_VARIABLE = re.compile(r"^(?:(?:static|inline|thread_local|constinit)\s+)*[\w:]+[\w:<>,*&\s\[\]]*"
                       r"[\s*&>]\w+(?:\[[^\]]*\])*\s*(?:$|=|\{)")


def line_at(text, position):
    return text.count("\n", 0, position) + 1


def check(path, text, masked, tree):
    """The findings on one C++ file. `tree` is the set of all paths."""
    yield from _check_calls(path, masked)
    yield from _check_includes(path, text, tree)
    if path.endswith((".h", ".cuh")):
        yield from _check_header(path, text)
    outline = cpp_source.outline(masked)
    if outline:
        yield from _check_outline(path, outline)


def _check_calls(path, masked):
    words = frozenset(_WORD.findall(masked))
    for rule, needed, pattern, may, what in _CALLS:
        if not words.isdisjoint(needed) and not may(path):
            for match in pattern.finditer(masked):
                yield Finding(path, line_at(masked, match.end()), rule, what)
    if not is_test(path) and "ABSL_GUARDED_BY" not in masked:
        for match in re.finditer(r"\babsl::Mutex\s+\w+_\s*;", masked):
            yield Finding(path, line_at(masked, match.start()), "guarded-by",
                          "a mutex that guards no field")


def _check_header(path, text):
    comment = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        comment.append(line.lstrip("/ "))
    if len(_SENTENCE_END.findall("\n".join(comment))) < 2:
        yield Finding(path, 1, "header-comment", "it opens with less than two sentences")
    if "HWY_TARGET_TOGGLE" in text:  # included once for each instruction set
        return
    pragma = text.find("#pragma once")
    first = _INCLUDE.search(text)
    if pragma < 0 or (first and first.start() < pragma):
        yield Finding(path, 1, "pragma-once", "no #pragma once before the first include")


def includes(text):
    """(line, quote, path) of each include."""
    for match in _INCLUDE.finditer(text):
        yield line_at(text, match.start()), match.group(1), match.group(2)


def may_include(path, target):
    """Does the dependency law let `path` include a file of this repository?"""
    for folder, includers in INCLUDERS.items():
        if target.startswith(folder):
            return path.startswith(folder) or path.startswith(includers)
    return True


def _check_includes(path, text, tree):
    tops = {folder.split("/")[0] for folder in INCLUDERS}
    for line, quote, target in includes(text):
        for pattern, homes in _LIBRARIES:
            if pattern.match(target) and not path.startswith(homes):
                if target.startswith(tuple(top + "/" for top in tops)) and (
                        not target.endswith(".capnp.h")):
                    continue
                yield Finding(path, line, "library-home",
                              f"<{target}> may be included only in {', '.join(homes)}")
        if target.split("/")[0] in tops and "/" in target:
            source = target[:-2] if target.endswith(".capnp.h") else target
            if source not in tree:
                yield Finding(path, line, "include-path", f'"{target}" does not exist')
            if not may_include(path, target):
                yield Finding(path, line, "include-law",
                              f"{path.rsplit('/', 1)[0]} may not include {target}")
        elif quote == '"' and f"{path.rsplit('/', 1)[0]}/{target}" in tree:
            yield Finding(path, line, "include-path", f'"{target}" is not rooted at the top')


def _check_outline(path, outline):
    for function in outline.functions:
        most = KERNEL_LINES_MAX if function.device else FUNCTION_LINES_MAX
        if function.body and function.lines > most:
            yield Finding(path, function.line, "function-length",
                          f"{function.name} has {function.lines} lines, at most {most}")
        if (function.parameters > PARAMETERS_MAX and not function.overrides
                and not _MACRO.match(function.name)):
            yield Finding(path, function.line, "parameters",
                          f"{function.name} takes {function.parameters}, at most {PARAMETERS_MAX}")
        for match in () if is_test(path) else _STATIC_LOCAL.finditer(function.body):
            if not _CONST.search(match.group()):
                yield Finding(path, function.line + line_at(function.body, match.start()) - 1,
                              "mutable-global", f"{match.group(1)} is a mutable static")
    for found in outline.classes:
        if found.pure_virtuals > INTERFACE_METHODS_MAX:
            yield Finding(path, found.line, "interface-size",
                          f"{found.name} has {found.pure_virtuals} methods, "
                          f"at most {INTERFACE_METHODS_MAX}")
    for line, statement in outline.globals:
        declared = statement.split("=")[0]
        if (_VARIABLE.search(statement) and not _NOT_A_VARIABLE.search(statement)
                and not _CONST.search(declared)):
            yield Finding(path, line, "mutable-global", f"`{declared.strip()}` is mutable")
