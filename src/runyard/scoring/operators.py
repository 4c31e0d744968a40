"""The operators of compiled models: each takes its attributes and gives a function of arrays. numpy only."""

from typing import Any, Callable, Dict, List, Optional, Sequence

Array = Any
Function = Callable[..., Array]

OPERATORS: Dict[str, Callable[..., Function]] = {}


def operator(make: Callable[..., Function]) -> Callable[..., Function]:
    """Enter a maker under its own name."""
    OPERATORS[make.__name__] = make
    return make


def _numpy() -> Any:
    import numpy

    return numpy


def _plain(name: str) -> Callable[..., Function]:
    """An operator that is a function of numpy's."""
    return lambda: getattr(_numpy(), name)


for _name, _function in {
    "Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Exp": "exp", "Log": "log", "Sqrt": "sqrt",
    "Neg": "negative", "Abs": "abs", "Tanh": "tanh", "Max": "maximum", "Min": "minimum", "Pow": "power",
    "MatMul": "matmul", "Square": "square",
}.items():  # fmt: skip
    OPERATORS[_name] = _plain(_function)


@operator
def Gemm() -> Function:
    """x @ w + b."""

    def gemm(x: Array, w: Array, b: Array) -> Array:
        made = x @ w
        made += b
        return made

    return gemm


@operator
def Cast(to: str) -> Function:
    """To another type of numbers."""
    return lambda x: x.astype(to)


@operator
def Relu() -> Function:
    """max(x, 0)."""
    maximum = _numpy().maximum
    return lambda x: maximum(x, 0)


@operator
def FusedRelu(most: Optional[float] = None) -> Function:
    """Relu, and Relu6, as TensorFlow has them in one with the product before: what is no number becomes 0."""
    numpy = _numpy()
    if most is None:
        return lambda x: numpy.fmax(x, 0)
    return lambda x: numpy.fmin(numpy.fmax(x, 0), x.dtype.type(most))


@operator
def SomeRows() -> Function:
    """Refuse no row at all."""

    def checked(x: Array) -> Array:
        if not len(x):
            raise ValueError("There is no row.")
        return x

    return checked


@operator
def Clip(least: float, most: float) -> Function:
    """Within bounds."""
    clip = _numpy().clip
    return lambda x: clip(x, x.dtype.type(least), x.dtype.type(most))


@operator
def LeakyRelu(alpha: float) -> Function:
    """x, or alpha x below zero."""
    where = _numpy().where
    return lambda x: where(x > 0, x, x * x.dtype.type(alpha))


@operator
def Elu() -> Function:
    """x, or exp(x) - 1 below zero."""
    numpy = _numpy()
    return lambda x: numpy.where(x > 0, x, numpy.expm1(numpy.minimum(x, 0)))


@operator
def Selu() -> Function:
    """Klambauer et al. 2017, with their constants."""
    numpy = _numpy()
    alpha, scale = 1.6732632423543772, 1.0507009873554805

    def selu(x: Array) -> Array:
        kind = x.dtype.type
        return numpy.where(x > 0, x, kind(alpha) * numpy.expm1(numpy.minimum(x, 0))) * kind(scale)

    return selu


@operator
def Softplus() -> Function:
    """log(1 + exp(x))."""
    numpy = _numpy()
    return lambda x: numpy.logaddexp(x, x.dtype.type(0))


@operator
def Softsign() -> Function:
    """x / (1 + |x|)."""
    return lambda x: x / (1 + abs(x))


@operator
def Sigmoid() -> Function:
    """1 / (1 + exp(-x)), without overflow on either side."""
    numpy = _numpy()

    def sigmoid(x: Array) -> Array:
        small = numpy.exp(-numpy.abs(x))
        return numpy.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)

    return sigmoid


@operator
def Softmax() -> Function:
    """Over the last axis."""
    numpy = _numpy()

    def softmax(x: Array) -> Array:
        made = numpy.exp(x - x.max(axis=-1, keepdims=True))
        made /= made.sum(axis=-1, keepdims=True)
        return made

    return softmax


@operator
def SharesOfLogs() -> Function:
    """Softmax as naive Bayes has it, by the logarithm of the sum: scores too large to tell apart get 1 each."""
    numpy = _numpy()

    def shares(x: Array) -> Array:
        most = x.max(axis=-1, keepdims=True)
        return numpy.exp(x - (most + numpy.log(numpy.exp(x - most).sum(axis=-1, keepdims=True))))

    return shares


