"""Lets a config group have numeric choices: `gpu=4090`, `-m gpu=4090,3090`, `override /gpu: 4090`.

Hydra 1.3 reads such a choice as an integer and refuses it ("Config group override must be a string or a list. Got int"),
although the file `gpu/4090.yaml` is there. Two places of Hydra refuse it, one for overrides and one for defaults lists; both
know which keys are config groups, so that is where the number becomes the choice's name again. Every way in passes through
them: a plain run, each job of a multirun (any sweeper, `choice(...)`, `glob(*)`), `--cfg`, `--info`, shell completion and the
Compose API. Values of ordinary keys never do: `workload.n=4090` stays an integer. A search path plugin is the one kind of plugin
that Hydra loads for all of these.
"""

from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import ListConfig, OmegaConf


def _name(value: Any) -> Any:
    """Return a numeric choice, or each of a list of them, as text; anything else as it is."""
    if isinstance(value, list):
        return [_name(item) for item in value]
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_typed(override: Override) -> Any:
    """Return the choice's name as the user typed it (`1e3`, not `1000.0`)."""
    name = _name(override.value())
    typed_number = isinstance(name, str) and override.input_line is not None and not isinstance(override.value(), str)
    return override.get_value_string().strip() if typed_number else name


def _accept_in_overrides() -> None:
    original = Overrides.__init__

    def __init__(self: Overrides, repo: Any, overrides_list: list[Override]) -> None:
        for override in overrides_list:
            if not override.is_sweep_override() and repo.group_exists(override.key_or_group):
                value = override.value()
                if _name(value) != value:
                    override._value = _as_typed(override)
        original(self, repo, overrides_list)

    Overrides.__init__ = __init__  # type: ignore[method-assign]


def _accept_in_defaults_lists() -> None:
    original = ConfigRepository._create_defaults_list

    def _create_defaults_list(self: ConfigRepository, config_path: str, defaults: ListConfig) -> Any:
        items = OmegaConf.to_container(defaults, resolve=False)
        assert isinstance(items, list)
        named = [{key: _name(value) for key, value in item.items()} if isinstance(item, dict) else item for item in items]
        return original(self, config_path, OmegaConf.create(named) if named != items else defaults)

    ConfigRepository._create_defaults_list = _create_defaults_list  # type: ignore[method-assign]


class NumericChoices(SearchPathPlugin):
    """Adds nothing to the search path; being loaded with it is the point."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Teach Hydra numeric choices, once in a process."""
        if not getattr(Overrides, "_numeric_choices", False):
            Overrides._numeric_choices = True  # type: ignore[attr-defined]
            _accept_in_overrides()
            _accept_in_defaults_lists()
