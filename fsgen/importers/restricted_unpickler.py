"""A pickle read as data: a small machine that knows numbers, text, lists and dicts, and calls nothing.

Python's own unpickler imports and calls whatever a file names. Here ``pickletools`` only decodes the opcodes
and this machine carries them out. A global is a *name*: it is looked up in the reader's table of stand-ins,
never imported, and a name outside the table ends the reading. No attribute of any object is looked up or set
on a file's behalf, so REDUCE, NEWOBJ and BUILD reach the stand-ins below and nothing else.

Tensors stay where they are in the file until ``Leaf.tensor`` is called, so that optimiser states nobody wants
cost no memory.
"""

from __future__ import annotations

import itertools
import math
import pickletools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fsgen.errors import FsgenError

MAX_STEPS = 2_000_000  # the largest published checkpoints take some 60,000 opcodes

Globals = Mapping[tuple[str, str], Any]
"""(module, name) -> the stand-in for that global: a callable, or a ``torch.dtype`` for a storage class."""

DAMAGE = (ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError, RuntimeError)
"""What a malformed pickle provokes in the machine; readers turn these into one sentence."""


def printable(text: object) -> str:
    """``text`` as it may be shown on a terminal: a file's words, without control characters, cut short."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text)[:120])
    return shown if len(str(text)) <= 120 else shown + "..."


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


class Global:
    """A class or function that a file named, of which only the name and our stand-in exist here."""

    __slots__ = ("name", "stand_in")

    def __init__(self, name: str, stand_in: Any) -> None:
        self.name = name
        self.stand_in = stand_in


class Record:
    """An object of a class we don't have: its class name and its ``__dict__``, as the file tells them."""

    def __init__(self, class_name: str, state: dict[str, Any] | None = None) -> None:
        self.class_name = class_name
        self.state: dict[str, Any] = state if state is not None else {}

    def build(self, state: object) -> None:
        if type(state) is not dict or self.state:
            raise ValueError("the state of an object is no dict, or given twice")
        self.state = state


class Leaf:
    """Numbers in the file: a tensor or an array, not yet read."""

    nbytes: int

    def tensor(self) -> Tensor:
        """The numbers, in the shape and type the file gives them, on the CPU."""
        raise NotImplementedError


class Storage:
    """A flat run of ``count`` numbers; ``read`` fetches their bytes, and is set once their place is known."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        if not isinstance(dtype, torch.dtype) or not _is_count(count):
            raise ValueError("a storage without a type or a size")
        self.dtype = dtype
        self.count = count
        self.nbytes = count * dtype.itemsize
        self.read: Callable[[], bytes] | None = None
        self._flat: Tensor | None = None

    def flat(self) -> Tensor:
        """All numbers, [count]."""
        if self._flat is None:
            raw = self.read() if self.read else b""
            if len(raw) != self.nbytes:
                raise ValueError(f"a storage of {self.nbytes} bytes has only {len(raw)}")
            # A bytearray, since a tensor over immutable bytes could be written to.
            self._flat = (
                torch.frombuffer(bytearray(raw), dtype=self.dtype)
                if raw
                else torch.empty(0, dtype=self.dtype)
            )
        return self._flat


class Strided(Leaf):
    """A tensor as a view of a storage. Checked when made: no view reaches beyond its storage."""

    def __init__(self, storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int]) -> None:
        shaped = len(size) == len(stride) <= 16 and all(map(_is_count, (offset, *size, *stride)))
        if not isinstance(storage, Storage) or not shaped:
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
    """numpy.dtype of plain numbers: a code such as ``f4`` and a byte order."""

    CODES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in self.CODES:
            raise ValueError("an array of something that is no plain number")
        self.code = code
        self.order = "="

    def build(self, state: object) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise ValueError("a damaged numpy.dtype")
        self.order = state[1]

    def numbers(self, raw: object) -> np.ndarray:
        """The bytes ``raw`` as numbers in this machine's byte order, [n]."""
        if not isinstance(raw, bytes):
            raise ValueError("an array without bytes")
        stored = np.dtype(self.code).newbyteorder(self.order)
        return np.frombuffer(raw, dtype=stored).astype(stored.newbyteorder("="))


