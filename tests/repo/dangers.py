"""Finds, in Python source, what turns data into code: the gate against it reads every file of the package."""

import ast
from collections.abc import Iterator

MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {
    "eval": "eval",
    "exec": "exec",
    "os.system": "a shell",
    "os.popen": "a shell",
    "yaml.unsafe_load": "unsafe YAML",
    "yaml.full_load": "unsafe YAML",
    "jinja2.Template": "a template outside the sandbox",
    "jinja2.Environment": "a template outside the sandbox",
}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "BaseLoader", "CBaseLoader"}


def dangers(source: str) -> list[tuple[int, str]]:
    """Line and name of each danger. Imported names are followed back to their module."""
    tree = ast.parse(source)
    origins = dict(_origins(tree))
    loaders = SAFE_LOADERS | set(_safe_subclasses(tree))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.Call):
            danger = _call(node, origins, loaders) if isinstance(node, ast.Call) else _import(node)
            found += [(node.lineno, danger)] if danger else []
    return sorted(found)


def _origins(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _safe_subclasses(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(_dotted(base).split(".")[-1] in SAFE_LOADERS for base in node.bases):
            yield node.name


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _import(node: ast.stmt) -> str | None:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    return next((name for name in names if name.partition(".")[0] in MODULES), None)


def _call(node: ast.Call, origins: dict[str, str], loaders: set[str]) -> str | None:
    dotted = _dotted(node.func)
    first, dot, rest = dotted.partition(".")
    name = origins.get(first, first) + dot + rest
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in {"__import__", "importlib.import_module"} and node.args and isinstance(node.args[0], ast.Constant):
        return next((module for module in MODULES if node.args[0].value == module), None)
    if name in {"yaml.load", "yaml.load_all"}:
        loader = given.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        return None if loader is not None and _dotted(loader).split(".")[-1] in loaders else "unsafe YAML"
    if name == "torch.load":
        return None if _is_true(given.get("weights_only")) else "torch.load without weights_only"
    if name == "numpy.load":
        return "numpy.load with pickles" if "allow_pickle" in given else None
    if name.startswith("subprocess.") and "shell" in given:
        return "a shell"
    return CALLS.get(name)


def _is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True
