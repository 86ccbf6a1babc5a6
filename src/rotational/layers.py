"""From torch layers to `Neurons`: which weights of a model are neurons, and along which axes.

`neurons` is the one rule, and the one place to teach the library a new layer. `partition` applies it to a
whole model, and `groups` turns the answer into param groups for an optimizer.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import singledispatch
from itertools import zip_longest
from typing import Any, TypeAlias, final

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from rotational import _check
from rotational.neurons import ROWS, Neurons

Reading: TypeAlias = Neurons | None
"""How a tensor is read: by its neurons, or None where it is known to hold none (a gain, a bias)."""

Overrides: TypeAlias = Mapping[str, Reading]

COLUMNS = Neurons(axes=(1,))

# `groups` puts Neurons into param groups, and so into checkpoints, which must open with weights_only=True.
torch.serialization.add_safe_globals([Neurons])


# The rule: one function a kind of layer -------------------------------------------------------------------


@singledispatch
def neurons(module: nn.Module) -> Mapping[str, Reading]:
    """The neurons of a layer's own parameters, by parameter name; children answer for themselves.

    A neuron is the weight vector of one output unit: scaling or turning it changes that unit alone. None
    marks a parameter of two or more axes that holds no neurons. Biases and other vectors need no entry, for
    they never are neurons. A layer of an unknown kind has no entries at all.

    Teach it a layer of your own by registering a function for its class:

    >>> class Experts(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(4, 8, 3))  # [expert, out, in]
    >>> @neurons.register(Experts)
    ... def _(layer):
    ...     return {"weight": Neurons(axes=(0, 1))}
    >>> print(partition(Experts())["weight"])
    axes 0, 1
    """
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] callers may be untyped
        raise TypeError(f"neurons: expected a torch.nn.Module, got {type(module).__name__}.")
    # Hugging Face's Conv1D is a Linear whose weight stands transposed, [in, out]; known by name, so that
    # nothing here imports transformers.
    ancestry = ((c.__module__, c.__name__) for c in type(module).__mro__)
    return {"weight": COLUMNS} if ("transformers.pytorch_utils", "Conv1D") in ancestry else {}


@neurons.register(nn.Linear)
@neurons.register(nn.Bilinear)
@neurons.register(nn.Embedding)
@neurons.register(nn.EmbeddingBag)
@neurons.register(nn.Conv1d)
@neurons.register(nn.Conv2d)
@neurons.register(nn.Conv3d)
def _rows(layer: nn.Module) -> Mapping[str, Reading]:
    return {"weight": ROWS}


@neurons.register(nn.ConvTranspose1d)
@neurons.register(nn.ConvTranspose2d)
@neurons.register(nn.ConvTranspose3d)
def _transposed(layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> Mapping[str, Reading]:
    # The weight is [in, out/groups, ...]: each group of inputs has output channels of its own.
    return {"weight": COLUMNS if layer.groups == 1 else Neurons(axes=(0, 2), split=layer.groups)}


@neurons.register(nn.MultiheadAttention)
def _attention(layer: nn.MultiheadAttention) -> Mapping[str, Reading]:
    no_neurons: dict[str, Reading] = {} if layer.bias_k is None else {"bias_k": None, "bias_v": None}
    if layer.kdim == layer.vdim == layer.embed_dim:
        return {"in_proj_weight": _stacked("qkv", layer.embed_dim), **no_neurons}
    return {**{f"{part}_proj_weight": ROWS for part in "qkv"}, **no_neurons}


@neurons.register(nn.RNNBase)
def _recurrent(layer: nn.RNNBase) -> Mapping[str, Reading]:
    gates = _stacked(_gates(layer), layer.hidden_size)
    kinds = {"ih": gates, "hh": gates, **({"hr": ROWS} if layer.proj_size else {})}
    sides = ("", "_reverse") if layer.bidirectional else ("",)
    return {
        f"weight_{kind}_l{k}{side}": reading
        for k in range(layer.num_layers)
        for side in sides
        for kind, reading in kinds.items()
    }


@neurons.register(nn.RNNCellBase)
def _cell(layer: nn.RNNCellBase) -> Mapping[str, Reading]:
    return dict.fromkeys(("weight_ih", "weight_hh"), _stacked(_gates(layer), layer.hidden_size))


@neurons.register(nn.LayerNorm)
@neurons.register(nn.RMSNorm)
def _gains(layer: nn.Module) -> Mapping[str, Reading]:
    # Gains and biases have two axes or more when the norm runs over as many.
    return {name: None for name, _ in layer.named_parameters(recurse=False)}


def _gates(layer: nn.Module) -> Sequence[str]:
    """Gates in the order in which torch stacks them."""
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return ("input", "forget", "cell", "output")
    return ("reset", "update", "new") if isinstance(layer, nn.GRU | nn.GRUCell) else ()


def _stacked(parts: Sequence[str], size: int) -> Neurons:
    """Rows in consecutive blocks of `size`."""
    return Neurons(parts=tuple((part, size) for part in parts))


# A whole model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    reading: Reading
    shape: tuple[int, ...]
    module: str


@final
class Partition(Mapping[str, Neurons]):
    """Parameter name -> Neurons, in the model's order; read-only, and printed as a table.

    `left_out` names the parameters of two or more axes that no rule knows.
    """

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = dict(entries)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the parameters of two or more axes whose layer no rule knows."""
        return tuple(name for name, entry in self._entries.items() if entry.reading is None)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter, one of `left_out` too."""
        return self._entries[name].shape

    def module(self, name: str) -> str:
        """Class name of the layer that holds a parameter, such as "Linear"; one of `left_out` too."""
        return self._entries[name].module

    def __getitem__(self, name: str) -> Neurons:
        reading = self._entries[name].reading
        if reading is None:
            raise KeyError(name)
        return reading

    def __iter__(self) -> Iterator[str]:
        return (name for name, entry in self._entries.items() if entry.reading is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        rows = [("parameter", "layer", "shape", "along", "neurons", "size", "parts")]
        for name, n in self.items():
            shape = self.shape(name)
            count, size = f"{n.count(shape):,}", f"{n.size(shape):,}"
            parts = " ".join(f"{part}:{k}" for part, k in n.parts)
            rows.append((name, self.module(name), _listed(shape), str(n), count, size, parts))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = "llllrrl"
        lines = [
            "  ".join(c.rjust(w) if a == "r" else c.ljust(w) for c, w, a in zip(row, widths, aligned, strict=True))
            for row in rows
        ]
        if self.left_out:
            lines += ["", "Left out, because no rule knows their layer (name them in overrides=...):"]
            lines += [f"  {self.described(name)}" for name in self.left_out]
        return "\n".join(line.rstrip() for line in lines)

    def described(self, name: str) -> str:
        """A parameter in words: its name, shape and layer."""
        return f"{name} {_listed(self.shape(name))} of {self.module(name)}"


def partition(model: nn.Module, overrides: Overrides | None = None) -> Partition:
    """Which parameters of a model hold neurons, and along which axes.

    Names are those of `model.named_parameters()`, so a tied weight stands once, under its first name. A
    parametrized weight (spectral_norm, weight_norm) stands under the name of the tensor behind it that has
    the weight's shape. `overrides` maps name patterns (`fnmatch`) to Neurons, or to None for "no neurons";
    the last pattern that matches a parameter wins, over the layers' own rules too.

    Raises ValueError for a pattern that matches nothing, Neurons that do not fit a shape, a tied weight that
    two modules read along different axes, and a lazy parameter that has no shape yet.

    >>> model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 18), nn.LayerNorm(18))
    >>> partition(model, {"1.weight": Neurons(parts=(("q", 6), ("k", 6), ("v", 6)))})
    parameter  layer      shape    along   neurons  size  parts
    0.weight   Embedding  [10, 6]  axis 0       10     6
    1.weight   Linear     [18, 6]  axis 0       18     6  q:6 k:6 v:6
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] callers may be untyped
        raise TypeError(f"partition: expected a torch.nn.Module, got {type(model).__name__}.")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"partition: the lazy parameter {name!r} has no shape yet. Run one batch through the model, "
                "then call this again."
            )
    chosen = _chosen(model, overrides or {})
    claims, holders = _claims(model)
    entries: dict[str, _Entry] = {}
    for name, parameter in model.named_parameters():
        # Vectors never are neurons, nor are packed integers (quantised weights) or tensors without entries.
        if parameter.ndim < 2 or not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        known = parameter in chosen or parameter in claims
        reading = chosen[parameter] if parameter in chosen else _agreed(name, claims.get(parameter, ()))
        if reading is not None:
            reading.check(parameter.shape, name)
        if reading is not None or not known:
            entries[name] = _Entry(reading, tuple(parameter.shape), holders[parameter])
    return Partition(entries)


