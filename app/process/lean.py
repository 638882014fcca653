"""Imports that serving does not need, put off: with them a start takes twice as long until the model is loaded.

timm and torchvision import torch's compiler, symbolic algebra, exporters, data sets and a download client. While they
are imported a placeholder stands for each; whoever asks for such a module later gets the real one.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def _as_it_is[T](function: T, *_: object, **__: object) -> T:
    return function


def _nothing() -> None:
    pass


def _later(module: str, name: str) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> object:
        function: Callable[..., object] = getattr(importlib.import_module(module), name)
        return function(*args, **kwargs)

    return call


_DATA_SETS = ("CIFAR10", "CIFAR100", "FashionMNIST", "INaturalist", "ImageFolder", "ImageNet", "KMNIST", "MNIST",
              "Places365", "QMNIST")  # fmt: skip

# What is imported from them by name: a function is looked up when it is called, a data set is never used.
_PUT_OFF: dict[str, Mapping[str, object]] = {
    # How operators act on tensors without data, for the compiler; the operators that build a model have it in C++.
    "torch._meta_registrations": {},
    "torch._dynamo": {"disable": _as_it_is},
    "torch._dynamo.utils": {"is_compile_supported": _later("torch._dynamo.utils", "is_compile_supported")},
    "torch._functorch._aot_autograd.functional_utils": {
        "is_fun": _later("torch._functorch._aot_autograd.functional_utils", "is_fun")
    },
    "torch.quantization": {},
    "torchvision.models": {},
    # The same for torchvision's operators, of which no model here has any.
    "torchvision._meta_registrations": {},
    "torchvision.datasets": dict.fromkeys(_DATA_SETS, object),
    "torchvision.ops._register_onnx_ops": {"_register_custom_op": _nothing},
}
# What timm does without where it is not installed.
_LEFT_OUT = ("huggingface_hub",)


class _InOrder:
    """A finder that finds nothing, but makes up for the order that modules of the compiler rely on."""

    _FIRST = "torch._meta_registrations"
    _AFTER = ("torch._decomp", "torch._dynamo", "torch._prims", "torch._refs")

    def find_spec(self, name: str, *_: object) -> None:
        if name in self._AFTER and self._FIRST not in sys.modules:
            importlib.import_module(self._FIRST)


@contextmanager
def imports() -> Iterator[None]:
    """Put off what the imports inside the block would bring along; what is imported already stays."""
    stand_ins: dict[str, Any] = {name: None for name in _LEFT_OUT if name not in sys.modules}
    for name, content in _PUT_OFF.items():
        if name not in sys.modules:
            stand_ins[name] = ModuleType(name)
            stand_ins[name].__dict__.update(content, __path__=[])
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if stand_in is not None and vars(sys.modules.get(parent, sys)).get(child) is stand_in:
                delattr(sys.modules[parent], child)
        sys.meta_path.insert(0, _InOrder())


@contextmanager
def without(name: str) -> Iterator[None]:
    """Have the import of a module fail inside the block, unless it is there already, for who can do without it."""
    there = name in sys.modules
    stand_ins: dict[str, Any] = {} if there else {name: None}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for stand_in in stand_ins:
            sys.modules.pop(stand_in, None)
