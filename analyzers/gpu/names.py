"""Kernel names that a person can read: what a compiler, a GEMM library or Triton made of them, cut.

A C++ kernel keeps its own name and what tells its instances apart: ``void at::native::
vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, ...>(int, ...)`` becomes
``vectorized_elementwise_kernel<CUDAFunctor_add<float>>``. A name is read from left to right, and
only as far as `READ_CHARS`, so names from hostile files cost no more than others.
"""

from __future__ import annotations

import re
from typing import Final

READ_CHARS: Final = 4_096
SHORT_CHARS: Final = 72
# Functors in functors in templates: deeper ones say nothing more to a person.
MAX_DEPTH: Final = 3
ELLIPSIS: Final = "..."

# A GEMM of Tensile (rocBLAS, hipBLASLt): Cijk_ A's layout _ B's layout _ types and much more; MT is
# the macro tile, MI the matrix instruction.
_TENSILE = re.compile(r"(Cijk_[A-Z][a-z]+_[A-Z][a-z]+(?:_[A-Z]+(?=_|$))*)")
_TENSILE_TILE = re.compile(r"_(MT\d+x\d+x\d+|MI\d+x\d+x\d+)")
# Which arguments an older Triton specialised a kernel for: d divisible by 16, c constant, e by 8.
_TRITON_SUFFIX = re.compile(r"_(?:\d+(?:de|d|c))+\d*$")
_LENGTH = re.compile(r"\d{1,4}")
_PLAIN = re.compile(r"[\w.]+")
# Templates that only wrap the functor which does the work.
_WRAPPERS: Final = frozenset(
    {"gpu_kernel_impl", "gpu_kernel_impl_nocast", "func_wrapper_t", "ReduceOp"}
)
_NUMBER = re.compile(r"\(?-?\d|\(|true$|false$|\{")


def short_name(text: str) -> str:
    """Return a readable name of at most `SHORT_CHARS` characters."""
    text = text[:READ_CHARS].removesuffix(".kd").strip()
    if text.startswith("Cijk_"):
        return _cut(_tensile(text))
    if text.startswith("_Z"):
        return _cut(_mangled(text))
    if _PLAIN.fullmatch(text):
        return _cut(_TRITON_SUFFIX.sub("", text))
    return _cut(_templated(text, MAX_DEPTH) or text)


def _cut(text: str) -> str:
    return text if len(text) <= SHORT_CHARS else text[: SHORT_CHARS - len(ELLIPSIS)] + ELLIPSIS


def _tensile(text: str) -> str:
    head = _TENSILE.match(text)
    tiles = dict.fromkeys(_TENSILE_TILE.findall(text))
    return " ".join([head[0] if head else text.partition("_MT")[0], *tiles])


def _mangled(text: str) -> str:
    """Return the innermost name of an Itanium-mangled function: the last of its leading names.

    https://itanium-cxx-abi.github.io/cxx-abi/abi.html#mangling: ``_ZN`` or ``_Z``, then each name
    as its length and itself.
    """
    position = 3 if text.startswith("_ZN") else 2
    names = []
    while found := _LENGTH.match(text, position):
        length, position = int(found[0]), found.end()
        names.append(text[position : position + length])
        position += length
    named = [one for one in names if one != "_GLOBAL__N_1"]
    return named[-1] if named else text


def _templated(text: str, depth: int) -> str:
    """Return the last name of a C++ path, with its telling template arguments."""
    path, arguments = _split(text)
    name = path.removesuffix("::operator").rpartition("::")[2]
    if depth == 0 or not arguments:
        return name
    telling = [one for one in arguments if not _NUMBER.match(one)]
    if name in _WRAPPERS:
        return next((_templated(one, depth) for one in telling if not _is_type(one)), name)
    named = [one for one in telling if not _is_type(one)] or telling
    inner = [shown for one in named[:2] if (shown := _templated(one, depth - 1))]
    functors = inner[:1] if len(named) < len(telling) else inner
    return f"{name}<{', '.join(functors)}>" if functors else name


_TYPES: Final = re.compile(
    r"(?:std::|c10::|at::detail::|unsigned |signed |const )|"
    r"(?:float|double|int|long|short|char|bool|void|__half|half|__hip_\w+|__nv_\w+)\b"
)


def _is_type(text: str) -> bool:
    return _TYPES.match(text) is not None


def _split(text: str) -> tuple[str, list[str]]:
    """Return the path up to the first parameter list, and the last template's arguments in it.

    ``(anonymous namespace)`` is a part of the path. A return type, which ends with a space, is not.
    """
    path: list[str] = []
    arguments: list[str] = []
    angle = brace = 0
    begun = index = 0
    while index < len(text):
        char = text[index]
        if angle:
            # An arrow or a shift operator is no bracket; braces hold lambdas' parameter lists.
            if char in "({":
                brace += 1
            elif char in ")}":
                brace -= 1
            elif char == "<":
                angle += 1
            elif char == ">" and text[index - 1] != "-":
                angle -= 1
            if (angle == 0 or (char == "," and angle == 1)) and brace <= 0:
                arguments.append(text[begun:index].strip())
                begun = index + 1
        elif char == "<":
            angle, brace, begun, arguments = 1, 0, index + 1, []
        elif text.startswith("(anonymous namespace)", index):
            index += len("(anonymous namespace)") - 1
        elif char in "({[":
            break
        elif char == " ":
            if text[index + 1 : index + 2] not in ("", "<", "["):
                path, arguments = [], []
        else:
            path.append(char)
            if char == ":":
                arguments = []
        index += 1
    return "".join(path), arguments
