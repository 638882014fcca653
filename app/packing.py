"""Packing: convolutions whose weights are in the CPU's own order, and that do what follows them on the way out.

Otherwise oneDNN brings the weights into its order in every call, and each activation or addition reads and writes all
of the convolution's output once more.
"""

from collections import deque
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from app import folding

# oneDNN's names of what it applies to an output that is still in registers; after an addition it knows only ReLU.
_ACTIVATIONS = {
    "aten::relu": "relu",
    "aten::relu6": "hardtanh",
    "aten::hardtanh": "hardtanh",
    "aten::silu": "swish",
    "aten::hardswish": "hardswish",
}
_AFTER_ADDITION = {"aten::relu"}
_TENSOR = torch._C.TensorType.get()
_SCALARS = torch._C.ListType(torch._C.OptionalType(torch._C.NumberType.get()))
# torch has no types for the parts of a graph that can be changed.
_Node = Any
_Value = Any


def pack(frozen: nn.Module) -> nn.Module | None:
    """A frozen trace with its convolutions packed, or nothing where it has none or torch cannot pack them."""
    try:
        packing = _Packing(frozen.graph.copy())
        packing.run()
        return packing.result() if packing.weights else None
    except Exception as error:  # graphs and oneDNN raise their own kinds, and differ between builds of torch
        folding.refuse("not_packed", f"{type(error).__name__}: {error}".splitlines()[0])
        return None


class _Packing:
    """One pass over a graph, in the order in which it computes.

    A convolution takes over only what comes right behind it, so that nothing is computed earlier or later than before.
    """

    def __init__(self, graph: Any) -> None:
        self.weights: list[Tensor] = []
        self._graph = graph
        # Outputs, by name, that are memory of their own, and whose nodes kept no view of what they read.
        self._own: set[str] = set()

    def run(self) -> None:
        """Replace every convolution that can be."""
        steps = deque(node for node in self._graph.nodes() if node.kind() != "prim::Constant")
        while steps:
            node = steps.popleft()
            if node.kind() == "aten::_convolution":
                self._replace(node, steps)
            elif node.kind() == "aten::max_pool2d":
                self._own.add(_name(node))

    def result(self) -> nn.Module:
        """The changed model. Its graph takes the weights beside the batch: packed ones cannot be constants."""
        # A frozen module has no attributes left to ask for.
        self._graph.eraseInput(0)
        torch._C._jit_pass_dce(self._graph)
        torch._C._jit_pass_lint(self._graph)
        function = torch._C._create_function_from_graph("packed", self._graph)
        weights = self.weights
        model = nn.Module()
        model.graph = self._graph
        model.forward = lambda batch: function(batch, *weights)
        return model

    def _replace(self, node: _Node, behind: deque[_Node]) -> None:
        batch, weight, bias, *rest = node.inputs()
        stride, padding, dilation, transposed, _, groups = (value.toIValue() for value in rest[:6])
        plain = weight.toIValue()
        if plain is None or plain.dim() != 4 or transposed:
            return
        replaced = [node]
        addend = self._addend(node, behind[0]) if behind else None
        if addend is not None:
            replaced.append(behind.popleft())
        activation, limits = _activation(replaced[-1], behind, _ACTIVATIONS if addend is None else _AFTER_ADDITION)
        if activation:
            replaced.append(behind.popleft())

        last = replaced[-1]
        self._graph.setInsertPoint(last)
        constant = self._graph.insertConstant
        shape = (padding, stride, dilation, groups)
        inputs = [batch, self._input(plain, *shape), bias, *map(constant, shape)]
        numbers = self._insert("prim::ListConstruct", [constant(limit) for limit in limits], last, _SCALARS)
        if addend is None:
            name = "mkldnn::_convolution_pointwise"
            inputs += [constant(activation or "none"), numbers, constant(None)]
        else:
            name = "mkldnn::_convolution_pointwise_"
            inputs = [addend, *inputs, constant("add"), constant(1), constant(activation), numbers, constant(None)]
        output = self._insert(name, inputs, last, _TENSOR)
        self._own.add(output.debugName())
        last.output().replaceAllUsesWith(output)
        for former in reversed(replaced):
            former.destroy()

    def _addend(self, node: _Node, addition: _Node) -> _Value | None:
        """What is added to a convolution's output, where the sum may take its place in memory."""
        if addition.kind().removesuffix("_") != "aten::add" or not _feeds_only(node, addition):
            return None
        first, second, factor = addition.inputs()
        other = second if first.debugName() == _name(node) else first
        # Whoever is known by now has read it before; the convolution itself must not write into what it reads.
        readers = {_name(use.user) for use in other.uses()} - {_name(addition)}
        return other if factor.toIValue() == 1 and {other.debugName(), *readers} <= self._own else None

    def _input(self, plain: Tensor, *shape: Any) -> _Value:
        self.weights.append(torch._C._nn.mkldnn_reorder_conv2d_weight(plain.to_mkldnn(), *shape))
        added = self._graph.addInput()
        added.setType(_TENSOR)
        return added

    def _insert(self, kind: str, inputs: list[_Value], before: _Node, output_type: Any) -> _Value:
        node = self._graph.create(kind, inputs, 1)
        node.insertBefore(before)
        node.output().setType(output_type)
        return node.output()


def _name(node: _Node) -> str:
    """The name of a node's first output; empty where it has none, as what a graph returns."""
    return next((output.debugName() for output in node.outputs()), "")


def _activation(node: _Node, behind: Sequence[_Node], known: Container[str]) -> tuple[str | None, list[float]]:
    """The activation that comes right behind a node and is all that uses it, with its limits; no name for none."""
    kind = behind[0].kind().removesuffix("_") if behind else ""
    if kind not in known or not _feeds_only(node, behind[0]):
        return None, []
    if kind == "aten::relu6":
        return _ACTIVATIONS[kind], [0.0, 6.0]
    _, *limits = behind[0].inputs()
    return _ACTIVATIONS[kind], [limit.toIValue() for limit in limits]


def _feeds_only(node: _Node, after: _Node) -> bool:
    """Whether a node's output is used once, by the one after it."""
    return [_name(use.user) for use in node.output().uses()] == [_name(after)]