@operator
def Normalize(norm: str, least: float = 0.0) -> Function:
    """Each row by its l1, l2 or max norm; rows of zeros stay, and those whose norm is below ``least``."""
    numpy = _numpy()
    sizes: Dict[str, Function] = {
        "l1": lambda x: numpy.abs(x).sum(axis=1, keepdims=True),
        "l2": lambda x: numpy.sqrt((x * x).sum(axis=1, keepdims=True)),
        "max": lambda x: numpy.abs(x).max(axis=1, keepdims=True),
    }
    size = sizes[norm]

    def normalize(x: Array) -> Array:
        found = size(x)
        return x / numpy.where((found == 0) | (found < least), 1, found)

    return normalize


@operator
def Finite(allow_nan: bool) -> Function:
    """Refuse what scikit-learn refuses: values that are no number, or without end, and no row at all."""
    numpy = _numpy()
    is_wrong: Function = numpy.isinf if allow_nan else lambda x: ~numpy.isfinite(x)
    is_finite, total = numpy.isfinite, numpy.add.reduce

    def checked(x: Array) -> Array:
        if not len(x):
            raise ValueError("There is no row.")
        # A sum is finite only where all of it is; large numbers may add up to infinity and be looked at one by one.
        if not is_finite(total(x, axis=None)) and is_wrong(x).any():
            raise ValueError("The input contains NaN or infinity." if not allow_nan else "The input contains infinity.")
        return x

    return checked


@operator
def Impute() -> Function:
    """Where a value is no number, the column's own."""
    numpy = _numpy()
    return lambda x, values: numpy.where(numpy.isnan(x), values, x)


@operator
def Columns(indices: List[int]) -> Function:
    """Some of the columns."""
    taken = _numpy().array(indices, dtype="int64")
    return lambda x: x[:, taken]


@operator
def Labels(classes: List[Any], dtype: str) -> Function:
    """The class with the highest score in each row; the first of equal ones."""
    names = _numpy().array(classes, dtype=dtype)
    return lambda x: names[x.argmax(axis=1)]


@operator
def SignLabels(classes: List[Any], dtype: str) -> Function:
    """The second of two classes where the one score is above zero."""
    names = _numpy().array(classes, dtype=dtype)
    return lambda x: names[(x.reshape(-1) > 0).astype("int64")]


@operator
def BothSides() -> Function:
    """The probability of one class as those of two."""
    numpy = _numpy()

    def both(x: Array) -> Array:
        column = x.reshape(-1, 1)
        return numpy.concatenate([1 - column, column], axis=1)

    return both


@operator
def SumToOne() -> Function:
    """Each row by its sum; rows of zeros become equal shares, as one-against-rest has it."""
    numpy = _numpy()

    def share(x: Array) -> Array:
        total = x.sum(axis=1, keepdims=True)
        return numpy.where(total == 0, 1 / x.shape[1], x / numpy.where(total == 0, 1, total))

    return share


@operator
def Reshape(shape: List[int]) -> Function:
    """Rows stay rows; -1 where a size follows from the others."""
    sizes = tuple(shape)
    return lambda x: x.reshape(sizes)


@operator
def Squeeze(axes: List[int]) -> Function:
    """Without axes of length one."""
    return lambda x: x.squeeze(axis=tuple(axes) or None)


@operator
def ExpandDims(axis: int) -> Function:
    """With one more axis of length one."""
    expand = _numpy().expand_dims
    return lambda x: expand(x, axis)


@operator
def Transpose(axes: List[int]) -> Function:
    """Axes in another order."""
    return lambda x: x.transpose(axes)


@operator
def Concat(axis: int) -> Function:
    """One after the other."""
    concatenate = _numpy().concatenate
    return lambda *parts: concatenate(parts, axis=axis)


@operator
def ArgMax(axis: int, to: str = "int64") -> Function:
    """Where the highest value is."""
    return lambda x: x.argmax(axis=axis).astype(to)


@operator
def ReduceMean(axes: List[int], keep: bool) -> Function:
    """The mean over axes."""
    return lambda x: x.mean(axis=tuple(axes), keepdims=keep)


@operator
def ReduceMax(axes: List[int], keep: bool) -> Function:
    """The highest over axes."""
    return lambda x: x.max(axis=tuple(axes), keepdims=keep)


@operator
def ReduceSum(axes: List[int], keep: bool) -> Function:
    """The sum over axes."""
    return lambda x: x.sum(axis=tuple(axes), keepdims=keep)


@operator
def Pad(before_after: List[List[int]], value: float = 0.0) -> Function:
    """With a border of one value."""
    pad = _numpy().pad
    return lambda x: pad(x, before_after, constant_values=value)


