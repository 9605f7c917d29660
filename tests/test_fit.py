"""Methods: each finds a planted direction, agrees with its reference, and knows noise for noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from conftest import make_vector
from recorded import direction, extract, pairs
from sklearn.linear_model import LogisticRegression

from steer.base.errors import InputError, SiteError
from steer.extraction import ReadSettings, plan, record_contrasts
from steer.fitting import fit
from steer.fitting.activations import Activations, Recording, open_kept, resume
from steer.fitting.fitting import FitSettings, best, fit_vectors, recommend
from steer.fitting.warnings import warnings
from steer.methods.registry import fit_methods
from steer.vectors.giveaways import Giveaways, Lengths
from steer.vectors.metadata import LayerStatistics, Spread
from steer.vectors.provenance import ContrastSummary, ModelIdentity, Read
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker

WIDTH = 16
METHODS = list(fit_methods().names)
each_method = pytest.mark.parametrize("method", METHODS)


def recording(n: int, n_negative: int | None = None) -> Recording:
    return Recording(
        model=ModelIdentity(
            id="tiny", architecture="Tiny", d_model=WIDTH, n_layers=4, fingerprint="0"
        ),
        contrast=ContrastSummary(kind="pairs", n=n, sha256="0"),
        reads=(Read(positions="mean"),),
        sites=(Site(0), Site(2)),
        n_positive=n,
        n_negative=n if n_negative is None else n_negative,
        paired=n_negative is None,
    )


def stored(
    path: Path, positive: np.ndarray, negative: np.ndarray, *, paired: bool = True, **changes: Any
) -> Activations:
    """A recording whose two sites hold the same activations, [n, WIDTH] a side. said: fields of the
    recording."""
    n_negative = None if paired and len(positive) == len(negative) else len(negative)
    layout = recording(len(positive), n_negative)
    resumed = resume(path, msgspec.structs.replace(layout, **changes))
    rows = np.concatenate([positive, negative]).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1)[:, None].repeat(2, 1).astype(np.float32)
    resumed.put(range(len(rows)), rows[:, None].repeat(2, 1), lengths)
    return resumed


def fit_site(activations: Activations, column: int, method: str) -> fit.SiteFit:
    return fit.fit_site(activations, column, fit_methods().named(method))


def fit_one(activations: Activations, settings: FitSettings) -> SteeringVector:
    return best(fit_vectors(activations, settings))


def planted(seed: int, shift: float, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both sides, noise apart by `shift` along one direction, and that direction."""
    rng = np.random.default_rng(seed)
    direction = fit.unit(rng.normal(size=WIDTH))
    sides = rng.normal(size=(2, n, WIDTH))
    return sides[0] + shift * direction, sides[1], direction


@pytest.mark.parametrize("records", [(5,) * 40, 40, None])
def test_rows_of_one_record_are_held_out_together(
    tmp_path: Path, records: tuple[int, ...] | int | None
) -> None:
    """Each of 40 records of noise has five rows a side: a direction that has seen one of them knows
    the others, which says nothing of new ones."""
    rng = np.random.default_rng(0)
    once = [rng.normal(size=(40, WIDTH)) for _ in range(2)]
    sides = [np.tile(text, (5, 1)) if records == 40 else text.repeat(5, 0) for text in once]
    options = {} if records is None else {"records": records, "format": 2}
    kept = stored(tmp_path / "a", *sides, **options)
    separability = fit_site(kept, 0, "lda").separability
    assert separability is not None
    if records is None:
        assert separability > 0.65
    else:
        assert separability < 0.6
    few = stored(
        tmp_path / "b", *(side[:45] for side in sides), **(options and options | {"records": 9})
    )
    assert (fit_site(few, 0, "mean_diff").separability is None) == (records is not None)


