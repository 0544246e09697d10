"""The work of a GPU for a program that XLA compiled: kernels, bytes and arithmetic, from HLO.

Bytes are those that a kernel must read and write if nothing stays in a cache. A fused kernel reads
only the elements of each operand that its result depends on, once each.
"""

import collections
import dataclasses
import json
import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "token": 0}
NOT_LAUNCHED = {"parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all"}
NOT_LAUNCHED |= {"copy-done", "async-done", "partition-id", "replica-id"}
READ_WHOLE = {"dot", "convolution", "sort", "fusion", "call", "reduce-window", "tuple"}
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # in place; which operand is written

ARITHMETIC = {"add", "subtract", "multiply", "compare", "select", "convert", "minimum", "maximum"}
ARITHMETIC |= {"negate", "abs", "and", "or", "xor", "shift-left", "shift-right-logical"}
HARD = {"exponential", "exponential-minus-one", "log", "log-plus-one", "tanh", "erf", "rsqrt"}
HARD |= {"sqrt", "divide", "power", "logistic"}
HARD_COST = 8  # simple operations
RANDOM_XORS = 20  # a fusion with more xors draws random numbers: a round of Philox has two

COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass
class Instruction:
    """One line of a computation."""

    name: str
    op: str
    arrays: list[tuple[str, list[int]]]  # type and dimensions of the result, or of its parts
    operands: list[str]
    text: str  # of the operands and the attributes
    is_root: bool

    @property
    def elements(self) -> int:
        """Elements of the result."""
        return sum(math.prod(dims) for _, dims in self.arrays)

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(BYTES[dtype] * math.prod(dims) for dtype, dims in self.arrays)

    def attribute(self, pattern: str, default: str = "") -> str:
        """The first group of a regular expression in the attributes."""
        found = re.search(pattern, self.text)
        return found[1] if found else default

    @property
    def called(self) -> str:
        """The computation that a fusion or call runs."""
        return self.attribute(r"(?:calls|to_apply)=%?([\w.\-]+)")


@dataclasses.dataclass
class Kernel:
    """One launch. `products` counts operations of matrix products and convolutions."""

    name: str
    kind: str
    path: str  # of the operation in the model
    bytes: float
    products: float = 0
    integers: float = 0  # operations on integers
    floats: float = 0  # other operations, each counted as a number of simple ones


