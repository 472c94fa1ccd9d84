"Streams of pieces that cannot meet, measures that say when they cannot answer, and settings checked before any work."

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from dde_kit import music
from dde_kit.music import (
    PRESETS,
    STREAMS,
    Limiter,
    Source,
    Tracks,
    border_steps,
    correlation,
    drawn,
    fad_curve,
    generate,
    key_agreement,
    patchwork,
    piece_rng,
    procedural,
    ready,
    score_table,
    tempo_agreement,
    train_part,
)

TINY = PRESETS["tiny"]
L = TINY.patch
SEEDS = (0, 1, 2, 7, 94, 101, 102, 2**31, 2**32 - 103, 2**32 - 102, 2**32 - 101, 2**32, 2**32 + 1, 2**64, 2**96 - 102)


# --- streams


def test_streams_cannot_meet():
    "Not even where a large seed and a number are written with the same words."
    keys = [(s, i, r) for s in (*SEEDS, *STREAMS.values()) for i in (0, 1, 2**32 - 1) for r in SEEDS]
    first = {k: tuple(piece_rng(*k).integers(2**62, size=2)) for k in dict.fromkeys(keys)}
    assert len(set(first.values())) == len(first)


def test_runs_have_pieces_of_their_own(monkeypatch):
    "Training, held-out, test and choosing pieces, for any seeds: no two are the same."
    numbers = lambda rng, seconds, rate: rng.uniform(-1, 1, (4, round(seconds * rate)))
    monkeypatch.setattr(music, "piece", numbers)
    p = music.replace(TINY, pieces=6, parts=1, patch=64)
    s = Source("procedural", p)
    rows = lambda x: {tuple(v.flatten()[:8].tolist()) for v in x}
    train, held = rows(s.train(False).x), rows(s.held().x)
    seen, n = train | held, len(train) + len(held)
    for seed in SEEDS:
        for extra in (0, 1, 2, 5):
            x = rows((s.test(64, 4, seed, extra) * 32767).round().short())
            seen, n = seen | x, n + len(x)
    assert len(seen) == n == 6 + 48 + 4 * 4 * len(SEEDS)
    want = unit_of(drawn(6, 192, p.sample_rate, 0))[..., 64:-64]
    assert torch.equal(s.reference(64), want)  # training pieces, on purpose


def unit_of(x):
    return music.unit(x)


def test_seed_0_is_as_it_was():
    old = lambda number, i: np.rint(music.piece(np.random.default_rng([number, i]), 0.5, 4000) * 32767)
    s = Source("procedural", TINY)
    for number, x in ((102, s.test(2000, 2)), (103, s.test(2000, 2, extra=1)), (0, procedural(2, 0.5))):
        assert all(np.array_equal(old(number, i), (x[i] * 32767).round().numpy()) for i in range(2))
    assert all(np.array_equal(old(101, i), s.held().x[i, :, :2000]) for i in range(1))
    assert np.array_equal(music.facts(3), music.facts(3, 0)) and STREAMS["train"] == 0


@pytest.mark.parametrize("seed", [-1, -102, 0.5, None, "0", True])
def test_seeds_are_whole_numbers_from_0(seed):
    s = Source("procedural", TINY)
    D = lambda x, sigma, y=None: x
    for f in (
        lambda: s.test(100, 2, seed),
        lambda: procedural(2, 1, seed=seed),
        lambda: generate(D, 2, 100, seed=seed),
        lambda: train_part("base", "tiny", Tracks(torch.ones(1, 4, 9000, dtype=torch.int16)), "x", seed=seed),
        lambda: music.facts(0, seed),
    ):
        with pytest.raises(ValueError, match="whole number of at least 0|stream="):
            f()


# --- agreement


def tones(pitches, n=2 * L, amplitude=0.1):
    "Chords in bass, guitar and piano."
    t = torch.arange(n) / 4000
    x = torch.zeros(1, 4, n)
    x[:, [0, 2, 3]] = sum(amplitude * torch.sin(2 * math.pi * 261.63 * 2 ** (k / 12) * t) for k in pitches)
    return x


