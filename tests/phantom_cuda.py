"""A GPU that is not there: tensors that say they lie on it, compute on the CPU, and keep a GPU's rules.

Within `phantom()` torch believes in one GPU. A `Phantom` wraps a CPU tensor, on which every operation runs. What a GPU
refuses is refused: operations on tensors of two places (but CPU scalars in pointwise operations, and CPU indices into
tensors on the GPU), a generator of another place, products of whole numbers, numpy(). So is float64, which Apple's GPUs
do not have and others are slow at, and, on a phantom "mps", what torch has no kernel of for it.

The `State` that `phantom()` gives counts where the host `waits` for the device, by what and which line, and `launches`
of kernels. `capture` records operations as a CUDA graph does and refuses what may not happen there. A phantom's own
device is "meta", for which autograd needs no driver.
"""

# ruff: noqa: ANN001, ANN401 - what torch calls and is called with is of any type

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
_Generator = torch.Generator
_WAITS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive")
_WAITS += ("bincount", "_linalg_check_errors")
_INDEXING = ("index.Tensor", "index_put", "index_put_", "_unsafe_index.Tensor", "_index_put_impl_", "_unsafe_index_put")
_TAKE_SCALARS = ("where.self", "masked_fill.Tensor", "masked_fill_.Tensor", "fill_.Tensor")
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "convolution")
# what torch's table names for Apple's GPUs, but the oldest torch that is supported lacks there
_NEW_ON_MPS = ("grid_sampler_2d_backward", "grid_sampler_3d", "grid_sampler_3d_backward")
_NEW_ON_MPS += ("index_reduce", "index_reduce_")
_FREE = ("aten::detach", "aten::alias", "aten::view", "aten::_unsafe_view", "aten::empty", "aten::lift_fresh")


class State:
    """What is counted, from the start of `phantom()` or the last `reset`."""

    def __init__(self, kind: str) -> None:
        self.device = torch.device(kind, 0)
        self.tape: list[tuple[Any, Any, Any, Any]] | None = None
        self.reset()

    def reset(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.launches = 0

    @property
    def waited(self) -> int:
        return sum(self.waits.values())

    @contextlib.contextmanager
    def at_most(self, waits: int, launches: int | None = None) -> Iterator[None]:
        """Counts anew within it, and fails where the host waited, or kernels were launched, more often."""
        self.reset()
        yield
        assert self.waited <= waits, f"{self.waited} waits, at most {waits}: {self.waits.most_common(20)}"
        assert launches is None or self.launches <= launches, f"{self.launches} launches, at most {launches}"

    def wait(self, what: str) -> None:
        if self.tape is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what} at {place()}")
        self.waits[what, place()] += 1


STATE = State("cuda")
STORE = torch.device("cpu")  # where the values are


class Phantom(Tensor):
    """A tensor on the device that is not there; `inner` is what it wraps."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Phantom:
        if inner.layout is not torch.strided:
            raise NotImplementedError(f"{inner.layout} on {STATE.device} at {place()}: Apple's GPUs lacked it for long")
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{inner.dtype} on {STATE.device} at {place()}: Apple's GPUs lack it, others are slow")
        layout = (inner.size(), inner.stride(), inner.storage_offset())
        phantom = Tensor._make_wrapper_subclass(cls, *layout, dtype=inner.dtype, device="meta")
        phantom.inner = inner
        return phantom

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    device = property(lambda self: STATE.device)  # type: ignore[assignment]
    is_cuda = property(lambda self: STATE.device.type == "cuda")  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {STATE.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:  # a file holds the values; where they are loaded is the reader's
        return self.inner.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        return f"Phantom({self.inner!r})"


def place() -> str:
    """The innermost line of the project that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        for part in ("upfusion_core/", "nodes/", "tests/phantom/"):
            if part in name and "site-packages" not in name:
                return f"{part}{name.split(part)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class _Facts(NamedTuple):
    composite: bool
    launches: bool
    in_place: bool
    pointwise: bool  # takes CPU scalars
    written: tuple[tuple[int, str], ...]  # arguments that are written to and returned
    name: str


@lru_cache(maxsize=4096)
def _facts(func: Any) -> _Facts:
    schema = func._schema
    name = schema.name
    alias = schema.returns[0].alias_info if schema.returns else None
    writes = alias is not None and alias.is_write
    places = enumerate(schema.arguments) if writes else ()
    full = name.removeprefix("aten::") + (f".{schema.overload_name}" if schema.overload_name else "")
    return _Facts(
        func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd),
        not func.is_view and not name.startswith(_FREE),
        name.endswith("_"),
        torch.Tag.pointwise in func.tags or full in _TAKE_SCALARS or "foreach" in name,
        tuple((index, each.name) for index, each in places if each.alias_info and each.alias_info.is_write),
        full,
    )