@operator
def Conv(strides: Sequence[int], padding: str, dilations: Sequence[int] = (1, 1)) -> Function:
    """TensorFlow's Conv2D: x is NHWC, w is HWIO."""
    numpy = _numpy()

    def conv(x: Array, w: Array) -> Array:
        windows = _windows(x, w.shape[:2], strides, padding, 0.0, dilations)
        height, width = w.shape[0], w.shape[1]
        flat = numpy.ascontiguousarray(windows.transpose(0, 1, 2, 4, 5, 3))
        rows = flat.reshape(-1, height * width * x.shape[3])
        return (rows @ w.reshape(-1, w.shape[3])).reshape(*windows.shape[:3], w.shape[3])

    return conv


@operator
def DepthwiseConv(strides: Sequence[int], padding: str) -> Function:
    """TensorFlow's DepthwiseConv2dNative: each channel by its own kernels."""
    numpy = _numpy()

    def conv(x: Array, w: Array) -> Array:
        windows = _windows(x, w.shape[:2], strides, padding, 0.0)
        made = numpy.einsum("bijchw,hwcm->bijcm", windows, w, optimize=True)
        return made.reshape(*made.shape[:3], made.shape[3] * made.shape[4]).astype(x.dtype)

    return conv


@operator
def MaxPool(size: Sequence[int], strides: Sequence[int], padding: str) -> Function:
    """The highest value of each window."""
    return lambda x: _windows(x, size, strides, padding, -_numpy().inf).max(axis=(4, 5))


@operator
def AveragePool(size: Sequence[int], strides: Sequence[int], padding: str) -> Function:
    """The mean of each window's values, padding left out."""
    numpy = _numpy()

    def pool(x: Array) -> Array:
        count = _windows(numpy.ones_like(x[:1]), size, strides, padding, 0.0).sum(axis=(4, 5))
        return _windows(x, size, strides, padding, 0.0).sum(axis=(4, 5)) / count

    return pool


def _windows(
    x: Array, size: Sequence[int], strides: Sequence[int], padding: str, fill: float, dilations: Sequence[int] = (1, 1)
) -> Array:
    """A view of windows: batch, rows, columns, channels, height, width."""
    numpy = _numpy()
    reach = [(size[axis] - 1) * dilations[axis] + 1 for axis in (0, 1)]
    if padding == "SAME":
        borders = []
        for axis in (0, 1):
            length = x.shape[axis + 1]
            total = max((-(-length // strides[axis]) - 1) * strides[axis] + reach[axis] - length, 0)
            borders.append((total // 2, total - total // 2))
        x = numpy.pad(x, ((0, 0), borders[0], borders[1], (0, 0)), constant_values=fill)
    found = numpy.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    return found[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]


@operator
def Trees(depth: int, aggregate: str, scale: float = 1.0) -> Function:
    """Decision trees side by side: all rows go down all trees at once, a level a step.

    Constants: ``roots`` (trees), and per node feature, threshold, left, right (a leaf is its own child), whether what
    is no number goes left, and ``values`` (nodes x outputs). Aggregates: mean or sum over the trees.
    """
    numpy = _numpy()

    def walk(
        x: Array,
        roots: Array,
        feature: Array,
        threshold: Array,
        left: Array,
        right: Array,
        nan_left: Array,
        values: Array,
    ) -> Array:
        # scikit-learn compares float32 with its thresholds, and refuses what float32 cannot hold.
        with numpy.errstate(over="ignore"):
            x = x.astype("float32")
        if numpy.isinf(x).any():
            raise ValueError("The input contains infinity or a value too large for float32.")
        rows = numpy.arange(len(x))[:, None]
        at = numpy.broadcast_to(roots, (len(x), len(roots)))
        has_nan = numpy.isnan(x).any()
        for _ in range(depth):
            column = x[rows, feature[at]]
            goes_left = column <= threshold[at]
            if has_nan:
                goes_left |= numpy.isnan(column) & nan_left[at]
            at = numpy.where(goes_left, left[at], right[at])
        found = values[at].sum(axis=1)
        return found / len(roots) if aggregate == "mean" else found * scale

    return walk


@operator
def Distances() -> Function:
    """Squared distances of each row to each centre."""
    return lambda x, centres: ((x[:, None, :] - centres[None]) ** 2).sum(axis=2)


@operator
def Gaussians() -> Function:
    """Log densities of each row by class: GaussianNB's joint log likelihood."""
    numpy = _numpy()

    def joint(x: Array, means: Array, variances: Array, priors: Array) -> Array:
        constant = priors - 0.5 * numpy.log(2.0 * numpy.pi * variances).sum(axis=1)
        return constant - 0.5 * (((x[:, None, :] - means[None]) ** 2) / variances[None]).sum(axis=2)

    return joint