def test_key_is_about_pitch():
    "The same seven notes agree, however loud; a tritone away they do not."
    major = music.SCALE["major"]
    ends = lambda a, b: key_agreement(torch.cat([a, b], -1), 4000, 2 * L).item()
    same = ends(tones(major), 0.3 * tones(major))
    fifth, tritone = (
        ends(tones(major), tones([k + 7 for k in major])),
        ends(tones(major), tones([k + 6 for k in major])),
    )
    assert same > 0.999 > fifth > 0.4 > -0.3 > tritone
    assert ends(tones(major), tones([k + 12 for k in major])) > 0.9  # an octave is no other key


def test_key_does_not_hear_drums():
    x = tones(music.SCALE["major"], 4 * L)
    x[:, 1, : 2 * L] = torch.randn(2 * L)
    assert key_agreement(x, 4000, 2 * L).item() > 0.999


NOTHING = dict(
    silence=torch.zeros(2, 4, 4 * L),
    hiss=1e-6 * torch.randn(2, 4, 4 * L, generator=torch.Generator().manual_seed(0)),
    constant=torch.full((2, 4, 4 * L), 0.5),
    too_high=0.3 * torch.sin(2 * math.pi * 1500 * torch.arange(4 * L) / 4000).expand(2, 4, -1),
)


@pytest.mark.parametrize("name", list(NOTHING))
def test_no_key_and_no_pulse_where_there_is_none(name):
    x = NOTHING[name]
    with pytest.warns(UserWarning, match="2 of 2 tracks are not judged.*silent"):
        assert np.isnan(key_agreement(x, 4000, L)).all()
    with pytest.warns(UserWarning, match="nothing is struck"):
        assert np.isnan(tempo_agreement(x, 4000, L)).all()


def test_a_silent_end_is_no_agreement():
    x = procedural(3, 4 * L / 4000, seed=5)
    x[1, ..., -L:] = 0
    with pytest.warns(UserWarning, match="1 of 3 tracks"):
        assert np.isnan(key_agreement(x, 4000, L)).tolist() == [False, True, False]
    with pytest.warns(UserWarning, match="1 of 3 tracks"):
        assert np.isnan(tempo_agreement(x, 4000, L)).tolist() == [False, True, False]


def test_steady_tones_have_no_pulse():
    x = tones((0, 4, 7), 4 * L)
    with pytest.warns(UserWarning, match="nothing is struck"):
        assert np.isnan(tempo_agreement(x, 4000, L)).all()


def test_constant_rows_do_not_correlate():
    "Rounding is no pattern."
    a = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    a[1] = 0.1 + 1e-7 * a[0]
    assert correlation(a, a).isnan().tolist() == [False, True, False]
    assert correlation(a, 1 - a).isnan().tolist() == [False, True, False] and correlation(a, -a)[0] == pytest.approx(-1)


def test_borders_of_nothing():
    with pytest.warns(UserWarning, match="nothing changes"):
        steps = border_steps(torch.zeros(2, 4, 16_000), 4000, [8000])
    assert all(np.isnan(v).all() for v in steps.values())


def test_patchwork_of_one_track_is_the_track():
    with pytest.raises(ValueError, match="at least 2"):
        patchwork(torch.rand(1, 4, 100), 30)


def test_curve_does_not_pretend_to_have_more_tracks():
    a = torch.randn(8, 2, 4)
    with pytest.raises(ValueError, match="There are 8 tracks"):
        fad_curve(a, a, [4, 16])