def groups(
    model: nn.Module, weight_decay: float, *, overrides: Overrides | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Param groups for an optimizer: the neurons, with decay; then all else, without.

    The first group holds the parameters of `partition(model, overrides)`, their Neurons in the same order
    under "neurons", and `options`; the second holds gains, biases and the like, with weight_decay=0 and
    rotational=False. A weight vector of one entry cannot turn and stands with the gains. Frozen parameters
    and empty groups are left out. torch.optim's optimizers take the same groups and pass over the keys that
    they do not know.

    Raises ValueError for a weight_decay that is not finite and 0 or above; warns, once, of parameters of two
    or more axes that no rule knows and that therefore take the plain rule without decay.

    >>> for group in groups(nn.Linear(3, 2), weight_decay=0.1, lr=1e-3):
    ...     print({k: v for k, v in group.items() if k != "params"})  # doctest: +NORMALIZE_WHITESPACE
    {'param_names': ['weight'], 'weight_decay': 0.1,
     'neurons': [Neurons(axes=(0,), split=1, parts=())], 'lr': 0.001}
    {'param_names': ['bias'], 'weight_decay': 0.0, 'rotational': False}
    """
    weight_decay = _check.number("groups", "weight_decay", weight_decay, low=0)
    if taken := {"params", "param_names", "neurons"} & options.keys():
        raise ValueError(f"groups({min(taken)}=...): this entry of the group is made here; leave it out.")
    held = partition(model, overrides)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if unknown := [held.described(name) for name in held.left_out if name in trained]:
        warnings.warn(
            f"groups: no rule knows the layer of {', '.join(unknown)}: the plain rule without weight decay "
            "applies. Name them in overrides={...}, with their Neurons or, if they hold none, with None.",
            stacklevel=2,
        )

    def group(names: list[str], **entries: Any) -> list[dict[str, Any]]:
        return [{"params": [trained[n] for n in names], "param_names": names, **entries}] if names else []

    turning = {name for name in held if held[name].size(held.shape(name)) > 1}
    vectors = [name for name in trained if name in turning]
    others = [name for name in trained if name not in turning]
    return [
        *group(vectors, weight_decay=weight_decay, neurons=[held[name] for name in vectors], **options),
        *group(others, weight_decay=0.0, rotational=False),
    ]


# How the modules of a model read its tensors --------------------------------------------------------------


@dataclass(frozen=True)
class _Claim:
    """One module's reading of a tensor."""

    reader: str
    reading: Reading

    @property
    def axes(self) -> tuple[tuple[int, ...], int] | None:
        """What two readers of one tensor must agree on; the names of parts are free."""
        return self.reading and (self.reading.axes, self.reading.split)


def _claims(model: nn.Module) -> tuple[dict[nn.Parameter, list[_Claim]], dict[nn.Parameter, str]]:
    """Every module's reading of every parameter, and the class that holds it."""
    claims: dict[nn.Parameter, list[_Claim]] = {}
    holders: dict[nn.Parameter, str] = {}
    for path, module in model.named_modules():
        kind = type_before_parametrizations(module).__name__
        # The tensors behind a parametrized weight live in a child, yet belong to the layer.
        inner = module.get_submodule("parametrizations").children() if is_parametrized(module) else ()
        for holder in (module, *inner):
            for parameter in holder.parameters(recurse=False):
                holders.setdefault(parameter, kind)
        for attribute, reading in neurons(module).items():
            for parameter, read in _behind(module, attribute, reading):
                claims.setdefault(parameter, []).append(_Claim(f"{path or 'the model'} ({kind})", read))
    return claims, holders


def _behind(module: nn.Module, attribute: str, reading: Reading) -> Iterator[tuple[nn.Parameter, Reading]]:
    """The parameters behind a layer's attribute, each with its reading.

    That is the attribute itself; or what a parametrization, or a hook of the older weight_norm,
    spectral_norm and prune, computes it from.
    """
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    if is_parametrized(module, attribute):
        kept = module.get_submodule(f"parametrizations.{attribute}")
        tensors = list(kept.parameters(recurse=False))
        # A copy in evaluation mode tells the shape: spectral_norm moves its buffers whenever it is asked.
        with torch.no_grad():
            shape = copy.deepcopy(kept).eval()().shape
    else:
        tensors = [own[n] for n in (attribute, f"{attribute}_v", f"{attribute}_orig", f"{attribute}_g") if n in own]
        if not tensors and not hasattr(module, attribute):
            raise ValueError(
                f"neurons({type(module).__name__}): the rule names {attribute!r}, which the layer does not "
                f"have; its parameters are {', '.join(own) or 'none'}."
            )
        shape = tensors[0].shape if tensors else ()
    for tensor in tensors:
        if tensor.shape == shape:
            yield tensor, reading
        # weight_norm's magnitude: the weight's shape with axes of one. Other shapes stay unknown.
        elif all(n in (1, full) for n, full in zip_longest(tensor.shape, shape)):
            yield tensor, None


def _agreed(name: str, claims: Sequence[_Claim]) -> Reading:
    """The one reading of a tensor, with the first names of parts that any module gives."""
    for other in claims[1:]:
        if other.axes != claims[0].axes:
            raise ValueError(
                f"partition: {name!r} is one tensor that {claims[0].reader} reads along "
                f"{claims[0].reading or 'no axis'}, and {other.reader} along {other.reading or 'no axis'}. "
                f"Say which holds, for example overrides={{{name!r}: {claims[0].reading!r}}}."
            )
    readings = [claim.reading for claim in claims]
    return next((r for r in readings if r and r.parts), readings[0] if readings else None)


def _chosen(model: nn.Module, overrides: Overrides) -> dict[nn.Parameter, Reading]:
    """What the overrides say, by parameter; a tied weight answers to each of its names."""
    named = list(model.named_parameters(remove_duplicate=False))
    chosen: dict[nn.Parameter, Reading] = {}
    for pattern, reading in overrides.items():
        call = f"overrides={{{pattern!r}: {reading!r}}}"
        if not isinstance(reading, Neurons | None):  # pyright: ignore[reportUnnecessaryIsInstance] as above
            raise TypeError(f"{call}: expected Neurons(...), or None for a parameter without neurons.")
        hits = [parameter for name, parameter in named if fnmatchcase(name, pattern)]
        if not hits:
            near = get_close_matches(pattern, [name for name, _ in named], n=3, cutoff=0.3)
            raise ValueError(f"{call}: no parameter has such a name; the nearest are {', '.join(near) or 'none'}.")
        if reading is not None and all(parameter.ndim < 2 for parameter in hits):
            raise ValueError(f"{call}: only vectors and scalars have such names, and they never hold neurons.")
        chosen.update(dict.fromkeys(hits, reading))
    return chosen


def _listed(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
