"""From a graph of TensorFlow to a program: the nodes of a signature, its variables frozen into constants."""

from typing import Any, Callable, Dict, List, Sequence, Tuple

from runyard.scoring.builder import Builder, CannotCompileError

#: TensorFlow's operators that are one of ours by another name.
_SAME = {
    "Add": "Add", "AddV2": "Add", "BiasAdd": "Add", "Sub": "Sub", "Mul": "Mul", "RealDiv": "Div", "Div": "Div",
    "Relu": "Relu", "Elu": "Elu", "Selu": "Selu", "Softplus": "Softplus", "Softsign": "Softsign", "Sigmoid": "Sigmoid",
    "Tanh": "Tanh", "Softmax": "Softmax", "Exp": "Exp", "Log": "Log", "Sqrt": "Sqrt", "Neg": "Neg", "Abs": "Abs",
    "Maximum": "Max", "Minimum": "Min", "Pow": "Pow", "Square": "Square",
}  # fmt: skip
#: They pass on what they are given.
_PASSED = ("Identity", "StopGradient", "ReadVariableOp", "Snapshot", "PreventGradient", "EnsureShape")
_UNSEEN = ("NoOp", "Assert", "Const", "Placeholder")
#: What TensorFlow does in one with these, where one of those comes before: an activation, and the sum with an offset.
_FUSED = {"Relu": None, "Relu6": 6.0}
_SUMS, _PRODUCTS = ("BiasAdd", "Add", "AddV2"), ("MatMul", "Conv2D", "DepthwiseConv2dNative")


class GraphWalk:
    """The nodes of one frozen graph on their way into a builder."""

    def __init__(self, tensorflow: Any, builder: Builder, graph: Any, fuses: bool) -> None:
        self._tensorflow = tensorflow
        self._fuses = fuses
        self.builder = builder
        self._nodes = {node.name: node for node in graph.node}
        #: What each tensor of the graph is called in the program.
        self.names: Dict[str, str] = {}
        self.constants: Dict[str, Any] = {}

    def tensor(self, reference: str) -> str:
        """The program's name of a tensor of the graph; what it needs is made first."""
        waiting = [_node_name(reference)]
        while waiting:
            name = waiting[-1]
            if name in self.names:
                waiting.pop()
                continue
            node = self._nodes[name]
            missing = [_node_name(one) for one in _inputs(node) if _node_name(one) not in self.names]
            if missing:
                waiting += missing
                continue
            self.names[name] = self._made(node)
            waiting.pop()
        if not reference.endswith(":0") and ":" in reference:
            raise CannotCompileError(f"the second output of {self._nodes[_node_name(reference)].op}")
        return self.names[_node_name(reference)]

    def _made(self, node: Any) -> str:
        inputs = [self.names[_node_name(one)] for one in _inputs(node)]
        if any(":" in one and not one.endswith(":0") for one in _inputs(node)):
            raise CannotCompileError(f"an operator that reads a second output: {node.op}")
        if node.op == "Const":
            value = self._tensorflow.make_ndarray(node.attr["value"].tensor)
            if value.dtype.kind not in "biuf":
                return f"(text of {node.name})"
            made = self.builder.constant(value)
            self.constants[made] = value
            return made
        if node.op in _PASSED:
            return inputs[0]
        if self._fuses and node.op in _FUSED and self._is_of_product(node):
            return self.builder.add("FusedRelu", inputs, most=_FUSED[node.op])
        if node.op in _SAME:
            _check_nhwc(node)
            return self.builder.add(_SAME[node.op], inputs)
        handler = _HANDLERS.get(node.op)
        if handler is None:
            raise CannotCompileError(f"TensorFlow's {node.op}")
        return handler(self, node, inputs)

    def _is_of_product(self, node: Any) -> bool:
        before = self._nodes[_node_name(node.input[0])]
        return before.op in _SUMS and any(self._nodes[_node_name(one)].op in _PRODUCTS for one in _inputs(before))

    def value(self, name: str) -> Any:
        """A constant's value; CannotCompileError where it is computed."""
        if name not in self.constants:
            raise CannotCompileError("a shape or axis that is computed")
        return self.constants[name]

    def values(self, name: str) -> List[int]:
        """A constant of whole numbers."""
        return [int(one) for one in self.value(name).reshape(-1)]


