"""Rules on the whole tree: files that nothing builds or names, and the paths READMEs give."""

import fnmatch
import posixpath
import re

from rule_list import README_LINES_MAX, Finding

SOURCE_SUFFIXES = (".cc", ".h", ".cu", ".cuh", ".capnp")
# Files that tools outside the tree look for by name.
_KNOWN_ROOT = ("BUILD", "WORKSPACE", "LICENSE", "README.md", ".bazelrc", ".bazelversion",
               ".clang-format", ".clang-tidy", ".gitignore", ".gitattributes", ".ci/run")
_KNOWN_NAMES = ("BUILD", "WORKSPACE", "README.md")
_TOPS = ("coordinator", "worker", "kernels", "comm", "placement", "tools", "tests")
_GLOB = re.compile(r"glob\(\s*\[(.*?)\]", re.S)
_STRING = re.compile(r'"([^"\n]+)"')
_TICKED = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?://)?[\w.*{},:-]+(?:/[\w.*{},:-]*)*$")


def _package(path, texts):
    """The folder of the nearest BUILD above `path`, or None."""
    folder = posixpath.dirname(path)
    while True:
        if posixpath.join(folder, "BUILD") in texts:
            return folder
        if not folder:
            return None
        folder = posixpath.dirname(folder)


def _built(path, package, build):
    inside = posixpath.relpath(path, package or ".")
    if f'"{inside}"' in build or f'":{inside}"' in build:
        return True
    base, suffix = posixpath.splitext(inside)
    for ending in ("_test", "_bench", ""):  # [cc_test(srcs = [name + "_test.cc"]) for name in ...]
        if base.endswith(ending) and f'name + "{ending}{suffix}"' in build and (
                f'"{base[:len(base) - len(ending)]}"' in build):
            return True
    return any(fnmatch.fnmatch(inside, pattern.replace("**/", "*"))
               for globbed in _GLOB.findall(build) for pattern in _STRING.findall(globbed))


def check_dead_files(tree, texts):
    """`tree`: all paths; `texts`: path -> text of those that are text."""
    corpus = [(path, text) for path, text in texts.items()
              if not path.endswith((".json", ".safetensors"))]
    for path in sorted(tree):
        name = posixpath.basename(path)
        if name in _KNOWN_NAMES or path in _KNOWN_ROOT:
            continue
        package = _package(path, texts)
        if package is not None and _built(path, package, texts[posixpath.join(package, "BUILD")]):
            continue
        if path.endswith(SOURCE_SUFFIXES):
            yield Finding(path, 1, "dead-file",
                          f"no target of {posixpath.join(package or '', 'BUILD')} has it")
        elif not _is_named(path, texts, corpus):
            yield Finding(path, 1, "dead-file", "nothing names it")


def _is_named(path, texts, corpus):
    """Is the file's name, or the path of a folder of data that holds it, in another file?"""
    if any(posixpath.basename(path) in text for other, text in corpus if other != path):
        return True
    folder = posixpath.dirname(path)
    while "/" in folder and posixpath.join(folder, "BUILD") not in texts:
        if any(folder in text for other, text in corpus if not other.startswith(folder + "/")):
            return True
        folder = posixpath.dirname(folder)
    return False


def check_readmes(tree, texts):
    folders = {""}
    for path in tree:
        while path := posixpath.dirname(path):
            folders.add(path)
    for top in ("",) + tuple(top for top in _TOPS if top in folders):
        path = posixpath.join(top, "README.md")
        if path not in texts:
            yield Finding(path, 1, "readme-missing", "there is none")
    for path, text in texts.items():
        if posixpath.basename(path) == "README.md":
            if "/" in path and text.count("\n") > README_LINES_MAX:
                yield Finding(path, 1, "readme-length",
                              f"{text.count(chr(10))} lines, at most {README_LINES_MAX}")
            yield from _check_paths(path, text, (tree, folders, texts))


def _check_paths(path, text, known):
    home = posixpath.dirname(path)
    for number, line in enumerate(text.splitlines(), 1):
        for token in _TICKED.findall(line):
            for candidate in _candidates(token, line.lstrip().startswith("|")):
                if not any(_exists(posixpath.normpath(posixpath.join(base, candidate)), known)
                           for base in ("", home)):
                    yield Finding(path, number, "readme-path", f"`{token}` does not exist")
                    break


def _candidates(token, in_table):
    """The paths a ticked word means; none when it is no path of the tree."""
    word = token.split()[0] if token.split() else ""
    if not _PATH.match(word) or word.startswith("bazel-") or "..." in word:
        return []
    label = word.startswith("//")
    word = word.lstrip("/")
    top = word.split("/")[0].split(":")[0]
    file_like = in_table and len(token.split()) == 1 and (
        word.endswith(SOURCE_SUFFIXES + (".py", ".md", ".bzl", "/")) or "}" in word)
    if not (label or ("/" in word and top in _TOPS) or file_like):
        return []
    return [_unlabel(each) for each in _expand(word)]


def _unlabel(word):
    return word.replace(":", "/").rstrip("/")


def _expand(word):
    match = re.search(r"\{([^{}]*)\}", word)
    if not match:
        return [word]
    return [each for part in match.group(1).split(",")
            for each in _expand(word[:match.start()] + part + word[match.end():])]


def _exists(path, known):
    tree, folders, texts = known
    if path in tree or path in folders:
        return True
    if "*" in path:
        return any(fnmatch.fnmatch(each, path) for each in tree)
    package, _, name = path.rpartition("/")  # a target
    return f'"{name}"' in texts.get(posixpath.join(package, "BUILD"), "")