def _tensors(values: Any) -> list[Tensor]:
    """All tensors among arguments."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _unwrapped(values: Any) -> Any:
    return tree_map_only(Phantom, attrgetter("inner"), values)


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raises where the GPU's operation would."""
    facts, first = _facts(func), args[0] if args else None
    plain = [value for value in tensors if not isinstance(value, Phantom)]
    if facts.name in _INDEXING:
        plain = [value for value in plain if value is first]  # indices may lie on the CPU, what is indexed may not
    elif facts.pointwise:
        plain = [value for value in plain if value.ndim or (facts.in_place and value is first)]
    if plain:
        places = ", ".join(f"{value.device} {tuple(value.shape)}" for value in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {places} at {place()}")
    if facts.name in _PRODUCTS:
        kinds = {value.dtype for value in tensors}
        if len(kinds) > 1 or not all(kind.is_floating_point for kind in kinds):
            raise RuntimeError(f"{func} needs one floating-point type, got {kinds} at {place()}")
    name = facts.name.split(".")[0]
    cubic = name == "grid_sampler_2d" and args[2] == 2
    lacks = cubic or name in _NEW_ON_MPS or facts.name in lacking_on_mps()
    if STATE.device.type == "mps" and (lacks or (name.startswith("scatter_reduce") and "mean" in args)):
        raise NotImplementedError(f"The operator '{func}' is not implemented for the MPS device (at {place()})")


@lru_cache(maxsize=1)
def lacking_on_mps() -> frozenset[str]:
    """Operations for which torch's own table of kernels names CUDA and not MPS."""
    import torchgen

    table = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    found = set()
    for entry in table.read_text().split("\n- func: ")[1:]:
        keys = set(re.findall(r"\w+", " ".join(re.findall(r"^    ([\w, ]+):", entry, re.MULTILINE))))
        if "CUDA" in keys and "MPS" not in keys and not any(key.startswith("Composite") for key in keys):
            found.add(entry.split("(")[0])
    return frozenset(found)


def _count(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Counts waits and launches of an operation that stays on the device."""
    facts = _facts(func)
    if facts.name in _WAITS:
        STATE.wait(facts.name)
    if facts.name in _INDEXING:
        for index in tensors[1:]:
            if index.dtype in (torch.bool, torch.uint8):
                STATE.wait("index by mask")
            elif not isinstance(index, Phantom) and index.ndim:
                STATE.wait("index from the CPU")
    if func is aten.repeat_interleave.Tensor and not any(isinstance(value, int) for value in args[1:]):
        STATE.wait("repeat_interleave")
    STATE.launches += facts.launches


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation, on phantoms or making them."""
    tensors = _tensors((args, kwargs))
    there = any(isinstance(value, Phantom) for value in tensors)
    device = kwargs.get("device")
    if device is None and not there:
        return func(*args, **kwargs)
    if func is aten._to_copy.default:
        return _transferred(args[0], **kwargs)
    wanted = torch.device(device).type if device is not None else STATE.device.type
    if wanted == "meta" and (_meta_is_meant() or (func is aten.empty_strided.default and not there)):
        return func(*args, **kwargs)
    if not there and wanted not in (STATE.device.type, "meta"):
        return func(*args, **kwargs)
    facts = _facts(func)
    if facts.composite:
        with _MODE:
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
    if func is aten.copy_.default:
        return _copied(*args, **kwargs)
    if there:
        _check(func, args, tensors)
    _count(func, args, tensors)
    plain = _unwrapped((args, kwargs))
    if device is not None:
        plain[1]["device"] = STORE
    result = computed(func, *plain)
    if STATE.tape is not None:
        STATE.tape.append((func, *plain, result))
    if wanted not in (STATE.device.type, "meta"):
        return result
    if facts.written:  # arguments themselves
        written = [args[index] if index < len(args) else kwargs[name] for index, name in facts.written]
        return written[0] if len(func._schema.returns) == 1 else tuple(written)
    return tree_map_only(Tensor, Phantom, result)


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on what is wrapped: here, and where something is `moved`, benchmarks/paper.py counts."""
    return func(*args, **kwargs)


def moved(func: Any, args: Any, kwargs: Any) -> Any:
    """A copy on the device, onto it, or from it, of what is wrapped."""
    return func(*args, **kwargs)


def _transferred(
    tensor: Tensor, *, device: Any = None, dtype: Any = None, non_blocking: bool = False, **rest: Any
) -> Any:
    """aten._to_copy: a copy on the device, onto it, or from it."""
    here, there = isinstance(tensor, Phantom), device is None and isinstance(tensor, Phantom)
    if device is not None:
        kind = torch.device(device).type
        there = kind == STATE.device.type or (kind == "meta" and not _meta_is_meant())
    options = {"dtype": dtype, **{name: value for name, value in rest.items() if name not in ("pin_memory", "layout")}}
    inner: Tensor = _unwrapped(tensor)
    if not here and not there:
        return aten._to_copy.default(tensor, device=device, **options)
    if here != there and not (non_blocking and (here or tensor.is_pinned())):
        STATE.wait("to the CPU" if here else "from the CPU")
    STATE.launches += there
    result = moved(aten._to_copy.default, (inner,), options | {"device": STORE if there else "cpu"})
    if STATE.tape is not None:
        STATE.tape.append((aten._to_copy.default, (inner,), options, result))
    return Phantom(result) if there else result


def _copied(into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    here, there = isinstance(source, Phantom), isinstance(into, Phantom)
    if here != there and not (non_blocking and here):
        STATE.wait("to the CPU" if here else "from the CPU")
    STATE.launches += 1
    plain = _unwrapped((into, source))
    moved(aten.copy_.default, plain, {})
    if STATE.tape is not None:
        STATE.tape.append((aten.copy_.default, plain, {}, plain[0]))
    return into


def _meta_is_meant() -> bool:
    """Whether the program itself asks for the device meta, and not torch on behalf of a phantom."""
    current = torch.utils._device.CURRENT_DEVICE
    return (current is not None and torch.device(current).type == "meta") or _FUNCTIONS.meta > 0


class _Dispatch(TorchDispatchMode):
    """Sees operations without phantoms: tensors made on the device, or moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Gives every device its number, without which torch asks the driver, and compares generators' places."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = _numbered(kwargs["device"])
        device, generator = kwargs.get("device"), kwargs.get("generator")
        if generator is not None:
            target = device or next((value.device for value in args if isinstance(value, Tensor)), torch.device("cpu"))
            if target.type != generator.device.type:
                kinds = f"'{target.type}' device type for generator but found '{generator.device.type}'"
                raise RuntimeError(f"Expected a {kinds} (at {place()})")
        if func in _SPECIAL and (found := _SPECIAL[func](func, args, kwargs)) is not NotImplemented:
            return found
        meant = device is not None and device.type == "meta"
        self.meta += meant
        try:
            return func(*args, **kwargs)
        finally:
            self.meta -= meant


_FUNCTIONS, _MODE = _Functions(), _Dispatch()


def _numbered(device: Any) -> torch.device:
    device = STATE.device if isinstance(device, int) else torch.device(device)
    return STATE.device if device.type == STATE.device.type else device


def _to(func: Any, args: Any, kwargs: Any) -> Any:
    """Tensor.to in all its forms."""
    tensor, *rest = args
    if rest and isinstance(rest[0], Tensor):  # like another tensor
        options = {"device": rest[0].device, "dtype": rest[0].dtype, **kwargs}
    else:
        flags = [value for value in rest if isinstance(value, bool)]
        others = [value for value in rest if not isinstance(value, bool)]
        options = {"copy": kwargs.pop("copy", False)}
        parsed = torch._C._nn._parse_to(*others, **kwargs)
        options |= dict(zip(("device", "dtype", "non_blocking", "memory_format"), parsed, strict=True))
        options["non_blocking"] |= any(flags[:1])
        if options["memory_format"] is None:
            del options["memory_format"]
    options["dtype"] = options["dtype"] or tensor.dtype
    if options["device"] is None or (isinstance(tensor, Phantom) and options["device"].type == STATE.device.type):
        del options["device"]
    else:
        options["device"] = _numbered(options["device"])
    return Tensor.to(tensor, **options)


def _tensor(func: Any, args: Any, kwargs: Any) -> Any:
    """torch.tensor and torch.as_tensor: made on the CPU and copied to the device."""
    data = args[0] if args else kwargs["data"]
    device = kwargs.pop("device", None)
    if func is torch.as_tensor and isinstance(data, Tensor):
        return data.to(device=device or data.device, dtype=kwargs.get("dtype") or data.dtype)
    if device is None or device.type != STATE.device.type:
        return NotImplemented if device is None else func(*args, device=device, **kwargs)
    gradient = kwargs.pop("requires_grad", False)
    return func(*args, **kwargs, device="cpu").to(device).requires_grad_(gradient)


def _new_tensor(func: Any, args: Any, kwargs: Any) -> Any:
    tensor, data = args
    if not isinstance(tensor, Phantom):
        return NotImplemented
    return _tensor(torch.tensor, (data,), {"dtype": tensor.dtype, "device": STATE.device, **kwargs})


_SPECIAL: dict[Any, Callable[[Any, Any, Any], Any]] = {
    Tensor.to: _to,
    torch.tensor: _tensor,
    torch.as_tensor: _tensor,
    Tensor.new_tensor: _new_tensor,
}


class _PhantomGenerator(_Generator):
    """A generator on the device. Its numbers are a CPU generator's."""

    device = property(lambda self: STATE.device)  # type: ignore[assignment]


class _GeneratorKind(type):
    """Of what stands for torch.Generator: makes either kind, and knows both."""

    def __call__(cls, device: Any = "cpu") -> Any:
        return _PhantomGenerator() if torch.device(device).type == STATE.device.type else _Generator(device)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Generator)


class Graph:
    """The operations of a capture; `replay` runs them again in the memory they were recorded with."""

    def __init__(self) -> None:
        self.tape: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        for func, args, kwargs, recorded in self.tape:
            if not func.is_view:
                for new, old in zip(tree_leaves(func(*args, **kwargs)), tree_leaves(recorded), strict=True):
                    if isinstance(old, Tensor) and new is not old:
                        old.copy_(new)


@contextlib.contextmanager
def capture(graph: Graph, *_: Any, **__: Any) -> Iterator[None]:
    """Records the device's operations into a graph; what makes the host wait raises."""
    assert STATE.tape is None, "one capture at a time"
    STATE.tape = graph.tape
    try:
        yield
    finally:
        STATE.tape = None


class _Stream:
    def wait_stream(self, _: Any) -> None: ...

    def is_capturing(self) -> bool:
        return STATE.tape is not None


def _forget() -> None:
    """Clears what the fields' modules keep of a device: constants, and whether Triton works there."""
    for name in [name for name in sys.modules if name.startswith("upfusion_core.field.")]:
        for value in vars(sys.modules[name]).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@contextlib.contextmanager
def phantom(kind: str = "cuda") -> Iterator[State]:
    """Within it torch believes in one GPU, "cuda" or "mps"."""
    global STATE

    def nothing(*_: Any, **__: Any) -> None: ...

    cuda = kind == "cuda"
    told: dict[str, Any] = {
        "is_available": lambda: cuda, "device_count": lambda: int(cuda), "current_device": lambda: 0,
        "is_initialized": lambda: cuda, "is_bf16_supported": lambda *_, **__: True,
        "get_device_capability": lambda *_: (8, 6),
        "_exchange_device": lambda _: 0, "_maybe_exchange_device": lambda _: 0,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "synchronize": lambda *_: STATE.wait("synchronize"),
        "Stream": _Stream, "current_stream": lambda *_: _Stream(), "stream": lambda _: contextlib.nullcontext(),
        "CUDAGraph": Graph, "graph": capture, "is_current_stream_capturing": lambda: STATE.tape is not None,
    }  # fmt: skip
    silent = ("_lazy_init", "init", "empty_cache", "set_device", "reset_peak_memory_stats", "manual_seed_all")
    told |= dict.fromkeys((*silent, "manual_seed", "set_rng_state"), nothing)
    before, STATE = STATE, State(kind)
    _forget()
    with contextlib.ExitStack() as stack:
        stack.callback(_forget)
        stack.enter_context(patch.multiple(torch.cuda, **told))
        accelerator = {name: told[name] for name in ("is_available", "device_count", "current_stream")}
        accelerator |= {"current_accelerator": lambda *_, **__: torch.device(kind), "current_device_index": lambda: 0}
        stack.enter_context(patch.multiple(torch.accelerator, **accelerator))
        stack.enter_context(patch.object(torch.backends.mps, "is_available", lambda: not cuda))
        stack.enter_context(patch.object(torch, "Generator", _GeneratorKind("Generator", (), {})))
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as on a GPU
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        stack.enter_context(_FUNCTIONS)
        stack.enter_context(_MODE)
        try:
            yield STATE
        finally:
            STATE = before
