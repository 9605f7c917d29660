"""Shared fixtures: nothing here reaches a network or the user's own files."""

from __future__ import annotations

import os

# Before any import of the libraries that read these.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", NO_COLOR="1")
os.environ.pop("STEER_MODEL", None)
# Models are tiny here, and `make test` has a process on each core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation, Spread
from steer.vectors.provenance import ContrastSummary, Method, ModelIdentity, Read
from steer.vectors.vector import SteeringVector

settings.register_profile(
    "steer", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steer")

SHARED = Path(__file__).parents[2] / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the folder of real data and models lies beside the project only"
)


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test in an empty folder, with no vectors of its user's and no model chosen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEER_VECTORS", raising=False)
    monkeypatch.delenv("STEER_DEVICE", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def make_vector(
    identity: ModelIdentity | None = None,
    *,
    layers: tuple[int, ...] = (0, 2),
    site: str = "resid_post",
    seed: int = 0,
    name: str = "calm",
) -> SteeringVector:
    """A random vector (never all ones: a LayerNorm does not see those)."""
    identity = identity or ModelIdentity(
        id="tiny", architecture="Tiny", d_model=8, n_layers=4, fingerprint="0" * 16
    )
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(len(layers), identity.d_model)).astype(np.float32)
    statistics = tuple(
        LayerStatistics(
            layer=layer,
            norm=float(np.linalg.norm(row)),
            resid_norm=10.0,
            separability=0.9,
            positive=Spread(mean=1.0, std=0.5),
            negative=Spread(mean=-1.0, std=0.5),
        )
        for layer, row in zip(layers, directions, strict=True)
    )
    metadata = Metadata(
        name=name,
        model=identity,
        site=site,  # type: ignore[arg-type]
        layers=layers,
        method=Method(name="mean_diff"),
        read=Read(positions="mean"),
        contrast=ContrastSummary(kind="pairs", n=12, sha256="ab"),
        statistics=statistics,
        recommended=Recommendation(layers=layers[:1], coefficient=1.0, evidence="none"),
    )
    return SteeringVector(metadata, directions)
