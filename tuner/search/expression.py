"""Expressions over parameters: numbers, names, arithmetic, comparisons, and/or/not, `a if b else c`. Nothing else.

They come from users, so they are parsed into a tree of allowed nodes and walked over numpy columns: never `eval`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from controlplane.catalog.loader import unknown
from controlplane.model.errors import InvalidSpec

Column = npt.NDArray[Any]

MAX_NODES = 128
# Larger constants are a slip of the keyboard, and whole numbers beyond floats could not be computed with.
MAX_NUMBER = 1e300
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CALLS: dict[str, Callable[..., Any]] = {"min": np.minimum, "max": np.maximum}


class Formula(Protocol):
    """What gives each row a value: an expression, or something that code knows. `names`: the parameters it speaks about."""

    @property
    def text(self) -> str: ...

    @property
    def names(self) -> frozenset[str]: ...

    def over(self, columns: Mapping[str, Column]) -> Column:
        """Its value for each row."""
        ...


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. `names` are the parameters it speaks about."""

    text: str
    names: frozenset[str]
    _tree: ast.expr

    def over(self, columns: Mapping[str, Column]) -> Column:
        """Its value for each row. Columns of one length; a division by zero gives inf or nan, never an error."""
        length = len(next(iter(columns.values()))) if columns else 1
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(_walk(self._tree, columns)), (length,))


def parse(text: str, known: frozenset[str], *, field: str) -> Expression:
    """Raises InvalidSpec at `field` for syntax or a node that is not allowed, UnknownName for a name."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidSpec("not an expression", field=field, value=text, limit="like 'a * b <= 8'") from error
    nodes = list(ast.walk(tree))
    if len(nodes) > MAX_NODES:
        raise InvalidSpec(f"{len(nodes)} parts", field=field, value=text, limit=f"at most {MAX_NODES}")
    names: set[str] = set()
    calls = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        _check(node, text, field)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not abs(node.value) <= MAX_NUMBER:
            raise InvalidSpec("a number too large", field=field, value=text, limit=f"up to {MAX_NUMBER:g}")
        if isinstance(node, ast.Name) and id(node) not in calls:
            names.add(node.id)
    for name in sorted(names - known):
        raise unknown("parameter", name, known, field=field)
    return Expression(text, frozenset(names), tree)


def _check(node: ast.AST, text: str, field: str) -> None:
    allowed = (
        isinstance(node, ast.Name | ast.Load | ast.And | ast.Or | ast.Not | ast.USub | ast.IfExp | ast.BoolOp)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub))
        or (isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str))
        or (isinstance(node, ast.BinOp) and type(node.op) in _BINARY)
        or (isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops))
        or isinstance(node, tuple(_BINARY) + tuple(_COMPARE))
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _CALLS
            and len(node.args) == 2
            and not node.keywords
        )
    )
    if not allowed:
        raise InvalidSpec(
            f"{type(node).__name__} is not allowed",
            field=field,
            value=text,
            limit="numbers, names, + - * / // %, comparisons, and, or, not, 'a if b else c', min(a, b), max(a, b)",
        )


def _walk(node: ast.expr, columns: Mapping[str, Column]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return columns[name]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return np.logical_not(_truth(_walk(operand, columns)))
        case ast.UnaryOp(operand=operand):
            return -_number(_walk(operand, columns))
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_number(_walk(left, columns)), _number(_walk(right, columns)))
        case ast.BoolOp(op=op, values=values):
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            parts = [_truth(_walk(value, columns)) for value in values]
            out = parts[0]
            for part in parts[1:]:
                out = join(out, part)
            return out
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            value, truth = _walk(left, columns), np.asarray(True)
            for comparison, comparator in zip(ops, comparators, strict=True):
                other = _walk(comparator, columns)
                truth = np.logical_and(truth, _COMPARE[type(comparison)](value, other))
                value = other
            return truth
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return np.where(_truth(_walk(test, columns)), _walk(body, columns), _walk(orelse, columns))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _CALLS[name](*(_number(_walk(arg, columns)) for arg in args))
    raise AssertionError(type(node).__name__)  # `parse` let nothing else through


def _truth(value: Any) -> Any:
    return np.asarray(value).astype(bool)


def _number(value: Any) -> Any:
    """Python ints have no size: in floats a product can overflow to inf but never fill the memory. A word is no number:
    with `*` or `%` it could."""
    if isinstance(value, str):
        raise TypeError("a word where a number is needed")
    return np.asarray(value, np.float64)
