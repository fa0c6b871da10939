"""Loading a tokenizer, one way only: ``tokenizer.json`` as it is.

``AutoTokenizer`` may build another tokenizer for a family than the one that was saved, for example one
that splits digits differently. What the checkpoint was trained with is what its ``tokenizer.json`` says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilp_service.checkpoints import files
from ilp_service.errors import RemoteCodeError, SourceUnreadableError, TokenizerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PROBES = (
    "The answer is 1234567890.",
    "  two  spaces\n\nand lines\t— naïve café, 日本語, 🙂",
    "x = [1, 2.50, -3]; print('a b')",
    "'s 't 're CamelCase snake_case",
)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in ``folder``, giving exactly the ids of its ``tokenizer.json``.

    The chat template comes from ``chat_template.jinja`` or ``tokenizer_config.json``. A padding token is optional.
    Truncation and padding that were saved with it are switched off.

    Raises:
        TokenizerError: There is none, it is damaged, contradicts itself, or cannot be made a fast one.
        RemoteCodeError: It brings code of its own and has no ``tokenizer.json``.
    """
    try:
        config = _optional(folder, "tokenizer_config.json")
        special = _optional(folder, "special_tokens_map.json")
        if (folder / "tokenizer.json").is_file():
            files.inside(folder / "tokenizer.json", folder)
            return _from_json(folder, config, special)
        return _converted(folder, config)
    except SourceUnreadableError as error:
        raise TokenizerError(f"The tokenizer cannot be read: {error}") from error


def _optional(folder: Path, name: str) -> dict[str, Any]:
    return files.read_json(folder / name) if (folder / name).is_file() else {}


def _from_json(folder: Path, config: dict[str, Any], special: dict[str, Any]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    path = folder / "tokenizer.json"
    try:
        raw = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise TokenizerError(f"{path} is not a tokenizer ({error}); save the tokenizer again.") from error
    raw.no_truncation()
    raw.no_padding()
    _check_added(path, raw, config)
    tokens = {name: token for name in _SPECIAL if (token := _text(config.get(name)) or _text(special.get(name)))}
    if "eos_token" not in tokens and (token := _eos_from_model(folder, raw)):
        tokens["eos_token"] = token
    eos = tokens.get("eos_token")
    if eos is not None and raw.token_to_id(eos) is None:
        raise TokenizerError(
            f"{path} has no token {eos!r}, which tokenizer_config.json names as the end of a sequence."
        )
    # A token that the vocabulary does not have would be added with an id that the model has no row for.
    tokens = {name: token for name, token in tokens.items() if raw.token_to_id(token) is not None}
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        chat_template=_chat_template(folder, config),
        clean_up_tokenization_spaces=False,
        name_or_path=str(folder),
        **tokens,
    )
    _check_ids(path, raw, tokenizer)
    return tokenizer


def _converted(folder: Path, config: dict[str, Any]) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if config.get("auto_map"):
        raise RemoteCodeError(
            f"The tokenizer in {folder} brings code of its own, which is never run; save a tokenizer.json."
        )
    if not any((folder / name).is_file() for name in files.TOKENIZER_FILES[-5:]):
        raise TokenizerError(f"{folder} has no tokenizer; save one there with tokenizer.save_pretrained(folder).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder),
            use_fast=True,
            trust_remote_code=False,
            local_files_only=True,
            clean_up_tokenization_spaces=False,
        )
    except Exception as error:  # sentencepiece, tiktoken and JSON errors, all about these files
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TokenizerError(
            f"{folder} has no tokenizer.json, and its older files could not be converted ({first}); "
            "save the tokenizer again with a current transformers."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TokenizerError(
            f"{folder} has no tokenizer.json and no fast form of {type(tokenizer).__name__}; save one."
        )
    return tokenizer


def _text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _eos_from_model(folder: Path, raw: Any) -> str | None:  # noqa: ANN401
    """The end token by the model's config beside the tokenizer, when the tokenizer itself names none."""
    named = _optional(folder, "config.json").get("eos_token_id")
    number = named[0] if isinstance(named, list) and named else named
    return raw.id_to_token(number) if isinstance(number, int) and number >= 0 else None


def _chat_template(folder: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return files.inside(path, folder).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{path} cannot be read as text: {error}") from error
    template = config.get("chat_template") or _optional(folder, "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict)]
        return {str(entry.get("name")): str(entry.get("template")) for entry in named} or None
    return template if isinstance(template, str) and template else None


def _check_added(path: Path, raw: Any, config: dict[str, Any]) -> None:  # noqa: ANN401
    added = config.get("added_tokens_decoder")
    for number, entry in added.items() if isinstance(added, dict) else ():
        token = _text(entry)
        if token is not None and str(number) != str(raw.token_to_id(token)):
            raise TokenizerError(
                f"{path} gives {token!r} the id {raw.token_to_id(token)}, tokenizer_config.json beside it {number}; "
                "save the tokenizer again."
            )


def _check_ids(path: Path, raw: Any, tokenizer: PreTrainedTokenizerFast) -> None:  # noqa: ANN401
    marks = " ".join(sorted(set(map(str, tokenizer.all_special_tokens)))[:8])
    for text in (*_PROBES, f"a {marks} b"):
        for special in (False, True):
            ours = tokenizer(text, add_special_tokens=special)["input_ids"]
            if ours != raw.encode(text, add_special_tokens=special).ids:
                raise TokenizerError(
                    f"{path} and tokenizer_config.json beside it split {text!r} differently; save the tokenizer again."
                )


def largest_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The largest id that the tokenizer can give."""
    return max(tokenizer.get_vocab().values(), default=-1)