class Array(Leaf):
    """numpy.ndarray, made empty and filled by BUILD, as numpy pickles it."""

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
    """Stand-in for numpy's scalar: a plain Python number."""
    if not isinstance(raw, bytes) or len(raw) > 8:
        raise ValueError("a number of more than 8 bytes")
    return dtype.numbers(raw).item()


def new_dict(*given: object) -> dict:
    """Stand-in for OrderedDict and EasyDict, which a pickle makes empty and fills afterwards."""
    if given:
        raise ValueError("a dict made in a way no checkpoint uses")
    return {}


def new_set(*_: object) -> list:
    """Stand-in for set, which holds nothing we need: hashing a file's objects could take forever."""
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
"""What every pickle of tensors may name; each format adds its own few."""


class Machine:
    """Runs one pickle.

    Args:
        name: of the file, for messages.
        allowed: stand-ins for the globals this format may name.
        persistent: what a persistent id (torch's way to point at a storage) stands for.
        steps: counts the steps taken; machines that read one file share it.
    """

    def __init__(
        self,
        name: str,
        allowed: Globals,
        persistent: Callable[[Any], Any] | None = None,
        steps: Iterator[int] | None = None,
    ) -> None:
        self.name = name
        self.allowed = allowed
        self.persistent = persistent
        self.steps = steps if steps is not None else itertools.count()
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open MARK
        self.memo: dict[int, Any] = {}  # a dict, so that a huge index allocates nothing

    def run(self, stream: IO[bytes]) -> Any:
        """The object pickled at the stream's position, which is left behind its end.

        Raises:
            FsgenError: the pickle names a global or uses an opcode outside the allow-list.
            DAMAGE: it is truncated or malformed.
        """
        for opcode, arg, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return self.stack.pop()
            if next(self.steps) > MAX_STEPS:
                raise ValueError("more steps than any checkpoint takes")
            self._do(opcode.name, arg)
        raise EOFError("no end")

    def _do(self, op: str, arg: Any) -> None:
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
            raise FsgenError(f"{self.name} uses the pickle instruction {op}, which no checkpoint needs")

    def _tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError("stack underflow")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _push_since_mark(self, make: Callable[[list[Any]], Any]) -> None:
        items = self._since_mark()
        self.stack.append(make(items))

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("appends to something that is no list")
        self.stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError("sets items of something that is no dict")
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
                f"{self.name} asks to run {printable(f'{module}.{name}')}; fsgen runs nothing from a file",
                hint="weights saved as plain tensors (a state dict, or .safetensors) can be read",
            )
        self.stack.append(Global(f"{module}.{name}", self.allowed[module, name]))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._global(module, name)

    def _call(self, _: Any) -> None:
        args, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, Global) or not callable(callee.stand_in) or type(args) is not tuple:
            raise TypeError("calls something that cannot be called")
        self.stack.append(callee.stand_in(*args))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record | Dtype | Array):
            target.build(state)
        elif type(target) is not dict:  # a state dict's own attributes (_metadata) say nothing we need
            raise TypeError("sets the state of something that has none")

    def _persistent_id(self, _: Any) -> None:
        if self.persistent is None:
            raise TypeError("points outside the file")
        self.stack.append(self.persistent(self.stack.pop()))


def _pairs(items: list[Any]) -> Iterator[tuple[str | int, Any]]:
    """Keys and values in turn; keys are text or small numbers, since hashing the rest could take forever."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31)):
            raise TypeError("a dict key that is neither text nor a number")
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
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine._since_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine._push_since_mark(tuple),
    "LIST": lambda machine, _: machine._push_since_mark(list),
    "FROZENSET": lambda machine, _: machine._push_since_mark(list),
    "DICT": lambda machine, _: machine._push_since_mark(lambda items: dict(_pairs(items))),
    "APPEND": Machine._append,
    "APPENDS": lambda machine, _: machine._extend(machine._since_mark()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._since_mark()),
    "SETITEM": Machine._set_item,
    "SETITEMS": lambda machine, _: machine._update(machine._since_mark()),
    "GLOBAL": lambda machine, arg: machine._global(*arg.split(" ", 1)),
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._call,
    "NEWOBJ": Machine._call,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent_id,
}
