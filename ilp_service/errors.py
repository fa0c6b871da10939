"""Errors that a user can cause, each with one sentence and an exit code of its own.

    IlpError
    ├── SettingsError            10   a setting, flag or config file is wrong
    ├── ModelNotFoundError       11   no such model, version, alias, run or folder
    ├── SourceUnreadableError    12   the model exists, its files cannot be read
    ├── UnsafeWeightsError       13   weights that are not safetensors
    ├── RemoteCodeError          14   the checkpoint needs trust_remote_code
    ├── AdapterBaseError         15   an adapter whose base model is not known or not found
    ├── AdapterKeysError         16   an adapter whose keys do not load into the base
    ├── TokenizerError           17   a tokenizer that is missing or does not round-trip
    ├── DataNotFoundError        20   no such data file
    ├── DataEmptyError           21   a data file without rows
    ├── DataFormatError          22   a data file in a format that is not known
    ├── AllRowsRefusedError      23   every row of the data file was refused
    ├── TrajectoryError          24   a trajectory that is malformed or names unknown samples
    ├── TrackingError            30   the tracking server is down or refuses
    ├── StorageError             31   writing failed (disk full, no permission)
    ├── PluginLoadError          32   a named plugin folder or file cannot be loaded
    ├── KnowledgeSourceError     33   the files of a knowledge source cannot be used
    └── EndpointError            34   an endpoint is down, refuses, or answers what nobody can read

Exit code 1 is a defect of ours, 2 a usage error of the command line, 130 an interrupt.
"""

from __future__ import annotations

from typing import ClassVar


class IlpWarning(UserWarning):
    """Something a user should know that does not stop the run."""


class IlpError(Exception):
    """An error that a user can mend: shown as one sentence, without a traceback.

    The message says what was found, what was expected, and how to mend it.
    """

    exit_code: ClassVar[int] = 1


class SettingsError(IlpError):
    """A setting, flag or config file is wrong."""

    exit_code = 10


class ModelNotFoundError(IlpError):
    """No such model, version, alias, run or folder."""

    exit_code = 11


class SourceUnreadableError(IlpError):
    """The model is known, but its files cannot be read."""

    exit_code = 12


class UnsafeWeightsError(IlpError):
    """Weights that are not safetensors: reading them could run code."""

    exit_code = 13


class RemoteCodeError(IlpError):
    """The checkpoint needs ``trust_remote_code``, which is never switched on."""

    exit_code = 14


class AdapterBaseError(IlpError):
    """An adapter whose base model is not known or not found."""

    exit_code = 15


class AdapterKeysError(IlpError):
    """An adapter whose keys do not load into the base model."""

    exit_code = 16


class TokenizerError(IlpError):
    """A tokenizer that is missing or does not round-trip."""

    exit_code = 17


class DataNotFoundError(IlpError):
    """No such data file."""

    exit_code = 20


class DataEmptyError(IlpError):
    """A data file without rows."""

    exit_code = 21


class DataFormatError(IlpError):
    """A data file in a format that is not known."""

    exit_code = 22


class AllRowsRefusedError(IlpError):
    """Every row of the data file was refused."""

    exit_code = 23


class TrajectoryError(IlpError):
    """A trajectory that is malformed or names samples that the data does not have."""

    exit_code = 24


class TrackingError(IlpError):
    """The tracking server is down or refuses."""

    exit_code = 30


class StorageError(IlpError):
    """Writing failed: the disk is full or the folder may not be written."""

    exit_code = 31


class PluginLoadError(IlpError):
    """A plugin folder or file that was named cannot be loaded."""

    exit_code = 32


class KnowledgeSourceError(IlpError):
    """The files of a knowledge source that a setting names cannot be used."""

    exit_code = 33


class EndpointError(IlpError):
    """An endpoint that a setting names is down, refuses, or answers what nobody can read."""

    exit_code = 34