def walk(
    tensorflow: Any, builder: Builder, graph: Any, placeholders: Dict[str, str], outputs: Dict[str, str], fuses: bool
) -> Dict[str, str]:
    """Compile what ``freeze`` has made; returns the program's tensor of each output.

    ``fuses``: does this TensorFlow do an activation in one with the product before it? Then NaN becomes 0 in it.
    """
    path = GraphWalk(tensorflow, builder, graph, fuses)
    path.names.update(placeholders)
    return {name: path.tensor(reference) for name, reference in outputs.items()}


def freeze(function: Any, inputs: Sequence[str]) -> Tuple[Any, Dict[str, str], Dict[str, str]]:
    """(graph, placeholder -> input, output -> tensor) of a function of TensorFlow 2, its variables as constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    taken = _placeholders(function, inputs)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    results = function.structured_outputs
    if not isinstance(results, dict) or len(results) != len(frozen.outputs):
        raise CannotCompileError("outputs that have no names")
    # Both are flattened by their names' order.
    outputs = dict(zip(sorted(results), [one.name for one in frozen.outputs]))
    return frozen.graph.as_graph_def(), taken, outputs


def _placeholders(function: Any, inputs: Sequence[str]) -> Dict[str, str]:
    """Which placeholder is which input: by the attribute that signatures give each, else by name."""
    found = {}
    captured = {id(one) for one in function.graph.internal_captures}
    own = [one for one in function.inputs if id(one) not in captured]
    for tensor in own:
        name = tensor.op.name
        try:
            user_name = tensor.op.get_attr("_user_specified_name").decode()
        except ValueError:
            user_name = name
        wanted = [one for one in inputs if user_name == one or name == one or user_name.endswith("_" + one)]
        if len(inputs) == 1 and len(own) == 1:
            wanted = list(inputs)
        if len(wanted) != 1:
            raise CannotCompileError("inputs whose placeholders have other names")
        found[name] = wanted[0]
    return found


def _node_name(reference: str) -> str:
    return reference.lstrip("^").partition(":")[0]


def _inputs(node: Any) -> List[str]:
    return [one for one in node.input if not one.startswith("^")]


def _check_nhwc(node: Any) -> None:
    layout = node.attr["data_format"].s.decode() if "data_format" in node.attr else ""
    if layout not in ("", "NHWC"):
        raise CannotCompileError(f"{node.op} with the layout {layout}")


def _matmul(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    turned = [node.attr[name].b for name in ("transpose_a", "transpose_b")]
    if turned[0]:
        raise CannotCompileError("a product whose first factor is turned")
    second = inputs[1]
    if turned[1]:
        second = path.builder.constant(path.value(second).T)
    return path.builder.add("MatMul", [inputs[0], second])


def _cast(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("Cast", inputs, to=_type_name(node.attr["DstT"].type))


def _type_name(number: int) -> str:
    import tensorflow

    return str(tensorflow.dtypes.as_dtype(number).name)


def _reshape(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("Reshape", inputs[:1], shape=path.values(inputs[1]))


def _squeeze(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("Squeeze", inputs, axes=[int(one) for one in node.attr["squeeze_dims"].list.i])


def _expand(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("ExpandDims", inputs[:1], axis=path.values(inputs[1])[0])


def _transpose(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("Transpose", inputs[:1], axes=path.values(inputs[1]))


def _concat(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("Concat", inputs[:-1], axis=path.values(inputs[-1])[0])


def _arg_max(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    to = _type_name(node.attr["output_type"].type)
    return path.builder.add("ArgMax", inputs[:1], axis=path.values(inputs[1])[0], to=to)


def _reduced(operator: str) -> "Handler":
    def reduce(path: GraphWalk, node: Any, inputs: List[str]) -> str:
        return path.builder.add(operator, inputs[:1], axes=path.values(inputs[1]), keep=bool(node.attr["keep_dims"].b))

    return reduce


def _relu6(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("Clip", inputs, least=0.0, most=6.0)


def _leaky(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("LeakyRelu", inputs, alpha=float(node.attr["alpha"].f))


def _rsqrt(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    root = path.builder.add("Sqrt", inputs)
    return path.builder.add("Div", [path.builder.constant(_one()), root])


def _one() -> Any:
    import numpy

    return numpy.float32(1)


def _squared_difference(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    return path.builder.add("Square", [path.builder.add("Sub", inputs)])


def _pad(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    borders = path.value(inputs[1]).tolist()
    fill = float(path.value(inputs[2])) if len(inputs) > 2 else 0.0
    return path.builder.add("Pad", inputs[:1], before_after=borders, value=fill)


def _spatial(node: Any, name: str) -> List[int]:
    sizes = [int(one) for one in node.attr[name].list.i]
    if not sizes:
        return [1, 1]
    if sizes[0] != 1 or sizes[3] != 1:
        raise CannotCompileError(f"{node.op} over images or channels")
    return sizes[1:3]


def _padding(node: Any) -> str:
    found: str = node.attr["padding"].s.decode()
    if found not in ("SAME", "VALID"):
        raise CannotCompileError(f"{node.op} with the padding {found}")
    return found


def _conv(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    _check_nhwc(node)
    return path.builder.add(
        "Conv", inputs, strides=_spatial(node, "strides"), padding=_padding(node), dilations=_spatial(node, "dilations")
    )


def _depthwise(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    _check_nhwc(node)
    if _spatial(node, "dilations") != [1, 1]:
        raise CannotCompileError("a dilated depthwise convolution")
    return path.builder.add("DepthwiseConv", inputs, strides=_spatial(node, "strides"), padding=_padding(node))


def _pool(operator: str) -> "Handler":
    def pool(path: GraphWalk, node: Any, inputs: List[str]) -> str:
        _check_nhwc(node)
        return path.builder.add(
            operator, inputs, size=_spatial(node, "ksize"), strides=_spatial(node, "strides"), padding=_padding(node)
        )

    return pool


def _batch_norm(path: GraphWalk, node: Any, inputs: List[str]) -> str:
    """In use, not in training: one factor and one offset a channel."""
    import numpy

    _check_nhwc(node)
    if node.attr["is_training"].b:
        raise CannotCompileError("batch normalisation in training")
    scale, offset, mean, variance = [path.value(one).astype("float64") for one in inputs[1:5]]
    factor = scale / numpy.sqrt(variance + node.attr["epsilon"].f)
    scaled = path.builder.add("Mul", [inputs[0], path.builder.constant(factor.astype("float32"))])
    return path.builder.add("Add", [scaled, path.builder.constant((offset - mean * factor).astype("float32"))])


Handler = Callable[[GraphWalk, Any, List[str]], str]
_HANDLERS: Dict[str, Handler] = {
    "MatMul": _matmul, "Cast": _cast, "Reshape": _reshape, "Squeeze": _squeeze, "ExpandDims": _expand,
    "Transpose": _transpose, "ConcatV2": _concat, "ArgMax": _arg_max, "Mean": _reduced("ReduceMean"),
    "Max": _reduced("ReduceMax"), "Sum": _reduced("ReduceSum"), "Relu6": _relu6, "LeakyRelu": _leaky, "Rsqrt": _rsqrt,
    "SquaredDifference": _squared_difference, "Pad": _pad, "PadV2": _pad, "Conv2D": _conv,
    "DepthwiseConv2dNative": _depthwise, "MaxPool": _pool("MaxPool"), "AvgPool": _pool("AveragePool"),
    "FusedBatchNorm": _batch_norm, "FusedBatchNormV2": _batch_norm, "FusedBatchNormV3": _batch_norm,
}  # fmt: skip