def test_of_two_tokens_that_tell_the_sides_apart_the_last_is_taken() -> None:
    """What comes next is made of the last token's activations; others may be longer."""

    def read_at(positions: str, share: float) -> SteeringVector:
        vector = make_vector(layers=(1,))
        (row,) = vector.metadata.statistics
        return tiny.renamed(
            vector,
            read=Read(positions=positions),
            statistics=(tiny.msgspec.structs.replace(row, resid_norm=row.norm / share),),
        )

    def taken(*vectors: SteeringVector) -> str:
        return best(vectors).metadata.read.positions

    before, last, mean = read_at("-2", 1.5), read_at("-1", 0.9), read_at("mean", 1.2)
    assert taken(before, last) == taken(last, before) == "-1"
    assert taken(before, last, mean) == "mean"
    assert taken(before, mean) == "-2"


@each_method
def test_a_planted_direction_is_recovered(tmp_path: Path, method: str) -> None:
    positive, negative, axis = planted(seed=0, shift=3.0, n=4_000)
    with stored(tmp_path / "a", positive, negative) as kept:
        site = fit_site(kept, 1, method)
    assert float(fit.unit(site.direction) @ axis) > 0.99
    assert site.separability is not None and site.separability > 0.97
    assert site.agreement > 0.99
    assert np.linalg.norm(site.direction) == pytest.approx(3, rel=0.05)
    assert site.projections[0].mean() - site.projections[1].mean() == pytest.approx(3, rel=0.05)


@each_method
def test_swapped_sides_turn_the_direction_round(tmp_path: Path, method: str) -> None:
    positive, negative, _ = planted(seed=1, shift=1.0)
    forward, other = direction(method, positive, negative), direction(method, negative, positive)
    np.testing.assert_allclose(forward, -other, rtol=1e-4, atol=1e-6)


@each_method
def test_noise_alone_is_no_better_than_chance(tmp_path: Path, method: str) -> None:
    """Held out, so that 16 dimensions of noise cannot be fitted to look like a direction."""
    values = []
    for seed in range(8):
        positive, negative, _ = planted(seed, shift=0.0)
        with stored(tmp_path / f"a{seed}", positive, negative) as kept:
            values.append(fit_site(kept, 0, method).separability)
    assert abs(np.mean(values) - 0.5) < 0.05


def test_pca_is_the_leading_direction_of_the_uncentred_differences() -> None:
    positive, negative, _ = planted(seed=2, shift=1.0)
    differences = positive - negative
    eigenvectors = np.linalg.eigh(differences.T @ differences)[1]
    assert abs(fit.unit(direction("pca", positive, negative)) @ eigenvectors[:, -1]) > 1 - 1e-9


def test_lda_whitens() -> None:
    positive, negative, _ = planted(seed=3, shift=1.0, n=4_000)
    for side in (positive, negative):
        side[:, 0] *= 4
    centred = np.concatenate([side - side.mean(0) for side in (positive, negative)])
    whitened = np.linalg.solve(centred.T @ centred, positive.mean(0) - negative.mean(0))
    ours = fit.unit(direction("lda", positive, negative))
    assert ours @ fit.unit(whitened) > 0.999
    assert ours @ fit.unit(direction("mean_diff", positive, negative)) < 0.99


def test_a_probe_does_not_see_how_far_from_0_all_activations_are() -> None:
    """As a few features of large models are."""
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=(2, 60, 16))
    positive[:, 3] += 1
    far = np.zeros(16)
    far[:2] = 3000, -800
    shifted = direction("probe", positive + far, negative + far)
    np.testing.assert_allclose(
        shifted, direction("probe", positive, negative), rtol=1e-3, atol=1e-4
    )


def test_probe_is_the_one_of_scikit_learn() -> None:
    positive, negative, _ = planted(seed=4, shift=0.7)
    rows, labels = np.concatenate([positive, negative]), np.r_[np.ones(200), np.zeros(200)]
    standardised = (rows - rows.mean(0)) / rows.std(0)
    reference = LogisticRegression(max_iter=1_000).fit(standardised, labels)
    ours = fit.unit(direction("probe", positive, negative))
    assert ours @ fit.unit(reference.coef_[0] / rows.std(0)) > 1 - 1e-9


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positive, negative, _ = planted(seed=5, shift=1.0, n=50)
    fits = []
    for chunk in (7, 1_000):
        monkeypatch.setattr("steer.fitting.activations.CHUNK", chunk)
        with stored(tmp_path / f"{chunk}", positive, negative) as kept:
            fits.append(fit_site(kept, 0, "mean_diff"))
    np.testing.assert_allclose(fits[0].direction, fits[1].direction, rtol=1e-9)
    np.testing.assert_allclose(fits[0].direction, positive.mean(0) - negative.mean(0), atol=1e-6)
    assert fits[0].separability == fits[1].separability


