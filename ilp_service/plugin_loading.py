"""Finds causes, mitigations, knowledge sources and judges: installed packages by entry point (the built-in ones too),
and folders that somebody named.

A plugin that cannot be loaded is reported and left out; the others are not touched by it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import CodeType, MappingProxyType
from typing import Any

import pluggy

from ilp_service import __version__, hookspecs
from ilp_service.errors import PluginLoadError
from ilp_service.plugin import Cause, Judge, KnowledgeSource, Mitigation
from ilp_service.plugin_declarations import faults, judge_faults, mitigation_faults, source_faults

GROUP = "ilp_service"
_DISTRIBUTION = "ilp-service"
_KINDS = {
    "ilp_causes": ("cause", faults),
    "ilp_knowledge_sources": ("knowledge source", source_faults),
    "ilp_judges": ("judge", judge_faults),
    "ilp_mitigations": ("mitigation", mitigation_faults),
}
"""What each hook returns, in words, and what tells whether it is declared well."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a mitigation, a knowledge source or a judge came from.

    Attributes:
        where: The package or file.
        version: Of the package, ``None`` for a file.
    """

    where: str
    version: str | None


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
        sources: Every knowledge source, in the order in which their plugins were found.
        judges: Every judge, in the same order.
        source_origins: Where each knowledge source came from, by its name.
        judge_origins: Where each judge came from, by its name.
        mitigations: Every mitigation, in the same order.
        mitigation_origins: Where each mitigation came from, by its name.
    """

    causes: tuple[Cause, ...]
    origins: Mapping[str, str]
    versions: Mapping[str, str | None]
    failures: Mapping[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[KnowledgeSource, ...] = ()
    judges: tuple[Judge, ...] = ()
    source_origins: Mapping[str, Origin] = field(default_factory=dict)
    judge_origins: Mapping[str, Origin] = field(default_factory=dict)
    mitigations: tuple[Mitigation, ...] = ()
    mitigation_origins: Mapping[str, Origin] = field(default_factory=dict)


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
    accepted: dict[str, dict[str, tuple[Any, Origin]]] = field(default_factory=lambda: {hook: {} for hook in _KINDS})
    failures: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def fail(self, where: str, reason: str) -> None:
        self.failures[where] = f"{self.failures[where]} {reason}" if where in self.failures else reason


def load_plugins(folders: Sequence[Path] = ()) -> Plugins:
    """Load the installed plugins, then every ``*.py`` file and every package of the named folders.

    Folders are code: only those named here are read, never the current directory by itself. Files and packages whose
    name begins with an underscore, and sub-folders without ``__init__.py``, are left alone; a package that is
    installed as well is loaded once. Built-in causes come first, then other packages by name, then
    files in the order of the folders and of their names; of two causes (mitigations, sources, judges) with one name
    the first is kept.

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
            hooks = _hooks(manager, module)
        # A plugin's code may raise anything, SystemExit included; only a person's Ctrl-C goes through.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            collected.fail(plugin.where, _sentence(error))
            if manager.has_plugin(plugin.where):
                manager.unregister(name=plugin.where)
            continue
        asked = [_asked(plugin, hook, caller, collected) for hook, caller in hooks.items()]
        if any(asked) and (digest := plugin.digest()):
            collected.digests[plugin.where] = digest
    causes, sources, judges, mitigations = collected.accepted.values()
    return Plugins(
        tuple(cause for cause, _ in causes.values()),
        MappingProxyType({name: origin.where for name, (_, origin) in causes.items()}),
        MappingProxyType({name: origin.version for name, (_, origin) in causes.items()}),
        MappingProxyType(collected.failures),
        MappingProxyType(collected.digests),
        tuple(source for source, _ in sources.values()),
        tuple(judge for judge, _ in judges.values()),
        MappingProxyType({name: origin for name, (_, origin) in sources.items()}),
        MappingProxyType({name: origin for name, (_, origin) in judges.items()}),
        tuple(mitigation for mitigation, _ in mitigations.values()),
        MappingProxyType({name: origin for name, (_, origin) in mitigations.items()}),
    )


def describe_plugins(plugins: Plugins) -> list[dict[str, Any]]:
    """What is loaded and from where, ready for JSON: causes, then mitigations, knowledge sources and judges."""
    return [
        *(_described_cause(cause, plugins) for cause in plugins.causes),
        *(_described_mitigation(one, plugins.mitigation_origins[one.name]) for one in plugins.mitigations),
        *(_described("knowledge_source", source, plugins.source_origins[source.name]) for source in plugins.sources),
        *(_described("judge", judge, plugins.judge_origins[judge.name]) for judge in plugins.judges),
    ]


def _described(kind: str, found: KnowledgeSource | Judge | Mitigation, origin: Origin) -> dict[str, Any]:
    return {
        "name": found.name,
        "title": found.title,
        "kind": kind,
        "origin": origin.where,
        "version": origin.version,
    }


def _described_mitigation(mitigation: Mitigation, origin: Origin) -> dict[str, Any]:
    return _described("mitigation", mitigation, origin) | {
        "causes": sorted(mitigation.causes),
        "parameters": [
            {"name": one.name, "default": one.default, "meaning": one.meaning, "source": one.source}
            for one in mitigation.parameters
        ],
    }


def _described_cause(cause: Cause, plugins: Plugins) -> dict[str, Any]:
    return {
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


def _hooks(manager: pluggy.PluginManager, module: object) -> dict[str, pluggy.HookCaller]:
    """The hooks of one plugin, each to be called without the others', so that it fails alone."""
    manager.check_pending()
    others = [plugin for plugin in manager.get_plugins() if plugin is not module]
    callers = {hook: manager.subset_hook_caller(hook, remove_plugins=others) for hook in _KINDS}
    mine = {hook: caller for hook, caller in callers.items() if caller.get_hookimpls()}
    if not mine:
        first, *rest = _KINDS
        raise AttributeError(f"it has no function {first} marked @hookimpl, nor {' or '.join(rest)}")
    return mine


def _asked(plugin: _Found, hook: str, caller: pluggy.HookCaller, collected: _Collected) -> bool:
    """Take what a hook returns; whether it could be asked."""
    try:
        _accept(plugin, hook, [found for returned in caller() for found in _listed(returned, hook)], collected)
    # The same as for loading.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        collected.fail(plugin.where, _sentence(error))
        return False
    return True


def _listed(returned: object, hook: str) -> Iterable[object]:
    if isinstance(returned, str) or not isinstance(returned, Iterable):
        raise TypeError(f"{hook} returned {type(returned).__name__}; expected a list of {_KINDS[hook][0]}s")
    return returned


def _accept(plugin: _Found, hook: str, found_there: Sequence[object], collected: _Collected) -> None:
    kind, faults_of = _KINDS[hook]
    accepted = collected.accepted[hook]
    for found in found_there:
        if wrong := faults_of(found):
            collected.fail(plugin.where, wrong[0])
            continue
        name = getattr(found, "name")  # noqa: B009 - its faults were looked at, so it has one
        if name in accepted:
            first = accepted[name][1].where
            collected.fail(plugin.where, f"It has a {kind} {name!r}, which {first} has already; rename one of them.")
        else:
            accepted[name] = found, Origin(plugin.where, plugin.version)


def _sentence(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"It could not be loaded: {type(error).__name__}{': ' if first else ''}{first[:200].rstrip('.')}."
