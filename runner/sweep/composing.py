"""Composes the jobs of a sweep: Hydra once for each set of choices, its values laid over copies of that.

Hydra composes every job from its files, which takes longer than a small job. Jobs that differ only in values (`workload.n=64`)
share everything but those; Hydra applies values last, so applying them to a copy of what was composed without them is the same.
"""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.compose import Composed, checked
from runner.errors import RequestError

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Composer:
    """Composes jobs of one sweep; `loader` is Hydra's config loader, `master` the sweep's own config."""

    def __init__(self, loader: Any, master: "DictConfig", config_dir: str | None = None) -> None:
        self._loader, self._master, self._config_dir = loader, master, config_dir
        self._bases: dict[tuple[str, ...], tuple[bytes, DictConfig]] = {}
        self._parsed: dict[str, Any] = {}

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Return the checked config of the job with these overrides. Raises RequestError."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.hydra_config import HydraConfig

        from runner.explain import explain

        try:
            parsed = [self._parse(one) for one in overrides]
            values = [one for one in parsed if self._is_value(one)]
            base, hydra = self._base(tuple(one.input_line for one in parsed if one not in values and one.input_line))
            cfg = pickle.loads(base)  # a copy, in a third of the time that copy.deepcopy takes
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except Exception as error:
            raise RequestError(explain(error, list(overrides), self._config_dir)) from error
        HydraConfig.instance().cfg = hydra  # type: ignore[assignment]  # for ${hydra:...} in somebody's config
        return replace(
            checked(cfg, hydra.hydra), overrides=[one for one in overrides if not one.startswith(("hydra.", "hydra/"))]
        )

    def _parse(self, override: str) -> Any:
        """Return an override as Hydra reads it; most are those of the job before."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        if override not in self._parsed:
            self._parsed[override] = OverridesParser.create().parse_override(override)
        return self._parsed[override]

    def _is_value(self, override: Any) -> bool:
        """Whether an override sets a value, and chooses no file."""
        key = override.key_or_group
        return not (
            override.package is not None
            or override.is_delete()
            or key.startswith("hydra.")
            or key == "hydra"
            or self._loader.repository.group_exists(key)
        )

    def _base(self, choices: tuple[str, ...]) -> tuple[bytes, "DictConfig"]:
        """Return what jobs with these choices share: the config before values are set, pickled, and Hydra's node of it."""
        from omegaconf import OmegaConf

        if choices not in self._bases:
            composed = self._loader.load_sweep_config(self._master, list(choices))
            task = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            OmegaConf.set_struct(task, True)  # which a masked copy is not: a key that isn't there is a mistake
            self._bases[choices] = pickle.dumps(task), OmegaConf.masked_copy(composed, "hydra")
        return self._bases[choices]