def test_a_single_pair_is_enough_where_it_makes_sense(tmp_path: Path) -> None:
    positive, negative, _ = planted(seed=6, shift=1.0, n=1)
    with stored(tmp_path / "a", positive, negative) as kept:
        site = fit_site(kept, 0, "mean_diff")
        np.testing.assert_allclose(site.direction, positive[0] - negative[0], atol=1e-6)
        assert site.separability is None
        assert site.coherence == pytest.approx(1)
        with pytest.raises(InputError, match="needs 2 texts a side"):
            fit_site(kept, 0, "probe")


def test_unpaired_sets_have_no_coherence_and_no_pca(tmp_path: Path) -> None:
    positive, negative, axis = planted(seed=7, shift=8.0)
    with stored(tmp_path / "a", positive, negative[:90]) as kept:
        site = fit_site(kept, 0, "mean_diff")
        assert site.coherence is None
        assert fit.unit(site.direction) @ axis > 0.98
        with pytest.raises(InputError, match="not pairs"):
            fit_site(kept, 0, "pca")
    # As many of each are no more pairs than other numbers.
    with stored(tmp_path / "b", positive, negative, paired=False) as kept:
        assert fit_site(kept, 0, "mean_diff").coherence is None
        with pytest.raises(InputError, match="not pairs"):
            fit_site(kept, 0, "pca")


def test_auc_by_hand() -> None:
    assert fit.auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == (0.5 + 1 + 1 + 1) / 4
    assert fit.auc(np.array([1.0]), np.array([1.0])) == 0.5
    assert fit.auc(np.array([0.0]), np.array([1.0])) == 0


def statistics(layer: int, apart: float, norm: float) -> LayerStatistics:
    zero = Spread(mean=0, std=0)
    return LayerStatistics(
        layer=layer, norm=norm, resid_norm=1, positive=zero, negative=zero, separability=apart
    )


def test_the_recommended_layer_separates_and_has_length() -> None:
    rows = [
        statistics(layer, apart, norm)
        for layer, (apart, norm) in enumerate([(0.7, 0.9), (1.0, 0.1), (0.99, 0.5), (1.0, 0.5)])
    ]
    assert recommend(rows, n_layers=4).layers == (2,)
    late = [statistics(layer, 1.0, norm=2.0**layer) for layer in range(10)]
    assert recommend(late, n_layers=10).layers == (7,), "not the last fifth, where all separate"


def test_data_without_a_signal_are_called_so(tmp_path: Path) -> None:
    for shift, silent in ((0.0, False), (6.0, True)):
        positive, negative, _ = planted(seed=8, shift=shift)
        with stored(tmp_path / f"{shift}", positive, negative) as kept:
            vector = fit_one(kept, FitSettings(name="x"))
        messages = warnings(vector.metadata)
        assert (messages == []) == silent
        if not silent:
            assert "no better than chance" in messages[0]


@pytest.mark.parametrize("paired", [True, False])
@each_method
def test_shuffled_labels_seldom_pass_for_a_signal(
    tmp_path: Path, method: str, *, paired: bool
) -> None:
    """Of labels shuffled between sides that are far apart, which is harder than noise."""
    if method == "pca" and not paired:
        return
    positive, negative, _ = planted(seed=9, shift=6.0, n=30)
    rng = np.random.default_rng(0)
    called = 0
    for number in range(20):
        if paired:
            swap = rng.random(30)[:, None] < 0.5
            sides = np.where(swap, negative, positive), np.where(swap, positive, negative)
        else:
            both = rng.permutation(np.concatenate([positive, negative]))
            sides = both[:30], both[30:]
        with stored(tmp_path / str(number), *sides, paired=paired) as kept:
            messages = warnings(fit_one(kept, FitSettings(name="x", method=method)).metadata)
        called += any("no better than chance" in text for text in messages)
    assert called >= 19


