"""From overrides to a checked RunConfig: for the command line's task function, and for programs and tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import RunConfig, resolve
from runner.errors import RequestError
from runner.paths import conf_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Composed:
    """A checked config, the overrides that led to it and the config folders that were searched, the program's own first."""

    config: RunConfig
    overrides: list[str]
    folders: list[Path]


def compose(overrides: Sequence[str] = (), config_dir: Path | str | None = None) -> Composed:
    """Compose and check a config as the command line does; `config_dir` adds a folder, as --config-dir does.

    Does not touch Hydra's global state, so it may be called inside a Hydra program as well. Raises RequestError.
    """
    from runner.explain import explain

    try:
        cfg = load(overrides, config_dir)
    except Exception as error:
        raise RequestError(explain(error, list(overrides), config_dir)) from error
    return checked(cfg)


def load(overrides: Sequence[str], config_dir: Path | str | None = None) -> "DictConfig":
    """Return Hydra's composition, its own node included; raises whatever Hydra raises."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode

    version.setbase("1.3")
    setup_globals()
    search_path = create_config_search_path(str(conf_dir()))
    if config_dir is not None:
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise RequestError(f"--config-dir {folder}: no such folder")
        search_path.prepend(provider="command-line", path=f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(search_path).load_configuration("config", list(overrides), RunMode.RUN)


def checked(cfg: "DictConfig", hydra: Any = None) -> Composed:
    """Check a composition; `hydra` is Hydra's node of it where `cfg` doesn't hold it (in a task function).

    Raises RequestError.
    """
    from omegaconf import OmegaConf

    node = cfg.hydra if hydra is None else hydra
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]) if "hydra" in cfg else cfg
    folders = [Path(source.path) for source in node.runtime.config_sources if source.schema == "file"]
    choices = {str(group): str(choice) for group, choice in node.runtime.choices.items() if choice and "/" not in str(group)}
    config = resolve(task, choices, _declared_variants(choices.get("workload", ""), folders))
    return Composed(config, [str(one) for one in node.overrides.task], folders)


def _declared_variants(workload: str, folders: Sequence[Path]) -> list[str]:
    """Return the variants in the workload's own file, before experiments and overrides narrow them."""
    path = next((path for folder in folders if (path := folder / "workload" / f"{workload}.yaml").is_file()), None)
    data = _read(path, path.stat().st_mtime_ns) if path else None
    variants = data.get("variants") if isinstance(data, dict) else None
    return [str(one) for one in variants] if isinstance(variants, list) else []


@lru_cache(maxsize=64)
def _read(path: Path, changed_ns: int) -> Any:
    """Return what a YAML file holds; a sweep asks for the same one again and again."""
    import yaml

    return yaml.safe_load(path.read_text())
