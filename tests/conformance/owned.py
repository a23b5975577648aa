"""Arrays with an owning layer, which refuse operations with arrays of other layers; a backend and a link for them."""

from typing import Any

import numpy as np

from lowbit_dtp.activations import Activation
from lowbit_dtp.backends import Key, multiplied
from lowbit_dtp.backends.numba_cpu import NumbaBackend
from lowbit_dtp.formats import Format
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network


class LocalityError(AssertionError):
    """A layer used what it does not hold."""


class Owned(np.ndarray):
    """An array of the layer `owner`."""

    owner: str = ""

    def __array_finalize__(self, source: Any) -> None:
        self.owner = getattr(source, "owner", "")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if ufunc is np.matmul:
            raise LocalityError("only layers multiply matrices, through their backend")
        owner = owner_of(ufunc.__name__, *inputs, *(out or ()))
        if out is not None:
            kwargs["out"] = tuple(map(np.asarray, out))
        result = getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, Owned) else x for x in inputs), **kwargs)
        return out[0] if out is not None else own(result, owner)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise LocalityError(f"numpy.{function.__name__} is called on a layer's array; backends do that")

    def __setitem__(self, key: Any, value: Any) -> None:
        owner_of("assignment", self, value)
        np.asarray(self)[key] = value


def own(x: Any, owner: str) -> Owned:
    """`x` as an array of `owner`."""
    owned = np.asarray(x).view(Owned)
    owned.owner = owner
    return owned


def owner_of(what: str, *values: Any) -> str:
    """The one owner of all arrays in `values`. An array of nobody was read behind its owner's back."""
    arrays = [x for x in values if isinstance(x, np.ndarray) and (x.ndim or isinstance(x, Owned))]
    owners = {getattr(x, "owner", "") for x in arrays}
    if len(owners) != 1 or owners == {""}:
        raise LocalityError(f"{what} mixes arrays of {sorted(owners)}; send one over a link first")
    return owners.pop()


class CheckedSignal(Signal):
    """A signal that crossed a link: the layer that sent it owns what `sent` gives, as it was when it was sent."""

    @property
    def sent(self) -> Owned:
        return self.__dict__.get("_sent", self.values)  # `replace` makes a signal that was never sent


def checked_send(
    link: Link, x: Any, direction: Direction, purpose: str, ledger: Ledger, stream: Any = None, plain: Any = Link.send
) -> Signal:
    """`Link.send` for arrays of the layer that sends; what arrives belongs to the layer at the far end."""
    here, there = (link.lower, link.upper) if direction is Direction.FORWARD else (link.upper, link.lower)
    owner = getattr(x.carried if isinstance(x, Signal) else x, "owner", "")
    if owner != here:
        raise LocalityError(f"link {link.name} was given an array of {owner!r} to send {direction}, not of {here!r}")
    signal = plain(link, _plain(x) if isinstance(x, Signal) else np.asarray(x), direction, purpose, ledger, stream)
    arrived = CheckedSignal(own(signal.codes, there), signal.format, own(signal.like, there), link=signal.link)
    object.__setattr__(arrived, "_sent", own(signal.values.copy(), here))
    return arrived


_PLAIN = NumbaBackend()


class CheckedBackend(NumbaBackend):
    """The NumPy backend, for arrays of one owner at a time."""

    def asarray(self, x: np.ndarray, like: Owned) -> Owned:
        return own(_PLAIN.asarray(x, np.asarray(like)), owner_of("asarray", like))

    def normal(self, key: Key, like: Owned) -> Owned:
        return own(_PLAIN.normal(key, np.asarray(like)), owner_of("normal", like))

    def values(self, signal: Signal) -> Owned:
        return own(_PLAIN.values(_plain(signal)), owner_of("values", signal.carried, signal.like))

    def decode(self, codes: Owned, fmt: Format, like: Owned) -> Owned:
        return own(_PLAIN.decode(np.asarray(codes), fmt, np.asarray(like)), owner_of("decode", codes, like))

    def pre_activation(self, signal: Signal, weight: Owned, bias: Owned | None) -> Owned:
        return own(
            _PLAIN.pre_activation(_plain(signal), np.asarray(weight), _bare(bias)),
            owner_of("pre_activation", signal.carried, weight, bias),
        )

    def affine_activation(self, activation: Activation, signal: Signal, weight: Owned, bias: Owned) -> Owned:
        return own(
            _PLAIN.affine_activation(activation, _plain(signal), np.asarray(weight), _bare(bias)),
            owner_of("affine_activation", signal.carried, weight, bias),
        )

    def gradients(self, signal: Signal, error: Owned, spent: Owned | None) -> tuple[Owned, Owned]:
        owner = owner_of("gradients", signal.carried, error)
        weight, bias = _PLAIN.gradients(_plain(signal), np.asarray(error), None)
        return own(multiplied(weight), owner), own(bias, owner)

    def one_hot(self, labels: Owned, like: Owned) -> Owned:
        return own(_PLAIN.one_hot(np.asarray(labels), np.asarray(like)), owner_of("one_hot", labels, like))

    def cross_entropy(self, logits: Owned, labels: Owned) -> tuple[Owned, Any]:
        error, loss = _PLAIN.cross_entropy(np.asarray(logits), np.asarray(labels))
        return own(error, owner_of("cross_entropy", logits, labels)), loss


def _bare(bias: Owned | None) -> np.ndarray | None:
    return None if bias is None else np.asarray(bias)


def _plain(signal: Signal) -> Signal:
    return Signal(np.asarray(signal.carried), signal.format, np.asarray(signal.like))


def _checked(name: str) -> Any:
    def method(self: CheckedBackend, *args: Any) -> Any:
        plain = (np.asarray(x) if isinstance(x, Owned) else x for x in args)
        return own(getattr(_PLAIN, name)(*plain), owner_of(name, *args))

    return method


for _name in ("bits", "cast", "clip", "integer_matmul", "largest", "look_up"):  # of whole numbers
    setattr(CheckedBackend, _name, _checked(_name))
_WITH_ONE_OWNER = (
    "matmul", "tanh", "sigmoid", "relu", "step", "one_hot", "axpy", "activation_backward",
    "activation_backward_difference",
)  # fmt: skip
for _name in _WITH_ONE_OWNER:
    setattr(CheckedBackend, _name, _checked(_name))


def give_out(net: Network) -> None:
    """Let each layer of `net` own its parameters."""
    for layer in net.layers:
        for name, x in layer.arrays().items():
            layer.put(name, own(x, layer.name))
