"""A YAML file as plain data that still knows the line of each value, so an error can point at it."""

import re
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration cannot be used. The message names file, line and remedy."""


class YamlFile:
    """Parsed once; `line_of` finds where a path such as `("backends", 0, "kind")` stands."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._lines: dict[Path_, int] = {}
        self._walked: set[int] = set()
        """Nodes seen: one that aliases repeat is walked once, or a few lines could take for ever."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is not None:
                self._walk(root, ())
            data = yaml.safe_load(text)
            self.data: Any = {} if data is None else data
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}. Mend the syntax there.") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}:1: not valid YAML: {error}. Mend or remove what it names.") from error
        except RecursionError as error:
            raise ConfigError(f"{path}:1: nested too deeply, or within itself. Write it flat.") from error
        if not isinstance(self.data, dict):
            raise ConfigError(f"{path}:1: expected 'name: value' lines at the top level; see 'headgate config schema'.")

    def line_of(self, path: Path_) -> int:
        """The line of the nearest part of `path` that the file has."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def error(self, message: str) -> ConfigError:
        """A validation message of msgspec, with its place in the file instead of its JSON path."""
        match = re.search(r" - at `(?:key` in `)?\$(.*?)`$", message)
        path = _parse(match.group(1)) if match else ()
        text = message[: match.start()] if match else message
        unknown = re.search(r"unknown field `(.*)`", text)
        if unknown:
            path = (*path, unknown.group(1))
            text = f"unknown setting '{unknown.group(1)}'"
        place = ".".join(str(part) for part in path)
        where = f" in '{place}'" if place and not unknown else ""
        quote = " Put the value in quotes." if text.startswith("Expected `str`, got `") else ""
        return ConfigError(
            f"{self.path}:{self.line_of(path)}: {text}{where}.{quote} 'headgate config schema' lists every setting."
        )

    def _walk(self, node: yaml.Node, path: Path_) -> None:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._walked:
            return
        self._walked.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = (*path, str(key.value))
                if below in self._lines:
                    raise ConfigError(
                        f"{self.path}:{key.start_mark.line + 1}: '{key.value}' stands twice (first on line "
                        f"{self._lines[below]}). Keep one."
                    )
                self._lines[below] = key.start_mark.line + 1
                self._walk(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for place, value in enumerate(node.value):
                self._walk(value, (*path, place))


def _parse(text: str) -> Path_:
    """`.backends[0].kind` as a tuple; `[...]`, msgspec's sign for any key of a mapping, ends it."""
    parts: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", text):
        if index == "...":
            break
        parts.append(name or int(index))
    return tuple(parts)
