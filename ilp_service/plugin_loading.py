"""Finds the causes: installed packages by entry point (the built-in ones too), and folders that somebody named.

A plugin that cannot be loaded is reported and left out; the others are not touched by it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import CodeType, MappingProxyType
from typing import Any

import pluggy

from ilp_service import __version__, hookspecs
from ilp_service.errors import PluginLoadError
from ilp_service.plugin import Cause, Need, Signal

GROUP = "ilp_service"
_DISTRIBUTION = "ilp-service"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = frozenset({"sample_id", "unattributed"})


@dataclass(frozen=True, slots=True)
class Plugins:
    """What was loaded, and what was not.

    Attributes:
        causes: Every cause, in the order in which their plugins were found.
        origins: Where each cause came from, by its name.
        versions: Version of the package that each cause came from, ``None`` for a file.
        failures: One sentence why a plugin, or a part of it, was left out, by where it was found.
        digests: SHA-256 of the code of every plugin file or package of a folder, and the version of every installed
            one that is not ours, by where it was found.
    """

    causes: tuple[Cause, ...]
    origins: Mapping[str, str]
    versions: Mapping[str, str | None]
    failures: Mapping[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    """A plugin before it is loaded: an installed entry point or a file."""

    where: str
    version: str | None
    source: metadata.EntryPoint | Path

    @property
    def is_package(self) -> bool:
        """Whether it is a package of a folder."""
        return isinstance(self.source, Path) and self.source.is_dir()

    @property
    def package(self) -> str:
        """Its name, where it is a package of a folder."""
        return self.source.name

    def digest(self) -> str | None:
        """What tells one state of its code from another; ``None`` for the built-in causes."""
        if isinstance(self.source, Path):
            return _digest(self.source)
        return None if self.source.dist and self.source.dist.name == _DISTRIBUTION else self.version

    def load(self) -> object:
        """Import it; whatever its code raises comes through."""
        # Not the other way round: once importlib_metadata is imported, entry points are of its class.
        if not isinstance(self.source, Path):
            return self.source.load()
        return _import_package(self.source) if self.source.is_dir() else _import_file(self.source)


@dataclass(slots=True)
class _Collected:
    causes: list[Cause] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def fail(self, where: str, reason: str) -> None:
        self.failures[where] = f"{self.failures[where]} {reason}" if where in self.failures else reason


def load_plugins(folders: Sequence[Path] = ()) -> Plugins:
    """Load the installed plugins, then every ``*.py`` file and every package of the named folders.

    Folders are code: only those named here are read, never the current directory by itself. Files and packages whose
    name begins with an underscore, and sub-folders without ``__init__.py``, are left alone; a package that is
    installed as well is loaded once. Built-in causes come first, then other packages by name, then
    files in the order of the folders and of their names; of two causes with one name the first is kept.

    Raises:
        PluginLoadError: A named folder does not exist or cannot be read.
    """
    found = {plugin.where: plugin for plugin in _installed()}
    found |= {plugin.where: plugin for folder in folders for plugin in _in_folder(folder)}
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    collected = _Collected()
    for plugin in found.values():
        if plugin.is_package and plugin.package in {
            getattr(module, "__name__", "") for _, module in manager.list_name_plugin()
        }:
            continue
        try:
            module = plugin.load()
            if manager.is_registered(module):
                continue
            manager.register(module, name=plugin.where)
            _accept(plugin, _ask(manager, module), collected)
            if digest := plugin.digest():
                collected.digests[plugin.where] = digest
        # A plugin's code may raise anything, SystemExit included; only a person's Ctrl-C goes through.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            collected.fail(plugin.where, _sentence(error))
            if manager.has_plugin(plugin.where):
                manager.unregister(name=plugin.where)
    return Plugins(
        tuple(collected.causes),
        MappingProxyType(collected.origins),
        MappingProxyType(collected.versions),
        MappingProxyType(collected.failures),
        MappingProxyType(collected.digests),
    )


def describe_plugins(plugins: Plugins) -> list[dict[str, Any]]:
    """What is loaded and from where, ready for JSON: one entry a cause."""
    return [
        {
            "name": cause.name,
            "title": cause.title,
            "kind": "cause",
            "needs": sorted(str(need) for need in cause.needs),
            "origin": plugins.origins[cause.name],
            "version": plugins.versions[cause.name],
            "threshold": float(cause.threshold),
            "signals": [
                {
                    "name": signal.name,
                    "unit": signal.unit,
                    "direction": signal.direction,
                    "kind": signal.kind,
                    "meaning": signal.meaning,
                }
                for signal in cause.signals
            ],
        }
        for cause in plugins.causes
    ]


def faults(cause: object) -> list[str]:
    """What is wrong with the declarations of a cause, one sentence each; empty if nothing is."""
    if isinstance(cause, type):
        return [f"The hook returned the class {cause.__name__}; return an object of it, {cause.__name__}()."]
    if not isinstance(cause, Cause):
        return [f"The hook returned {type(cause).__name__}; expected objects of ilp_service.plugin.Cause."]
    called = type(cause).__name__
    missing = [name for name in ("name", "title", "signals") if not hasattr(cause, name)]
    if missing:
        return [f"{called} does not declare {', '.join(missing)}."]
    wrong = []
    if not isinstance(cause.name, str) or not _NAME.fullmatch(cause.name) or cause.name in _RESERVED:
        wrong.append(f"{called}.name is {cause.name!r}; expected small letters, digits and underscores.")
    if not isinstance(cause.title, str) or not cause.title.strip():
        wrong.append(f"{called}.title is {cause.title!r}; expected one line for people.")
    if not isinstance(cause.needs, frozenset | set) or not all(isinstance(need, Need) for need in cause.needs):
        wrong.append(f"{called}.needs is {cause.needs!r}; expected a frozenset of Need.")
    threshold = cause.threshold
    if not isinstance(threshold, int | float) or not math.isfinite(threshold) or not 0 < threshold <= 1:
        wrong.append(f"{called}.threshold is {threshold!r}; expected a number above 0 and up to 1.")
    return wrong + list(_signal_faults(called, cause.signals))


def _signal_faults(called: str, signals: object) -> Iterator[str]:
    if not isinstance(signals, tuple | list) or not signals or not all(isinstance(one, Signal) for one in signals):
        yield f"{called}.signals is {signals!r:.80}; expected a tuple of at least one Signal."
        return
    seen: set[str] = set()
    for signal in signals:
        if not isinstance(signal.name, str) or not _NAME.fullmatch(signal.name) or signal.name in _RESERVED:
            yield f"{called} has a signal named {signal.name!r}; expected small letters, digits and underscores."
        elif signal.name in seen:
            yield f"{called} declares the signal {signal.name!r} twice."
        seen.add(signal.name)
        if signal.direction not in ("+", "-", "0"):
            yield f"Signal {signal.name!r} of {called} has direction {signal.direction!r}; expected '+', '-' or '0'."
        if signal.kind not in ("number", "text"):
            yield f"Signal {signal.name!r} of {called} has kind {signal.kind!r}; expected 'number' or 'text'."
        if not all(isinstance(words, str) and words.strip() for words in (signal.unit, signal.meaning)):
            yield f"Signal {signal.name!r} of {called} lacks a unit or a meaning."


def _installed() -> list[_Found]:
    """Entry points of the group; the built-in causes first, so that nobody takes their names."""
    found = []
    for entry in metadata.entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else "unknown package"
        version = entry.dist.version if entry.dist else None
        if package == _DISTRIBUTION:
            version = __version__
        where = f"{package} {version or ''}".strip() + f" ({entry.name} = {entry.value})"
        found.append((package != _DISTRIBUTION, package, entry.name, _Found(where, version, entry)))
    return [plugin for *_, plugin in sorted(found, key=lambda item: item[:3])]


def _in_folder(folder: Path) -> list[_Found]:
    if not folder.exists():
        raise PluginLoadError(f"Plugin folder {folder} does not exist; name a folder that holds *.py files.")
    if not folder.is_dir():
        raise PluginLoadError(f"Plugin folder {folder} is a file; name the folder that it lies in, {folder.parent}.")
    try:
        files = sorted(path for path in folder.iterdir() if _is_plugin(path))
    except OSError as error:
        raise PluginLoadError(f"Plugin folder {folder} cannot be read ({error.strerror}); allow reading it.") from error
    return [_Found(str(path), None, path) for path in files if not path.name.startswith("_")]


def _is_plugin(path: Path) -> bool:
    return (path / "__init__.py").is_file() if path.is_dir() else path.suffix == ".py"


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a package's Python files."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        name = str(file.relative_to(path)) if path.is_dir() else ""
        digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Reads the file as it is now, and leaves no compiled copy in somebody's folder."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source; ``fullname`` is the module's name."""
        code: CodeType = self.source_to_code(self.get_data(self.get_filename(fullname)), self.path)
        return code