def test_a_vector_no_better_than_length_is_called_so(tmp_path: Path) -> None:
    positive, negative, _ = planted(seed=10, shift=1.0)
    lengths = Lengths(least=1, median=2, most=3)
    for length_auc, silent in ((0.5, True), (0.7, True), (0.79, False), (0.21, False)):
        giveaways = Giveaways(
            unit="tokens", positive=lengths, negative=lengths, length_auc=length_auc,
            first_token=None, duplicates=0, equal_sides=0, near_duplicates=0,
        )  # fmt: skip
        with stored(tmp_path / f"{length_auc}", positive, negative) as kept:
            metadata = fit_one(kept, FitSettings(name="x")).metadata
        (row, *_) = metadata.statistics
        assert row.separability is not None and 0.74 < row.separability < 0.8
        contrast = msgspec.structs.replace(metadata.contrast, giveaways=giveaways)
        messages = warnings(msgspec.structs.replace(metadata, contrast=contrast))
        assert ("it may be a vector of length" not in " ".join(messages)) == silent


def test_sites_that_were_not_recorded(tmp_path: Path) -> None:
    positive, negative, _ = planted(seed=9, shift=1.0)
    with stored(tmp_path / "a", positive, negative) as kept:
        assert fit_one(kept, FitSettings(name="x", layers=(2,))).metadata.layers == (2,)
        with pytest.raises(SiteError, match="not recorded at layer 1"):
            fit_one(kept, FitSettings(name="x", layers=(0, 1)))
        with pytest.raises(SiteError, match="mlp_out was not recorded"):
            fit_one(kept, FitSettings(name="x", sites=("mlp_out",)))


def test_a_kept_recording_is_safetensors_that_others_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    positive, negative, _ = planted(seed=10, shift=1.0, n=30)
    with stored(tmp_path / "a", positive, negative):
        pass
    tensors = load_file(tmp_path / "a")
    np.testing.assert_array_equal(tensors["resid_post.2"][:30], positive.astype(np.float32))
    np.testing.assert_array_equal(tensors["resid_post.0"][30:], negative.astype(np.float32))
    with open_kept(tmp_path / "a") as kept:
        assert kept.done().all()


def test_damaged_recordings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    positive, negative, _ = planted(seed=11, shift=1.0, n=4)
    with stored(path, positive, negative):
        pass
    good = path.read_bytes()
    with resume(tmp_path / "unfinished", recording(4)):
        pass
    for data, message in (
        (good[:-4], "damaged"),
        (good + b"1234", "damaged"),
        (b"", "no recorded"),
        (b"junk" * 10, "no recorded"),
        (good.replace(b'n_positive\\":4', b'n_positive\\":0'), "no recorded"),
        ((tmp_path / "unfinished").read_bytes(), "not complete"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            open_kept(path)


SOME = pairs(*[(f"w{i} w{i + 7} w{i + 9}", f"w{i} w{i + 20} w{i + 3}") for i in range(3, 39)])


@each_method
def test_every_method_makes_a_vector_of_a_model(method: str) -> None:
    vector = extract(tiny.model("llama"), SOME, method=method)
    assert vector.metadata.method.name == method
    assert vector.directions.any(axis=1).all()


def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCutError(Exception):
        pass

    monkeypatch.setattr("steer.hooks.record.token_budget", lambda model: 40)  # several batches
    model = tiny.model("llama")
    expected = extract(model, SOME)
    n_batches = 0

    def cut(count: int) -> None:
        nonlocal n_batches
        n_batches += count > 0
        if n_batches == 2:
            raise PowerCutError

    path, planned = tmp_path / "part", plan(model, SOME, ReadSettings())
    with pytest.raises(PowerCutError):
        record_contrasts(LocalWorker(model), planned, path, cut)
    counts: list[int] = []
    with record_contrasts(LocalWorker(model), planned, path, counts.append) as recorded_file:
        again = fit_one(recorded_file, FitSettings(name="x"))
    assert counts[0] > 0
    assert sum(counts) == SOME.n_passages
    assert again.sha256 == expected.sha256
