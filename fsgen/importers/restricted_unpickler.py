"""Read a pickle as data: an interpreter for numbers, text, lists, dicts and tensors that runs nothing.

Python's unpickler imports and calls whatever a file names. Here ``pickletools`` only decodes the opcodes and
``Machine`` executes them. A global is a *name*: it is looked up in the reader's table of stand-ins, never
imported, and a name outside the table is refused. The machine gets and sets no attribute on a file's behalf,
so REDUCE, NEWOBJ and BUILD reach only the stand-ins below.

Tensors are read when ``Leaf.tensor`` is called, so that unused optimiser states cost no memory.
"""

from __future__ import annotations

import io
import itertools
import math
import mmap
import pickletools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fsgen.config import PlainDict
from fsgen.errors import Code, FsgenError

MAX_STEPS = 2_000_000  # the largest published checkpoints take about 60,000 opcodes

Stream = io.BytesIO | mmap.mmap
"""A pickle's bytes, positioned at its first opcode."""

Globals = Mapping[tuple[str, str], Any]
"""(module, name) -> the stand-in for that global: a callable, or a ``torch.dtype`` for a storage class."""

DAMAGE = (ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError, RuntimeError)
"""Exceptions that a malformed pickle causes in the machine; readers turn them into an ``FsgenError``."""


def printable(text: object) -> str:
    """Make text from a file safe to print: no control characters, at most 120 characters."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text)[:120])
    return shown if len(str(text)) <= 120 else shown + "..."


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


class Global:
    """A class or function named by a file: its name and our stand-in; nothing is imported."""

    __slots__ = ("name", "stand_in")

    def __init__(self, name: str, stand_in: Any) -> None:
        self.name = name
        self.stand_in = stand_in


class Record:
    """An object of a foreign class: its class name and its ``__dict__`` from the file."""

    def __init__(self, class_name: str, state: PlainDict | None = None) -> None:
        self.class_name = class_name
        self.state: PlainDict = state if state is not None else {}

    def build(self, state: object) -> None:
        if type(state) is not dict or self.state:
            raise ValueError("the state of an object is no dict, or given twice")
        self.state = state


class Leaf:
    """A tensor or array in the file, not read yet."""

    nbytes: int

    def tensor(self) -> Tensor:
        """Read the numbers into a CPU tensor of the file's shape and dtype."""
        raise NotImplementedError


class Storage:
    """A flat array of ``count`` numbers; ``read`` returns its bytes and is set once their offset is known."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        if not isinstance(dtype, torch.dtype) or not _is_count(count):
            raise ValueError("a storage without a type or a size")
        self.dtype = dtype
        self.count = count
        self.nbytes = count * dtype.itemsize
        self.read: Callable[[], bytes] | None = None
        self._flat: Tensor | None = None

    def flat(self) -> Tensor:
        """Read all numbers, [count]; cached."""
        if self._flat is None:
            raw = self.read() if self.read else b""
            if len(raw) != self.nbytes:
                raise ValueError(f"a storage of {self.nbytes} bytes has only {len(raw)}")
            # A bytearray, because torch warns about a writable tensor over immutable bytes.
            empty = torch.empty(0, dtype=self.dtype)
            self._flat = torch.frombuffer(bytearray(raw), dtype=self.dtype) if raw else empty
        return self._flat


class Strided(Leaf):
    """A tensor as a strided view of a storage; a view that exceeds its storage raises ValueError."""

    def __init__(self, storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int]) -> None:
        valid = len(size) == len(stride) <= 16 and all(map(_is_count, (offset, *size, *stride)))
        if not isinstance(storage, Storage) or not valid:
            raise ValueError("a tensor without a proper storage, size or stride")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and last >= storage.count:
            raise ValueError("a tensor reaches beyond its storage")
        self.nbytes = count * storage.dtype.itemsize
        self._view = (storage, offset, tuple(size), tuple(stride))

    def tensor(self) -> Tensor:
        storage, offset, size, stride = self._view
        return storage.flat().as_strided(size, stride, offset)


class Dtype:
    """Stand-in for numpy.dtype: a numeric code such as ``f4`` and a byte order."""

    CODES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in self.CODES:
            raise ValueError("an array that is not numeric")
        self.code = code
        self.order: Literal["<", ">", "=", "|"] = "="

    def build(self, state: object) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise ValueError("a damaged numpy.dtype")
        self.order = state[1]

    def numbers(self, raw: object) -> np.ndarray:
        """Decode ``raw`` into numbers in this machine's byte order, [n]."""
        if not isinstance(raw, bytes):
            raise ValueError("an array without bytes")
        stored = np.dtype(self.code).newbyteorder(self.order)
        return np.frombuffer(raw, dtype=stored).astype(stored.newbyteorder("="))


class Array(Leaf):
    """Stand-in for numpy.ndarray, created empty and filled by BUILD."""

    def __init__(self, *_: object) -> None:
        self.nbytes = 0
        self._state: tuple[Any, ...] | None = None

    def build(self, state: object) -> None:
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], Dtype):
            raise ValueError("a damaged numpy.ndarray")
        self.nbytes = len(state[4])
        self._state = state

    def tensor(self) -> Tensor:
        if self._state is None:
            raise ValueError("an array without numbers")
        _, shape, dtype, fortran, raw = self._state
        numbers = dtype.numbers(raw).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(np.ascontiguousarray(numbers).reshape(shape))


def scalar(dtype: Dtype, raw: object) -> float | int | bool:
    """Stand-in for numpy's scalar: return a Python number."""
    if not isinstance(raw, bytes) or len(raw) > 8:
        raise ValueError("a number of more than 8 bytes")
    return dtype.numbers(raw).item()