def _import_file(path: Path) -> object:
    # The folder is part of the name: two folders may hold files of one name, and neither may shadow a package.
    digest = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    name = f"_ilp_plugin_{digest}_{path.stem}"
    loader = _FreshLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_package(folder: Path) -> object:
    parent = str(folder.parent.resolve())
    # At the end, so that nothing that is installed is shadowed.
    if parent not in sys.path:
        sys.path.append(parent)
    module = importlib.import_module(folder.name)
    found = Path(str(module.__file__)).resolve()
    if found != (folder / "__init__.py").resolve():
        raise ImportError(f"another package {folder.name!r} is installed at {found.parent}; rename one of them")
    return module


def _ask(manager: pluggy.PluginManager, module: object) -> list[object]:
    """The causes of one plugin: its hook is called without the others', so that it fails alone."""
    manager.check_pending()
    others = [plugin for plugin in manager.get_plugins() if plugin is not module]
    caller = manager.subset_hook_caller("ilp_causes", remove_plugins=others)
    if not caller.get_hookimpls():
        raise AttributeError("it has no function ilp_causes marked @hookimpl")
    return [cause for causes in caller() for cause in _listed(causes)]


def _listed(causes: object) -> Iterable[object]:
    if isinstance(causes, str) or not isinstance(causes, Iterable):
        raise TypeError(f"ilp_causes returned {type(causes).__name__}; expected a list of causes")
    return causes


def _accept(plugin: _Found, causes: Sequence[object], collected: _Collected) -> None:
    for cause in causes:
        wrong = faults(cause)
        if wrong:
            collected.fail(plugin.where, wrong[0])
        elif isinstance(cause, Cause) and cause.name in collected.origins:
            first = collected.origins[cause.name]
            collected.fail(
                plugin.where, f"It has a cause {cause.name!r}, which {first} has already; rename one of them."
            )
        elif isinstance(cause, Cause):
            collected.causes.append(cause)
            collected.origins[cause.name] = plugin.where
            collected.versions[cause.name] = plugin.version


def _sentence(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"It could not be loaded: {type(error).__name__}{': ' if first else ''}{first[:200].rstrip('.')}."