class Program:
    """Computations by name; `entry` is the name of the computation that runs."""

    def __init__(self, text: str):
        self.computations, self.entry, current = {}, "", {}
        for line in text.splitlines():
            if found := COMPUTATION.match(line):
                current = self.computations[found[2]] = {}
                self.entry = found[2] if found[1] else self.entry
            elif found := INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line)):
                root, name, shape, op, operands, attributes = found.groups()
                arrays = [
                    (dtype, [int(size) for size in dims.split(",") if size])
                    for dtype, dims in ARRAY.findall(shape)
                    if dtype in BYTES
                ]
                names = re.findall(r"%([\w.\-]+)", operands)
                text = f"{operands}) {attributes}"
                current[name] = Instruction(name, op, arrays, names, text, bool(root))

    def kernels(self, computation: str = "") -> list[Kernel]:
        """The kernels that a computation launches, in order; a loop's body counts for every run."""
        scope, found = self.computations[computation or self.entry], []
        for x in scope.values():
            if x.op == "while":
                count = int(x.attribute(r'"known_trip_count":\{"n":"(\d+)"', "1"))
                found += count * self.kernels(x.attribute(r"body=%?([\w.\-]+)"))
            elif x.op == "conditional":
                branches = re.findall(r"%([\w.\-]+)", x.attribute(r"computations?=(\{?%[^}]*)"))
                found += max(map(self.kernels, branches), key=len)
            elif x.op == "call":
                found += self.kernels(x.called)
            elif x.op not in NOT_LAUNCHED:
                found.append(self._kernel(x, scope))
        return found

    def _kernel(self, x, scope):
        kernel = Kernel(x.name, "", x.attribute(r'op_name="([^"]*)"'), 0)
        kernel.products = self._products(x, scope)
        if x.op == "fusion":
            self._add_fused(kernel, self.computations[x.called])
        else:
            written = BYTES[x.arrays[0][0]] * math.prod(x.arrays[0][1])  # the rest is workspace
            kernel.bytes = written + sum(scope[name].bytes for name in x.operands)
        kernel.kind = self._kind(x, kernel)
        return kernel

    def _products(self, x, scope):
        """Operations of the matrix products and convolutions of an instruction."""
        if x.op == "fusion":
            inner = self.computations[x.called]
            return sum(self._products(y, inner) for y in inner.values())
        target = x.attribute(r'custom_call_target="([^"]*)"')
        if x.op == "convolution" or "cudnn$conv" in target:  # each input channel has its filters
            sizes = [math.prod(x.arrays[0][1]), *(scope[name].elements for name in x.operands[:2])]
            groups = int(x.attribute(r"(?:feature|batch)_group_count=(\d+)", "1"))
            return 2 * min(sizes) * max(sizes) / groups
        if x.op == "dot":
            axes = x.attribute(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
        elif "cublas" in target:
            axes = json.loads(x.attribute(r'"lhs_contracting_dimensions":(\[[^\]]*\])'))
        else:
            return 0
        ((_, dims),) = scope[x.operands[0]].arrays
        return 2 * math.prod(x.arrays[0][1]) * math.prod(dims[int(axis)] for axis in axes if axis)

    def _add_fused(self, kernel, scope):
        """Adds the bytes and the arithmetic of a fused kernel."""
        for name, count in needed(scope).items():
            x = scope[name]
            if x.op == "parameter":
                kernel.bytes += count * x.bytes / max(x.elements, 1)
            elif x.op == "reduce":
                kernel.floats += scope[x.operands[0]].elements * count / x.elements
            elif x.op in HARD:
                kernel.floats += HARD_COST * count
            elif x.op in ARITHMETIC and x.arrays[0][0][0] in "sup":  # signed, unsigned, predicate
                kernel.integers += count
            elif x.op in ARITHMETIC:
                kernel.floats += count
            if x.is_root:
                written = scope[x.operands[UPDATES[x.op]]] if x.op in UPDATES else x
                kernel.bytes += written.bytes

    def _kind(self, x, kernel):
        ops = self._operations(x)
        if "conv" in x.attribute(r'custom_call_target="([^"]*)"') or ops["convolution"]:
            return "convolutions"
        if kernel.products:
            return "matrix products"
        if "adam" in kernel.path:
            return "optimizer"
        for op, kind in KINDS.items():
            if ops[op]:
                return kind
        if x.op.startswith("copy"):
            return "copies"
        if ops["xor"] > RANDOM_XORS:
            return "random numbers"
        moves = {op for op in ops if op not in NOT_LAUNCHED} - {"broadcast", "iota"}
        if moves <= {"convert"}:
            return "casts"
        return "slices and pads" if moves <= SLICES_AND_PADS else "element-wise"

    def _operations(self, x) -> collections.Counter:
        """How often each operation occurs in an instruction."""
        if x.op != "fusion":
            return collections.Counter([x.op])
        inner = self.computations[x.called].values()
        return sum(map(self._operations, inner), collections.Counter())


SLICES_AND_PADS = {"slice", "pad", "copy", "dynamic-slice", "dynamic-update-slice"}
KINDS = {
    "scatter": "scatters and sorts",
    "sort": "scatters and sorts",
    "reduce": "reductions",
    "concatenate": "concatenations",
    "transpose": "transposes",
}


def needed(scope: dict[str, Instruction]) -> dict[str, float]:
    """How many elements of each instruction in a fusion the fusion's result depends on."""
    counts = collections.Counter({x.name: x.elements for x in scope.values() if x.is_root})
    for x in reversed(scope.values()):
        count = counts[x.name] = min(counts[x.name], x.elements)
        for i, name in enumerate(x.operands):
            size = scope[name].elements
            if x.op in READ_WHOLE:
                counts[name] += size
            elif x.op in UPDATES:
                counts[name] += size if i or not x.is_root else 0
            elif x.op in ("reduce", "concatenate"):
                counts[name] += size * count / max(x.elements, 1)
            else:
                counts[name] += min(count, size)
    return counts