def new_dict(*given: object) -> dict:
    """Stand-in for OrderedDict and EasyDict, which a pickle creates empty and fills afterwards."""
    if given:
        raise ValueError("a dict that is not created empty")
    return {}


def new_set(*_: object) -> list:
    """Stand-in for set; its items are dropped, since hashing a file's objects could take forever."""
    return []


COMMON: Globals = {
    ("collections", "OrderedDict"): new_dict,
    ("builtins", "set"): new_set,
    ("numpy", "dtype"): Dtype,
    ("numpy.core.multiarray", "scalar"): scalar,
    ("numpy._core.multiarray", "scalar"): scalar,
    ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: Strided(
        storage, offset, size, stride
    ),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}
"""Globals that every pickle of tensors may name; each format adds its own."""


class Machine:
    """Interpret one pickle.

    Args:
        name: file name for messages.
        allowed: stand-ins for the globals that this format may name.
        persistent: resolves a persistent id, which torch uses to reference a storage.
        steps: opcode counter, shared by all machines that read one file.
    """

    def __init__(
        self, name: str, allowed: Globals, persistent: Callable[[Any], Any] | None = None,
        steps: Iterator[int] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.allowed = allowed
        self.persistent = persistent
        self.steps = steps if steps is not None else itertools.count()
        self.stack: list[Any] = []
        self.frames: list[list[Any]] = []  # the stack below each open MARK
        self.memo: dict[int, Any] = {}  # a dict, so that a huge index allocates nothing

    def run(self, stream: Stream) -> Any:
        """Return the object pickled at the stream's position; the stream ends up behind it.

        Raises:
            FsgenError: the pickle names a global or uses an opcode outside the allow-list.
            DAMAGE: it is truncated or malformed.
        """
        for opcode, arg, _ in pickletools.genops(stream):  # type: ignore[arg-type]  # an mmap will do
            if opcode.name == "STOP":
                return self.stack.pop()
            if next(self.steps) > MAX_STEPS:
                raise ValueError("more opcodes than any checkpoint has")
            self._execute(opcode.name, arg)
        raise EOFError("no end")

    def _execute(self, op: str, arg: Any) -> None:
        if op in _LITERALS:
            self.stack.append(arg)
        elif op in _EMPTY:
            self.stack.append(_EMPTY[op]())
        elif op in _TUPLES:
            self._tuple(_TUPLES[op])
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(arg)])
        elif op in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if op == "MEMOIZE" else int(arg)] = self.stack[-1]
        elif op in _STEPS:
            _STEPS[op](self, arg)
        elif op not in ("PROTO", "FRAME"):
            message = f"{self.name} uses the pickle opcode {op}, which no checkpoint needs"
            raise FsgenError(message, code=Code.UNSAFE, where=self.name)

    def _tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError("stack underflow")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def _open_frame(self, _: Any) -> None:
        self.frames.append(self.stack)
        self.stack = []

    def _close_frame(self) -> list[Any]:
        items, self.stack = self.stack, self.frames.pop()
        return items

    def _push_frame(self, make: Callable[[list[Any]], Any]) -> None:
        items = self._close_frame()
        self.stack.append(make(items))

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("an append to something other than a list")
        self.stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError("an item set on something other than a dict")
        target.update(_pairs(items))

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global without a name")
        module = "builtins" if module == "__builtin__" else module  # Python 2's name, used up to protocol 2
        if (module, name) not in self.allowed:
            raise FsgenError(
                f"{self.name} asks to run {printable(f'{module}.{name}')}; fsgen runs no code from a file",
                code=Code.UNSAFE,
                where=self.name,
                hint="weights saved as plain tensors (a state dict, or .safetensors) can be read",
            )
        self.stack.append(Global(f"{module}.{name}", self.allowed[module, name]))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._global(module, name)

    def _call(self, _: Any) -> None:
        args, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, Global) or not callable(callee.stand_in) or type(args) is not tuple:
            raise TypeError("a call of something that is not callable")
        self.stack.append(callee.stand_in(*args))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record | Dtype | Array):
            target.build(state)
        elif type(target) is not dict:  # a state dict's own attributes (_metadata) are not needed
            raise TypeError("a state set on something that has none")

    def _persistent_id(self, _: Any) -> None:
        if self.persistent is None:
            raise TypeError("a reference outside the file")
        self.stack.append(self.persistent(self.stack.pop()))


def _pairs(items: list[Any]) -> Iterator[tuple[str | int, Any]]:
    """Pair keys with values; keys must be text or small integers, as hashing others could take forever."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31)):
            raise TypeError("a dict key that is neither text nor a small integer")
        yield key, value


_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # a list: see new_set
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[Machine, Any], object]] = {
    "MARK": Machine._open_frame,
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine._close_frame(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine._push_frame(tuple),
    "LIST": lambda machine, _: machine._push_frame(list),
    "FROZENSET": lambda machine, _: machine._push_frame(list),
    "DICT": lambda machine, _: machine._push_frame(lambda items: dict(_pairs(items))),
    "APPEND": Machine._append,
    "APPENDS": lambda machine, _: machine._extend(machine._close_frame()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._close_frame()),
    "SETITEM": Machine._set_item,
    "SETITEMS": lambda machine, _: machine._update(machine._close_frame()),
    "GLOBAL": lambda machine, arg: machine._global(*arg.split(" ", 1)),
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._call,
    "NEWOBJ": Machine._call,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent_id,
}