def test_table_where_some_cannot_be_judged():
    "A silent method has empty cells, and other rows are as without it; one track has values without intervals."
    ear = music.audio_extractor("random features")
    real, base = (procedural(4, TINY.length(5) / 4000, seed=k) for k in (5, 6))
    tracks = dict(MultiDiffusion=base, real=real)
    table = lambda d: score_table({k: ear(v, 4000) for k, v in d.items()}, ear(real, 4000), d, TINY)
    with warnings.catch_warnings(action="ignore"):
        with_silence, without = table(tracks | dict(DDE=0 * real)), table(tracks)
    assert with_silence.loc["DDE", ["key", "tempo", "key closed", "border energy"]].isna().all()
    assert with_silence.loc["real", "key"] == without.loc["real", "key"]
    with warnings.catch_warnings(action="ignore"):
        few = table(tracks | dict(DDE=base[:2], real=real[:1]))
    assert math.isnan(few.loc["DDE", "key closed"]) and few.loc["DDE", "key"].value == pytest.approx(
        np.mean(key_agreement(base[:2], 4000, L))
    )
    one = table(dict(real=real[:1]))
    assert one.loc["real", "key"].value == key_agreement(real[:1], 4000, L)[0] and math.isnan(one.loc["real", "key"].lo)


# --- rules


class Half(torch.nn.Module):
    sigma_data = 0.2

    def forward(self, x, sigma, y=None):
        return x / 2


def test_limiter_limits_and_ready_leads_away():
    "Twice the limit comes out at the limit; inside the window of the lead an estimate grows, outside it stays."
    x = torch.full((1, 4, 64), 0.4)
    said = Limiter(Half(), [0.02] * 4)(x, torch.ones(1))
    assert torch.allclose(said.square().mean(-1), torch.full((1, 4), 0.02))
    led = lambda s: ready(Half(), TINY)(x, torch.full((1,), s)).mean().item()
    low, high = TINY.led["below"] * 0.9, TINY.led["below"] * 1.1
    assert led(low) == pytest.approx(0.2 * (1 + TINY.led["w"])) and led(low) > 0.2 == pytest.approx(led(high))
    assert led(TINY.led["above"] * 0.9) == pytest.approx(0.2)
    loud = ready(Half(), TINY, [0.01] * 4)(x, torch.full((1,), low))
    assert torch.allclose(loud.square().mean(-1), torch.full((1, 4), TINY.limit * 0.01))


# --- before the work


def test_training_is_refused_before_it_begins(tmp_path, monkeypatch):
    "Tracks that are too short, or settings that do not fit: before the base is loaded and the network built."
    monkeypatch.setattr(music, "load", lambda *a: pytest.fail("the base was loaded"))
    monkeypatch.setattr(music, "build", lambda *a: pytest.fail("the network was built"))
    short = Tracks(drawn(2, TINY.length(2), 4000, 0))
    long = Tracks(drawn(2, TINY.length(5), 4000, 0))
    for tracks, kw, words in (
        (short, {}, "longest of these"),
        (long, dict(held=short), "longest of these"),
        (long, dict(noise=(0, math.nan)), "noise"),
        (long, dict(sigma_data=-1), "standard deviation"),
    ):
        with pytest.raises(ValueError, match=words):
            train_part("coordinator", "tiny", tracks, tmp_path / "m", base="music-tiny/base", **kw)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong,words",
    [
        (dict(train="false", seed=-1, methods="DDE,DDDE"), ("train='false'", "seed=-1", "no method 'DDDE'")),
        (dict(resample="False", missing="maybe", parts=1.5), ("resample='False'", "missing='maybe'", "parts=1.5")),
    ],
)
def test_parameters_of_the_notebook(tmp_path, wrong, words):
    "Type and value, all at once, before any work."
    papermill = pytest.importorskip("papermill")
    nb = Path(__file__).resolve().parent.parent / "nbs" / "10_music.ipynb"
    with pytest.raises(papermill.PapermillExecutionError) as e:
        papermill.execute_notebook(nb, tmp_path / "o.ipynb", wrong, cwd=str(tmp_path), progress_bar=False)
    assert e.value.ename == "ValueError" and all(w in e.value.evalue for w in words), e.value.evalue
    assert [f.name for f in tmp_path.iterdir()] == ["o.ipynb"]
