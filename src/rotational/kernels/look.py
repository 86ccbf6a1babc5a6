"""Where tensors lie and how, of many at once: small models are stepped in less time than it takes to ask each one.

torch tells it to C (`c/look.c`) through DLPack's table of functions, which torch 2.10 and later have. Where that or the
compiled library is missing, and of tensors that several processes share, each one is asked in Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.parameter import is_lazy

from rotational.kernels import binary
from rotational.kernels.work import address, identical, nowhere, own

EMPTY = 1
"""Instead of 0, the address of what has no entries: a parameter without any takes a step too."""

OBJECT, ADDRESS, HOW = range(3)
"""Rows of what is found: which object it is; where it lies, `EMPTY` if it has no entries; and a number that is the same
for two of one shape, precision and device that lie alike. Of None the last two are 0."""

VERSION = (1, 3)
"""Of DLPack, at the least; a later major one has other tables."""
NAME = b"dlpack_exchange_api"
_HEADER, _TELL = 16, 3
"""Bytes of the table before its functions, and which of those tells of a tensor."""
LINES = 6
"""Of the cache, for each tensor (`c/look.c`)."""


@lru_cache(maxsize=1)
def _calls() -> tuple[Callable[..., int], Callable[..., int], Callable[..., int], Any] | None:
    """What looks at a list, compares with what is known, and looks at attributes (`c/look.c`), and the functions
    of torch and Python that all take first; None where there are none.
    """
    capsule: Any = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or binary.library() is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    # A function of its own: to give the one of `ctypes.pythonapi` types would give them to the whole process.
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    try:
        table: Any = pointer(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, NAME)
    except ValueError:  # a capsule of another name
        return None
    major, minor = (ctypes.c_uint32 * 2).from_address(table)
    if major != VERSION[0] or minor < VERSION[1]:
        return None
    tell = (ctypes.c_void_p * 5).from_address(table + _HEADER)[_TELL]
    if tell is None:  # which it need not have
        return None
    own = ctypes.pythonapi
    walk = (own.PyList_GetItem, own.PyDict_Next, own.PyObject_GetAttr, own.PyList_SetItem)
    python = (ctypes.c_void_p * 6)(tell, *(ctypes.cast(f, ctypes.c_void_p).value for f in walk), id(None))
    native = ctypes.PyDLL(str(binary.LIBRARY))  # which, unlike CDLL, keeps Python's lock
    address, count, thing = ctypes.c_void_p, ctypes.c_int64, ctypes.py_object
    native.rotational_look.argtypes = [address, thing, count, address]
    native.rotational_look.restype = count
    native.rotational_same.argtypes = [address, thing, address, count, thing, address, count, address, count, address]
    native.rotational_attributes.argtypes = [address, thing, thing, count, address, thing, address]
    return native.rotational_look, native.rotational_same, native.rotational_attributes, python


_REFUSED = (RuntimeError, TypeError, ValueError, BufferError)
"""What torch raises of what is sparse, no tensor at all, or of a type that DLPack has not."""


def look(values: list[Any]) -> np.ndarray | None:
    """What there is to know of these tensors, [3, n]; None where one of them has to be asked in Python."""
    calls, n = _calls(), len(values)
    # torch tells of fake ones too, but says aloud that they have no address.
    if calls is None or any(map(_fake, values)):
        return None
    call, *_, python = calls
    found = np.empty((3, n), np.int64)
    try:
        return found if call(python, values, n, found.ctypes.data) == n else None
    except _REFUSED:
        return None


class Known:
    """What was seen of some lists of tensors and of the states of some, to be compared with what is there now.

    starts   where each list begins among the tensors, and the end of the last
    keys     whose the states are, each followed by the names of its values
    values   the tensors and then these values, kept alive, so that no other object takes the identity of one
    found    what was seen of them, by `look` or `ask`
    """

    def __init__(self, starts: list[int], keys: list[Any], values: list[Any], found: np.ndarray) -> None:
        self.starts, self.keys, self.values, self.found = starts, keys, values, found
        self._kept = np.array(starts, np.int64), np.array([*map(id, keys)], np.int64)
        starts_at, keys_at = (x.ctypes.data for x in self._kept)
        self._lists = starts_at, len(starts) - 1
        self._seen = keys_at, len(keys), found.ctypes.data, found.shape[1]
        self._lines: np.ndarray | None = None
        self._lines_at = 0
        self._views: list[Tensor] = []

    def same(self, other: Known) -> bool:
        """Whether the same was seen."""
        alike = self.starts == other.starts and identical(self.keys, other.keys)
        return alike and self.found.tobytes() == other.found.tobytes()

    def lasts(self, lists: list[Sequence[Any]], states: Mapping[Any, Any]) -> bool:
        """Whether all of it is still there, and nothing else; False too where C cannot tell."""
        calls = _calls()
        if calls is None or [*accumulate(map(len, lists), initial=0)] != self.starts:
            return False
        if not all(isinstance(x, list) for x in lists):
            return False
        _, call, _, python = calls
        try:
            lasts = call(python, lists, *self._lists, states, *self._seen, self._lines_at) != 0
        except _REFUSED:
            return False
        if lasts and self._lines is None:  # it may be asked again
            self._lines = np.array([*map(_lines, self.values)], np.int64)
            self._lines_at = self._lines.ctypes.data
            self._views = _views(self.values[self.starts[-1] :])
        return lasts


class Given(NamedTuple):
    """The gradients of a list of parameters.

    places     where they lie, 0 for None; None where one is stored or lies otherwise than its weight, or C cannot tell
    complete   whether there is one of each: False where nobody has asked
    """

    grads: list[Tensor | None]
    places: np.ndarray | None = None
    complete: bool = False


class Gradients:
    """What is asked of a list of parameters in every step, to be looked at in one call.

    ways   how each parameter lay, as `look` has it
    """

    def __init__(self, params: Sequence[Tensor], ways: np.ndarray) -> None:
        self._ways, self._places = np.ascontiguousarray(ways), np.zeros(len(ways), np.int64)
        self._arguments = len(ways), self._ways.ctypes.data, self._places.ctypes.data
        # What autograd gives torch's negative bit is half of a complex number, no two of whose entries are neighbours.
        # At first all are asked, and for as long as there is one that was made otherwise.
        self._asked: Sequence[int] = range(len(ways))
        self._single = [i for i, p in enumerate(params) if p.numel() == 1]

    def look(self, params: list[Tensor]) -> Given:
        """The gradients; their places are theirs until the next look."""
        calls, (count, ways, places) = _calls(), self._arguments
        if calls is None or type(params) is not list or len(params) != count:
            return Given([p.grad for p in params])
        *_, call, python = calls
        grads: list[Tensor | None] = [None] * count
        try:
            found = call(python, params, "grad", count, ways, grads, places)
        except _REFUSED:
            found = -1
        if found < 0:  # not all of them were looked at
            return Given([p.grad for p in params])
        negated = any(g is not None and g.is_neg() for g in map(grads.__getitem__, self._asked))
        self._asked = self._asked if negated else self._single
        return Given(grads, self._places if found > 0 and not negated else None, found > 1)


def _lines(x: Any) -> list[int]:
    """Where torch keeps what it says of a tensor, line by line of the cache: to be fetched in time, not to be read."""
    if type(x) not in (Tensor, Parameter):  # others may have other ideas of what they hold
        return [0] * LINES
    about, storage = getattr(x, "_cdata", 0), getattr(x.untyped_storage(), "_cdata", 0)
    return [id(x), about, about + 64, about + 128, storage, storage + 64]


def _views(state: list[Any]) -> list[Tensor]:
    """What refers to these tensors in C++, and is no other use of their memory.

    Where only Python refers to one, torch makes a second reference for as long as it tells of it, and then its object
    has to be counted too, under Python's lock: half of the time that telling takes. What is referred to so is not
    swapped by `torch.utils.swap_tensors`, and Python's collector does not see it: hence parameters are not, and on
    accelerators, where steps take longer than this, nothing is.
    """
    views: list[Tensor] = []
    try:
        for x in state:
            if type(x) is Tensor and x.device.type == "cpu":
                view = x.view_as(x)
                view.data = x.new_empty(0)
                views.append(view)
    except Exception:  # under a mode of torch's that these are not for: it only takes longer
        return []
    return views


def ask(values: list[Any]) -> np.ndarray:
    """The same, asked of each one; of what is no tensor, or has no memory as strides give it, as of None."""
    tensors = [own(x) if isinstance(x, Tensor) and _strided(x) else None for x in values]
    places = [0 if x is None else address(x) or (0 if x.numel() else EMPTY) for x in tensors]
    ways = [0 if x is None else hash((x.dtype, x.device, x.shape, _strides(x))) | 1 for x in tensors]
    return np.array([[*map(id, values)], places, ways], np.int64)


def _strided(x: Tensor) -> bool:
    return not is_lazy(x) and x.layout is torch.strided and not x.is_nested


def _fake(x: Any) -> bool:
    return isinstance(x, Tensor) and _strided(x) and nowhere(x)


def _strides(x: Tensor) -> tuple[int, ...]:
    """Nobody goes along an axis of one entry."""
    return tuple(0 if n == 1 else s for n, s in zip(x.shape, x.stride(), strict=True))
