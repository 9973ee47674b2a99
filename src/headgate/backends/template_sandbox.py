"""Jinja for code that nobody here has read: what a template may do is bounded in steps, characters and seconds.

Jinja's own sandbox keeps a template from reaching out, not from running or growing without end, and Python code in a
thread cannot be stopped from outside. So the work is counted inside: each loop, call, operator, literal and output of a
template passes through this environment, which takes it from the rendering's budget. Filters and methods whose result
can be much larger than what they are given are left out, or weighed first.
"""

from collections.abc import Callable, Sized
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from headgate.backends.template_budget import BUDGET, Budget, Overrun, budget_of
from headgate.backends.template_filters import AT_ONCE, FILTERS, formatted, size

_MAX_BITS = 4096
"""Of a number: products and powers could go on without end."""
_HIDDEN = ("_loop_vars", "_block_vars")
"""What Jinja's own code passes on with calls."""
_OF_STRINGS = """
    strip lstrip rstrip split rsplit splitlines startswith endswith upper lower title capitalize swapcase casefold find
    rfind index rindex count removeprefix removesuffix partition rpartition replace join isdigit isalpha isalnum isspace
    isupper islower isnumeric isdecimal isidentifier isascii
"""
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_OF_STRINGS.split()),
    list: frozenset({"index", "count", "copy"}),
    tuple: frozenset({"index", "count"}),
    dict: frozenset({"get", "items", "keys", "values", "copy"}),
    int: frozenset(),
    float: frozenset({"is_integer"}),
}


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as Hugging Face sets it up for chat templates, within a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
        del self.globals["lipsum"]
        self.filters = dict(FILTERS)
        self.finalize = self.emitted

    def template(self, source: str) -> jinja2.Template:
        """Raises `ValueError` for what does not compile."""
        try:
            tree = _Counted().visit(self.parse(source))
            tree.set_environment(self)
            return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))
        except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError) as error:
            raise ValueError(f"the chat template does not compile: {error}") from error

    # What the rewritten template calls.

    @pass_context
    def emitted(self, context: Context, value: Any) -> Any:
        budget: Budget = context.parent[BUDGET]
        budget.make(len(value) if isinstance(value, str) else budget.weigh(value))
        return value

    @pass_context
    def each(self, context: Context, values: Any, steps: int) -> Any:
        """What a loop goes through, counted beforehand."""
        if not isinstance(values, Sized):
            values = list(values)
        budget_of(context).step(len(values) * steps)
        return values

    @pass_context
    def entered(self, context: Context, steps: int) -> None:
        """A macro with much text of its own."""
        budget_of(context).step(steps)

    @pass_context
    def joined(self, context: Context, *values: Any) -> str:
        texts = [str(value) for value in values]
        budget_of(context).make(sum(map(len, texts)))
        return "".join(texts)

    def kept(self, value: Any) -> Any:
        """A value that `call` has weighed."""
        return value

    # What Jinja asks.

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not among the methods."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 any name may be given
        budget = budget_of(__context)
        budget.step(4)  # a macro costs that much more than a turn of a loop
        plain = isinstance(__obj, Macro) and not (__obj.catch_varargs or __obj.catch_kwargs)
        if not plain:  # what only names its arguments makes nothing of them
            for value in args:
                budget.weigh(value)
            for name, value in kwargs.items():
                if name not in _HIDDEN:
                    budget.weigh(value)
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            name = __obj.__name__
            budget.make(size(text, name, args) if name in {"replace", "join"} else len(text))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget: Budget = context.parent[BUDGET]
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget.make(len(left) + len(right))
            return left + right
        budget.step(1)
        if operator == "%" and isinstance(left, str):
            return formatted(context, left, right)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (max(right, 0) if operator == "**" else 1) + right.bit_length()
            if bits > _MAX_BITS:
                raise Overrun("makes a number without end")
        elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            budget.make(len(left) + len(right))
        elif operator == "*":
            many, times = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(times, int) and isinstance(many, Sized):
                budget.make(budget.weigh(many) * max(times, 0))
        return super().call_binop(context, operator, left, right)


class Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; rendering keeps what is inside."""

    tags = {"generation"}  # noqa: RUF012 the name and form that Jinja reads

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Any) -> str:
        return str(caller())


class _Counted(NodeTransformer):
    """Leads through the environment what a template could do without end."""

    def get_visitor(self, node: nodes.Node) -> Callable[..., Any] | None:
        visitors: dict[type[nodes.Node], Callable[..., Any]] = {
            nodes.For: self._for,
            nodes.Macro: self._macro,
            nodes.CallBlock: self._macro,
            nodes.Block: self._macro,
            nodes.Concat: self._concat,
            nodes.Filter: self._filter,
            nodes.List: self._literal,
            nodes.Tuple: self._literal,
            nodes.Dict: self._literal,
        }
        return visitors.get(type(node))

    def _for(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _ask("each", node.iter, nodes.Const(1 + _own_text(node)))
        return node

    def _macro(self, node: nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        self.generic_visit(node)
        if steps := _own_text(node):
            node.body.insert(0, nodes.ExprStmt(_ask("entered", nodes.Const(steps)), lineno=node.lineno))
        return node

    def _concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _ask("joined", *node.nodes)

    def _filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is not None and node.name not in AT_ONCE:
            node.node = _ask("kept", node.node)
        return node

    def _literal(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        """Values that hold others could double in size again and again."""
        values = [pair.value for pair in node.items] if isinstance(node, nodes.Dict) else node.items
        constant = all(isinstance(value, nodes.Const) for value in values)
        self.generic_visit(node)
        target = isinstance(node, nodes.Tuple) and node.ctx != "load"
        return node if constant or target else _ask("kept", node)


def _own_text(node: nodes.Node) -> int:
    """In steps: how much text of the template's own there is inside, which may come any number of times."""
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData)) >> 7


def _ask(method: str, *values: nodes.Node) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(method), [*values], [], None, None)
    call.set_lineno(values[0].lineno or 1)
    return call
