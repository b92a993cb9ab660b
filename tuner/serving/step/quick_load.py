"""The first load of measured tables without what their package does slowly or twice. Same answers (tested).

Both functions put something else under a name of one module of the package, in its one pinned release: see
`aiconfigurator`, the only caller.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

_ATTENTION_FILES = {
    "_context_attention_data": "context_attention_perf.parquet",
    "_generation_attention_data": "generation_attention_perf.parquet",
}


def reads_with_libyaml(module: ModuleType) -> None:
    """Let the `yaml` that a module has imported parse in C where PyYAML was built with libyaml; only that module's.

    The descriptions of all accelerators are read for every engine that is opened: 0.16 CPU seconds each in Python,
    0.02 in C, and the same values."""
    theirs = getattr(module, "yaml", None)
    loader = getattr(theirs, "CSafeLoader", None)
    if not isinstance(theirs, ModuleType) or loader is None:
        return

    def safe_load(stream: Any) -> Any:
        return theirs.load(stream, Loader=loader)

    quick = {**vars(theirs), "SafeLoader": loader, "safe_load": safe_load}
    module.yaml = SimpleNamespace(**quick)  # type: ignore[attr-defined]  # it has one, as just seen


def counts_lanes_once(views: ModuleType) -> None:
    """Ask for the lanes of an engine's own attention rows only where other releases' rows are among the shared ones.

    Which kernels the rows belong to is counted twice, with and without rows shared by other releases, and each count
    parses the table anew (0.1 CPU seconds). Where one file is all there is the two counts are the same."""
    ask = views.fetch_attention_lane_density
    if hasattr(ask, "asks"):
        return

    def asked(database: Any, attribute: str, *, shared_layer: bool | None = None) -> Any:
        if shared_layer is False and _one_file(database, attribute):
            return ask(database, attribute)
        return ask(database, attribute, shared_layer=shared_layer)

    asked.asks = ask  # type: ignore[attr-defined]
    views.fetch_attention_lane_density = asked  # type: ignore[attr-defined]


def _one_file(database: Any, attribute: str) -> bool:
    """Whether the table comes from the release's own file alone, as the package itself reports its sources."""
    sources = getattr(database, "data_provenance", {}).get(_ATTENTION_FILES.get(attribute), ())
    return len(sources) == 1 and sources[0].get("channel") == "primary" and bool(sources[0].get("exists"))
