"""What each operation of a trace becomes in a program.

Nothing here knows an architecture: what is not one of a few dozen operations, or depends on numbers in another way, is
refused. Whoever uses a program compares it with the model's own forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from counterpoint.models.kernels.products import KINDS, described
from counterpoint.models.kernels.step import MOST_DIMENSIONS, Instruction, Operand
from counterpoint.models.recorded.layout import Layout, NotRecordable, collapsed, rows_dim, storage_of
from counterpoint.models.recorded.lower import Lowered, Lowering, Pair, Place
from counterpoint.models.recorded.trace import Call, Trace

UNARY = {
    "neg": "NEG", "abs": "ABS", "exp": "EXP", "log": "LOG", "sqrt": "SQRT", "rsqrt": "RSQRT", "reciprocal": "RECIPROCAL",
    "sin": "SIN", "cos": "COS", "tanh": "TANH", "erf": "ERF", "sigmoid": "SIGMOID", "silu": "SILU", "relu": "RELU",
    "_to_copy": "COPY", "clone": "COPY",
}  # fmt: skip
BINARY = {
    "add": "ADD", "sub": "SUB", "mul": "MUL", "div": "DIV", "pow": "POW", "maximum": "MAXIMUM", "minimum": "MINIMUM",
}  # fmt: skip
REDUCED = {"mean": "MEAN", "sum": "SUM", "amax": "AMAX"}
LIKE = {"zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}


def lowered(first: Trace, second: Trace) -> Lowered:
    """The program of two traces of the same model.

    Raises:
        NotRecordable: the forward is not made of what a program can do.
    """
    lowering, place = _Operations(first, second), ""
    for own, other in zip(first.calls, second.calls):
        try:
            lowering.take(own, other)
        except NotRecordable as error:
            raise NotRecordable(f"{own.place}: {error}") from None
        place = own.place
    if len(first.calls) != len(second.calls):
        raise NotRecordable(f"{place}: it does other things with more rows")
    return lowering.finished()


class _Operations(Lowering):
    # What a call does

    def take(self, own: Call, other: Call) -> None:
        """Add what a call does, as both traces have it."""
        if own.name != other.name or len(own.outs) != len(other.outs):
            raise NotRecordable("it does other things with more rows")
        given = [x for value in own.arguments.values() for x in _tensors(value)]
        live = any(self._is_live(x) for x in given)
        if own.is_changing:
            if not self._is_live(given[0]):
                if live:
                    raise NotRecordable("a constant is changed")
                return
        elif not live or (own.outs and all(storage_of(x) in {storage_of(y) for y in given} for x in own.outs)):
            return  # constant, or views
        plain = own.name.removeprefix("counterpoint::")
        plain = plain.rstrip("_") if own.is_changing else plain
        arguments = {name: (value, other.arguments.get(name)) for name, value in own.arguments.items()}
        if plain == "keep":
            return self._keep(own, arguments)
        if not own.outs:
            raise NotRecordable(f"it looks at numbers ({own.name})")
        out, handler = (own.outs[0], other.outs[0]), getattr(self, f"_{plain}", None)
        if not own.is_changing:
            self._check(out, given)
        if plain in UNARY:
            self._emit(UNARY[plain], out, [arguments.get("self") or arguments["input"]])
        elif plain in BINARY:
            self._binary(plain, out, arguments)
        elif plain in REDUCED:
            self._reduce(REDUCED[plain], out, arguments)
        elif plain in LIKE:
            self._emit("COPY", out, [(self._scalar(LIKE[plain]),) * 2])
        elif handler is not None:
            handler(out, arguments)
        else:
            raise NotRecordable(f"it uses {own.name}, which recorded steps have not")

    def _binary(self, name: str, out: Pair, arguments: dict[str, tuple]) -> None:
        if arguments.get("rounding_mode", (None,))[0] is not None:
            raise NotRecordable("it divides to whole numbers")
        own, other = arguments["self"], arguments["other" if "other" in arguments else "exponent"]
        if name == "pow" and not isinstance(other[0], Tensor):
            return self._power(out, own, other[0])
        pairs = [x if isinstance(x[0], Tensor) else (self._scalar(self._same(x)),) * 2 for x in (own, other)]
        self._emit(BINARY[name], out, pairs, numbers=(float(self._same(arguments.get("alpha", (1, 1)))),))

    def _power(self, out: Pair, base: Pair, exponent: float) -> None:
        if exponent == 2:
            return self._emit("MUL", out, [base, base])
        if exponent in (0.5, -0.5):
            return self._emit("SQRT" if exponent > 0 else "RSQRT", out, [base])
        self._emit("POW", out, [base, (self._scalar(exponent),) * 2])

    @staticmethod
    def _same(values: tuple) -> Any:
        if values[0] != values[1]:
            raise NotRecordable("a number depends on the tokens")
        return values[0]

    def _rsub(self, out: Pair, arguments: dict[str, tuple]) -> None:
        other = arguments["other"]
        minuend = other if isinstance(other[0], Tensor) else (self._scalar(self._same(other)),) * 2
        self._emit("SUB", out, [minuend, arguments["self"]], numbers=(float(arguments.get("alpha", (1, 1))[0]),))

    def _copy(self, out: Pair, arguments: dict[str, tuple]) -> None:
        self._emit("COPY", out, [arguments["src"]])

    def _clamp(self, out: Pair, arguments: dict[str, tuple]) -> None:
        least, most = (self._same(arguments.get(name, (None, None))) for name in ("min", "max"))
        bounds = (float("-inf") if least is None else float(least), float("inf") if most is None else float(most))
        self._emit("CLAMP", out, [arguments["self"]], numbers=bounds)

    def _gelu(self, out: Pair, arguments: dict[str, tuple]) -> None:
        is_tanh = self._same(arguments.get("approximate", ("none", "none"))) == "tanh"
        self._emit("GELU_TANH" if is_tanh else "GELU", out, [arguments["self"]])

    def _softplus(self, out: Pair, arguments: dict[str, tuple]) -> None:
        if arguments.get("beta", (1,))[0] != 1 or arguments.get("threshold", (20,))[0] != 20:
            raise NotRecordable("it uses softplus of another kind")
        self._emit("SOFTPLUS", out, [arguments["self"]])

    def _reduce(self, name: str, out: Pair, arguments: dict[str, tuple]) -> None:
        own, dims = arguments["self"], self._same(arguments.get("dim", (None, None)))
        dims = [] if dims is None else [d % own[0].dim() for d in ([dims] if isinstance(dims, int) else dims)]
        read, keeps = self._layout(own), self._same(arguments.get("keepdim", (False, False)))
        row = rows_dim(*own, self._rows)
        if len(dims) != 1 or dims[0] == row:
            raise NotRecordable(f"it reduces along {len(dims)} dimensions, or the rows")
        shown = out if keeps else tuple(x.unsqueeze(dims[0]) for x in out)
        made = self._layout(shown)
        rest = [d for d in range(own[0].dim()) if d != dims[0]]
        outer = [Layout(x.at, tuple(x.sizes[d] for d in rest), tuple(x.strides[d] for d in rest)) for x in (read, made)]
        sizes, (in_strides, out_strides) = collapsed(outer, MOST_DIMENSIONS - 1)
        self._append(
            name, (*sizes, read.sizes[dims[0]]), [(*out_strides, 0), (*in_strides, read.strides[dims[0]])],
            [made, read], [storage_of(out[0]), storage_of(own[0])], [None, None], out[0].dtype is torch.bfloat16,
        )  # fmt: skip

    def _native_layer_norm(self, out: Pair, arguments: dict[str, tuple]) -> None:
        if len(self._same(arguments["normalized_shape"])) != 1:
            raise NotRecordable("it normalises over several dimensions")
        pairs = [arguments["input"], *(arguments.get(name, (None, None)) for name in ("weight", "bias"))]
        read = [None if x[0] is None else self._operand(x, out) for x in pairs]
        layouts = [self._layout(out), *(x[0] for x in read if x is not None)]
        last = [Layout(x.at, (*x.sizes[:-1], 1), x.strides) for x in layouts]
        sizes, strides = collapsed(last, MOST_DIMENSIONS - 1)
        strides = [(*own, layout.strides[-1]) for own, layout in zip(strides, layouts)]
        given = iter(zip(strides[1:], (x for x in read if x is not None)))
        operands, storages = [], []
        for x in read:
            own, (layout, storage, constant) = next(given) if x is not None else ((), (Layout(-1, (), ()), None, None))
            operands.append(Operand(layout.at, own, constant))
            storages.append(storage)
        target = Operand(layouts[0].at, strides[0])
        size = layouts[0].sizes[-1]
        made = Instruction("LAYER_NORM", (*sizes, size), target, tuple(operands), out[0].dtype is torch.bfloat16,
                           numbers=(float(arguments["eps"][0]),))  # fmt: skip
        self.made.instructions.append((made, (storage_of(out[0]), *storages)))

    def _cat(self, out: Pair, arguments: dict[str, tuple]) -> None:
        dim, at = self._same(arguments.get("dim", (0, 0))) % out[0].dim(), 0
        for own, other in zip(*arguments["tensors"]):
            size = own.shape[dim]
            if own.dim() == out[0].dim() and size:
                parts = out[0].narrow(dim, at, size), out[1].narrow(dim, at, size)
                if size != other.shape[dim]:
                    raise NotRecordable("rows are joined")
                self._emit("COPY", parts, [(own, other)])
            at += size

    def _stack(self, out: Pair, arguments: dict[str, tuple]) -> None:
        dim = self._same(arguments.get("dim", (0, 0))) % out[0].dim()
        for i, pair in enumerate(zip(*arguments["tensors"])):
            self._emit("COPY", (out[0].select(dim, i), out[1].select(dim, i)), [pair])

    def _bmm(self, out: Pair, arguments: dict[str, tuple]) -> None:
        if arguments["self"][0].shape[-1] != 1:
            raise NotRecordable("it multiplies numbers of the tokens with each other")
        self._emit("MUL", out, [arguments["self"], arguments["mat2"]])

    def _embedding(self, out: Pair, arguments: dict[str, tuple]) -> None:
        weight = arguments["weight"][0]
        if weight.dtype not in (torch.float32, torch.bfloat16) or not weight.is_contiguous():
            raise NotRecordable("a table lies otherwise")
        self._embed("EMBED", out, arguments["indices"], weight, int(weight.dtype is torch.bfloat16), weight.shape[1])

    def _embed(self, name: str, out: Pair, ids: Pair, weight: Tensor, kind: int, size: int) -> None:
        made, read = self._layout(out), self._layout(ids)
        sizes, (strides,) = collapsed([made], 1)
        if sizes != (size,) or strides != (1,) or self._is_live(weight):
            raise NotRecordable("a table is read otherwise")
        self.made.kept.append(weight)
        self._append(
            name, (), [(), ()], [made, read], [storage_of(out[0]), storage_of(ids[0])], [None, None],
            more=(weight.data_ptr(), kind, size, len(weight)),
        )  # fmt: skip

    def _block_weights(self, out: Pair, arguments: dict[str, tuple]) -> None:
        kind = KINDS[arguments["kind"][0]]
        self._embed("EMBED_BLOCKS", out, arguments["rows"], arguments["weight"][0], kind, out[0].shape[-1])

    # Products

    def _few_rows(self, out: Pair, arguments: dict[str, tuple]) -> None:
        weight = arguments["weight"][0]
        self._product(out, arguments["states"], weight.dtype, weight, None, arguments.get("bias", (None,))[0])

    def _blocks(self, out: Pair, arguments: dict[str, tuple]) -> None:
        scale, bias = (arguments.get(name, (None,))[0] for name in ("scale", "bias"))
        self._product(out, arguments["states"], arguments["kind"][0], arguments["weight"][0], scale, bias)

    def _mm(self, out: Pair, arguments: dict[str, tuple]) -> None:
        self._product(out, arguments["self"], arguments["mat2"][0].dtype, arguments["mat2"][0].t(), None, None)

    def _addmm(self, out: Pair, arguments: dict[str, tuple]) -> None:
        if any(arguments.get(name, (1,))[0] != 1 for name in ("beta", "alpha")):
            raise NotRecordable("it uses addmm of another kind")
        weight = arguments["mat2"][0]
        self._product(out, arguments["mat1"], weight.dtype, weight.t(), None, arguments["self"][0])

    def _product(
        self, out: Pair, states: Pair, kind: Any, weight: Tensor, scale: Tensor | None, bias: Tensor | None
    ) -> None:
        made, read = self._layout(out), self._layout(states)
        (num_out, *_), _ = sizes = collapsed([made], 1)
        in_sizes = collapsed([read], 1)
        if sizes[1] != [(1,)] or in_sizes[1] != [(1,)] or self._is_live(weight) or not weight.is_contiguous():
            raise NotRecordable("a product is of another kind")
        if isinstance(kind, torch.dtype) and (
            kind not in (torch.float32, torch.bfloat16) or kind is not states[0].dtype
        ):
            raise NotRecordable(f"a weight is of {kind}")
        wide = None if bias is None else bias.float().contiguous()
        shape = (num_out, in_sizes[0][0])
        self.made.kept += [x for x in (weight, scale, wide) if x is not None]
        self.made.products.append(described(kind, states[0].dtype, shape, weight, scale, wide))
        self._append(
            "PRODUCT", (num_out, shape[1]), [(1,), (1,)], [made, read], [storage_of(out[0]), storage_of(states[0])],
            [None, None], more=(len(self.made.products) - 1,),
        )  # fmt: skip

    # Attention

    def _keep(self, call: Call, arguments: dict[str, tuple]) -> None:
        layer, pairs = arguments["layer"][0], [arguments["key"], arguments["value"]]
        layouts = [self._layout(x) for x in pairs]
        if layer in self.made.layers or any(x[0].dim() != 4 or x[0].shape[2] != 1 for x in pairs):
            raise NotRecordable("a layer keeps something of another kind")
        self.made.layers[layer] = tuple(x[0] for x in pairs)
        strides = [(x.strides[1], x.strides[3]) for x in layouts]
        nowhere = Layout(-1, (), ())
        self._append(
            "KEEP", (), [(), *strides], [nowhere, *layouts], [None, *(storage_of(x[0]) for x in pairs)], [None] * 3,
            more=(layer,),
        )  # fmt: skip
        for role, tensor in zip(("keys", "values"), call.outs):
            self.made.places[storage_of(tensor)] = Place(0, role, layer)

    def _few_queries(self, out: Pair, arguments: dict[str, tuple]) -> None:
        key, value, mask = (self.made.places.get(storage_of(arguments[name][0])) for name in ("key", "value", "mask"))
        if key is None or value is None or mask is None:
            raise NotRecordable("it attends otherwise")
        roles = [x.role for x in (key, value, mask)]
        shapes = [arguments[name][0].shape for name in ("key", "value", "mask")]
        reach = self._first.reach
        if (
            roles != ["keys", "values", "mask"]
            or key.which != value.which
            or [shape[2] for shape in shapes[:2]] != [reach] * 2
            or shapes[0] != (self._rows[0], self.made.layers[key.which][0].shape[1], reach, shapes[0][3])
            or tuple(shapes[2]) != (self._rows[0], 1, 1, reach)
            or any(arguments[name][0].storage_offset() for name in ("key", "value", "mask"))
        ):
            raise NotRecordable("it attends otherwise")
        asked, made = self._layout(arguments["query"]), self._layout(out)
        num_heads, size, value_size = asked.sizes[1], asked.sizes[3], made.sizes[3]
        self._append(
            "ASK", (num_heads, size), [(), (asked.strides[1], asked.strides[3])], [Layout(-1, (), ()), asked],
            [None, storage_of(arguments["query"][0])], [None, None],
        )  # fmt: skip
        scaling = float(self._same(arguments["scaling"]))
        attends = Instruction(
            "ATTEND", (num_heads, size), numbers=(scaling,), more=(key.which, self.made.kinds.index(mask.which))
        )
        self.made.instructions.append((attends, ()))
        self._append(
            "TAKE", (num_heads, value_size), [(made.strides[2], made.strides[3])], [made], [storage_of(out[0])], [None]
        )

    def finished(self) -> Lowered:
        """The whole, once every call is taken."""
        logits = self._first.logits, self._second.logits
        if not self._is_live(logits[0]):
            raise NotRecordable("logits don't depend on the tokens")
        self.made.logits = self._layout(logits), storage_of(logits[0])
        return self.made


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [x for x in value if isinstance(x, Tensor)] if isinstance(value, (list, tuple)) else []
