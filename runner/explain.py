"""What Hydra and OmegaConf complain about, in one line with the nearest names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import RequestError, nearest, one_line


def explain(error: Exception, overrides: Sequence[str], config_dir: Path | str | None = None) -> str:
    """Return the one line for an error of composing `overrides`."""
    from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException

    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, OverrideParseException):
        what = f"can't read the override {_quoted(error.override)}: {_parse_reason(error)}"
        return f"{what}; expected KEY=VALUE, with special characters quoted"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        path = error.missing_cfg_file
        group, _, choice = path.rpartition("/") if path.startswith("hydra/") else path.partition("/")
        return f"{group}={choice}: no such {group}; {nearest(choice, error.options)}"
    if isinstance(error, ConfigCompositionException):
        unknown = re.match(r"(?:In '[^']*': )?Could not (?:override|delete from config\.|delete) '([^'=]+)", str(error))
        if unknown:
            return _unknown_key(unknown[1], overrides, config_dir)
    if "Config group override must be" in str(error):
        return "a config group takes the name of a choice, as in gpu=4090; python -m runner --help lists them"
    return one_line(_details(error))


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 80 else f"'{text[:77]}...'"


def _parse_reason(error: Exception) -> str:
    """Keep the parser's own words and drop the repeated override, the caret and the link."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and line != "^" and not line.startswith(("See https", "Error parsing override"))]
    reason = re.sub(r"^LexerNoViableAltException: .*", "an unexpected character", kept[0]) if kept else "not understood"
    return reason if len(reason) <= 120 else f"{reason[:117]}..."


def _unknown_key(key: str, overrides: Sequence[str], config_dir: Path | str | None) -> str:
    """Name the nearest keys of the config as it is composed without the values, only with the choices of groups."""
    if key.startswith("tags."):
        return f"{key} is a new tag; add it with a plus, as in +{key}=VALUE"
    from omegaconf import OmegaConf

    from runner.compose import load

    groups = "workload|gpu|cloud|launch|measure|tracking|reported|experiment"
    choices = [one for one in overrides if re.fullmatch(rf"({groups})=[\w./-]+", one)]
    try:
        cfg = load(choices, config_dir)
    except Exception:  # a choice is wrong as well; the plain message is still right
        return f"{key} is no key of the config; python -m runner --cfg job prints them all"
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name != "hydra"]), resolve=False)
    known = {"experiment", *_keys(plain)}
    parent, _, leaf = key.rpartition(".")
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    elsewhere = sorted(name for name in same if name.count(".") == min(one.count(".") for one in same))
    if elsewhere:
        return f"{key} is no key of the config; did you mean {' or '.join(elsewhere[:3])}?"
    near = nearest(key, known)
    if not near.startswith("did you mean"):
        inside = {name for name in known if name.rpartition(".")[0] == parent}
        near = nearest(key, inside or {name for name in known if "." not in name})
    return f"{key} is no key of the config; {near}"


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def _details(error: Exception) -> str:
    """Return the first line of what went wrong, and of its cause where Hydra only says where."""
    text = re.sub(r"\s*See https?://\S+( for \S+)?", "", str(error)).strip()
    cause = error.__cause__
    if cause is not None and (not text or text.startswith("Error merging override")):
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        return f"{text}: {reason}" if text else reason
    return text or type(error).__name__
