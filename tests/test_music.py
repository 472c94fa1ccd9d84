"The music domain: pieces, files, presets, FAD and VGGish against independent computations, agreement, training."

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dde_kit as dde
from dde_kit import music
from dde_kit.music import (
    PRESETS,
    STEMS,
    EarNet,
    Folder,
    Tracks,
    VGGish,
    audio_extractor,
    border_steps,
    build,
    clipped,
    drawn,
    draw_style,
    facts,
    fad,
    fad_curve,
    fad_influence,
    generate,
    key_agreement,
    layouts,
    load_ear,
    load_vggish,
    lines_of,
    onsets,
    patchwork,
    piece,
    pitch,
    procedural,
    read_tracks,
    score_table,
    tempo_agreement,
    train_part,
    trained,
    unit,
    vggish_input,
    write_wav,
)

sf = pytest.importorskip("soundfile")
TINY = PRESETS["tiny"]


# --- pieces


def test_pieces_are_a_function_of_seed_and_number():
    x = procedural(3, 2, seed=5)
    assert x.shape == (3, 4, 8000) and x.dtype == torch.float32 and x.abs().max() <= 1 and (x.std((0, 2)) > 0.02).all()
    assert torch.equal(procedural(2, 2, seed=5), x[:2]) and torch.equal(procedural(3, 1.2, seed=5), x[..., :4800])
    assert not torch.equal(procedural(3, 2, seed=6), x)
    with pytest.raises(ValueError, match="positive"):
        procedural(2, 0)


def test_same_piece_on_every_machine():
    "To 8 bits: the last of 16 may depend on the mathematics library."
    x = (procedural(2, 2, seed=5) * 127).round().numpy()
    assert np.abs(x.reshape(-1)[1000::6000] - np.array(PIECE)).max() <= 1


PIECE = (-4, 6, 1, 31, 30, 40, 14, -2, 0, -41, -7)


def test_another_rate_is_the_same_music():
    "Loudness over time of a piece does not depend on the sample rate."
    a, b = (procedural(4, 3, seed=1, rate=r).square().unflatten(2, (30, -1)).mean(3).sqrt() for r in (4000, 8000))
    assert a.shape == b.shape and np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.95


def test_notes_belong_to_the_scale():
    for i in range(40):
        st = draw_style(np.random.default_rng([1, i]))
        inside = {(st["tonic"] + s) % 12 for s in music.SCALE[st["mode"]]}
        k, at = onsets(st, "guitar", 6.0)
        assert (np.diff(at) > 0).all() and at[-1] > 6
        for third in (0, 1, 2, st["figure"][k % 4]):
            assert {int(v) % 12 for v in pitch(st, k, third, 60)} <= inside
        assert ((pitch(st, k, 0, 28) >= 28) & (pitch(st, k, 0, 28) < 40)).all()


def test_style_is_kept():
    "Key, pulse and mix agree between the ends of real pieces and not of patchwork."
    x = procedural(24, TINY.length(9) / 4000, seed=2)
    w = patchwork(x, TINY.patch)
    for f in (key_agreement, tempo_agreement):
        assert np.nanmean(f(x, 4000, TINY.patch)) > 0.7 > 0.4 > np.nanmean(f(w, 4000, TINY.patch))
    loud = lambda v: v.square().mean(2).log()
    apart = lambda v: (loud(v[..., : TINY.patch]) - loud(v[..., -TINY.patch :])).abs().mean()
    assert apart(x) < 0.5 * apart(w)


def test_notes_begin_on_the_clock():
    "Silence before and between strokes of the guitar lasts whole ticks, whatever the tempo and the rate."
    for rate in (4000, 8000):
        tick = round(music.TICK * rate)
        for i in range(8):
            st = draw_style(np.random.default_rng([9, i]))
            x = piece(np.random.default_rng([9, i]), 4, rate)[2]
            at = np.rint(onsets(st, "guitar", 3.0)[1] * rate).astype(int)
            assert (at % tick == 0).all() and st["ticks"] in range(6, 11)
            first = at[0]
            assert (x[:first] == 0).all() and np.abs(x[first : first + tick]).max() > 0


def test_crops_begin_on_ticks():
    x = torch.arange(4 * 2048).reshape(1, 1, -1).expand(3, 4, -1).to(torch.int16)
    got = Tracks(x, 128).crops(512)(torch.Generator().manual_seed(0), 64)[0] * 32767
    assert (got[:, 0, 0].round() % 128 == 0).all() and got[:, 0, 0].unique().numel() > 20


def test_patchwork_keeps_parts():
    x = torch.randn(5, 4, 100)
    w = patchwork(x, 30)
    for k in range(4):
        assert torch.equal(w[1, :, 30 * k : 30 * k + 30], x[(1 + k) % 5, :, 30 * k : 30 * k + 30])


def test_is_fast():
    import time

    t = time.process_time()
    procedural(4, 8.2)
    assert time.process_time() - t < 2


# --- files


def write_track(folder, x, rate=4000, stems=STEMS, kind="wav", **kw):
    folder.mkdir(parents=True, exist_ok=True)
    for s, v in zip(stems, x):
        sf.write(folder / f"{s}.{kind}", np.asarray(v).T, rate, **kw)
    return folder


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_reads_what_was_written(tmp_path, kind):
    x = procedural(3, 1.5, seed=1)
    for i, split in enumerate(("train", "train", "test")):
        write_track(tmp_path / split / f"t{i}", x[i], kind=kind)
    train, held = read_tracks(tmp_path, 4000)
    assert len(train) == 2 and len(held) == 1 and train.lengths() == [6000, 6000]
    assert torch.allclose(train.middle(6000), x[:2], atol=1e-4) and torch.allclose(
        train.read(1, 1234, 500), x[1, :, 1234:1734], atol=1e-4
    )
    a, b = (
        t.crops(1000, 2000)(torch.Generator().manual_seed(3), 4)[0]
        for t in (train, Tracks((x[:2] * 32767).round().short()))
    )
    assert torch.allclose(a, b, atol=1e-4)  # the same crops, from disk or from memory
    assert torch.allclose(held.middle(2000)[0], x[2, :, 2000:4000], atol=1e-4)


def test_split_without_folders(tmp_path):
    for i in range(6):
        write_track(tmp_path / f"t{i}", torch.rand(4, 100))
    train, held = read_tracks(tmp_path, 4000)
    assert len(train) == 5 and len(held) == 1
    with pytest.raises(FileNotFoundError, match="procedural"):
        read_tracks(tmp_path / "no", 4000)
    with pytest.raises(ValueError, match="at least two tracks"):
        read_tracks(tmp_path / "t0", 4000)


def test_split_of_a_manifest(tmp_path):
    for i in range(4):
        write_track(tmp_path / f"t{i}", torch.rand(4, 100))
    write = lambda *splits: (tmp_path / "manifest.json").write_text(
        json.dumps(dict(tracks={f"t{i}": dict(split=s) for i, s in enumerate(splits)}))
    )
    write("test", "train", "validation", "train")
    train, held = read_tracks(tmp_path, 4000)
    assert [t.tracks[0][0]["bass"].parent.name for t in (train, held)] == ["t1", "t0"] and len(train) == len(held) == 2
    write("train", "train", "train", "train")
    assert len(read_tracks(tmp_path, 4000)[1]) == 1  # nothing is held out there: the last fifth is


def test_load_cuts_and_leaves_silence_out(tmp_path):
    x = torch.rand(4, 1000) - 0.5
    x[:, 300:600] = 0
    t = Folder([write_track(tmp_path / "t", x)], 4000).load(300, progress=False)
    assert len(t) == 2 and torch.allclose(unit(t.x[1]), x[:, 600:900], atol=1e-4)


def test_files_that_do_not_fit(tmp_path):
    x = torch.rand(4, 4000) - 0.5
    w = lambda name, v, **kw: write_track(tmp_path / name, v, **kw)
    with pytest.raises(ValueError, match="resample=True"):
        Folder([w("rate", x, rate=8000)], 4000)
    with pytest.raises(FileNotFoundError, match="no piano.*missing='silence'"):
        Folder([w("three", x[:3], stems=STEMS[:3])], 4000)
    with pytest.raises(FileNotFoundError, match="none of"):
        Folder([tmp_path], 4000)
    with pytest.raises(ValueError, match="error.*silence"):
        Folder([], 4000, missing="maybe")
    with pytest.raises(ValueError, match="longest of these"):
        Folder([w("short", x)], 4000).crops(5000)
    nan = x.clone()
    nan[2, 2000] = math.nan
    f = Folder([w("nan", nan, subtype="FLOAT")], 4000)
    with pytest.raises(ValueError, match="guitar.wav holds NaN"):
        f.read(0, 0, 4000)
    assert f.read(0, 0, 1000).isfinite().all()
    with pytest.raises(ValueError, match="NaN"):
        f.inspect()
    f = Folder([w("silent", 0 * x)], 4000)
    with pytest.raises(ValueError, match="silent"):
        f.crops(1000)(torch.Generator().manual_seed(0), 2)
    assert len(f.inspect()[0]) == 4
    long = [*x[:3], torch.rand(5000)]
    with pytest.raises(ValueError, match="differ in length"):
        Folder([w("length", long)], 4000)
    (tmp_path / "rate" / "bass.wav").write_bytes(b"RIFF0000")
    with pytest.raises(ValueError, match="damaged"):
        Folder([tmp_path / "rate"], 4000, resample=True)


def test_stereo_silence_and_resampling_are_said(tmp_path):
    t = np.arange(16_000) / 8000
    stems = [np.stack([np.sin(2 * np.pi * f * t), np.zeros_like(t)]) * 0.5 for f in (220, 330, 440)]
    said = []
    f = Folder(
        [write_track(tmp_path / "t", stems, rate=8000, stems=STEMS[:3])],
        4000,
        missing="silence",
        resample=True,
        say=said.append,
    )
    assert len(said) == 3 and "mono" in " ".join(said)
    x = f.middle(4000)[0]
    want = 0.25 * torch.sin(
        2 * math.pi * torch.tensor([220.0, 330.0, 440.0])[:, None] * (torch.arange(4000) + 2000) / 4000
    )
    assert x.shape == (4, 4000) and (x[:3, 50:-50] - want[:, 50:-50]).abs().max() < 0.01 and not x[3].any()


def test_silent_places_are_avoided():
    x = torch.zeros(1, 4, 10_000, dtype=torch.int16)
    x[..., 4900:5200] = 1000
    got, _ = Tracks(x).crops(1000)(torch.Generator().manual_seed(0), 8)
    assert (got.abs().amax((1, 2)) > 0).all()


def test_wav_round_trip(tmp_path):
    x = torch.tensor([[0.0, 0.5, -1, 1.5]])[0]
    assert write_wav(tmp_path / "a" / "x.wav", x, 4000) == 0.25
    y, rate = sf.read(tmp_path / "a" / "x.wav")
    assert rate == 4000 and np.abs(y - x.clamp(-1, 1).numpy()).max() < 1e-4


# --- networks


@pytest.mark.parametrize(
    "part,n", [("base", 405_497_700), ("coordinator", 66_526_976), ("rnn", 16_811_604), ("rnn_overlap", 50_845_616)]
)
def test_paper_sizes(part, n):
    assert sum(v.numel() for v in dde.build(f"music/paper/{part}", device="meta").parameters()) == n


def test_plain_mean_has_half_the_weights():
    assert (
        sum(v.numel() for v in dde.build("music/paper/rnn_overlap", device="meta", blend=False).parameters())
        == 25_422_676
    )


def test_unknown_part():
    with pytest.raises(ValueError, match="'rnn_overlap'"):
        dde.build("music/tiny/critic")
    with pytest.raises(ValueError, match="not in the paper"):
        dde.build("music/paper/spectral")
    with pytest.raises(ValueError, match="take a multiple of 16"):
        dde.build("music/tiny/spectral", rows=100)


def test_spectral_hears_the_noise_of_its_base(tmp_path):
    "A base with another standard deviation of the data: the coordinator is built for it, and found again."
    tracks = Tracks(drawn(2, TINY.length(5), 4000, 0))
    few = dict(batch=2, warmup=1, steps=1, progress=False)
    base = train_part("base", "tiny", tracks, tmp_path / "base", sigma_data=0.3, **few)
    D = dde.load(train_part("spectral", "tiny", tracks, tmp_path / "spectral", base=base, **few))
    assert D.C.sigma_data == D.sigma_data == 0.3


def test_spectral_shipped_is_of_one_mind():
    "What is shipped says the same of a track whatever is in its batch, and its guidance is kept with it."
    D = dde.load("music-tiny/spectral")
    assert dict(w=D.w, above=D.above) == TINY.guidance["spectral"]
    told = TINY.guidance["coordinator"]
    D = dde.load("music-tiny/dde")
    assert {k: getattr(D, k) for k in told} == told and D.weight(20) == D.weight(5) / 2 == told["w"] / 2
    D = dde.load("music-tiny/spectral")
    x = torch.randn(2, 4, TINY.length(3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both, one = D(x, torch.full((2,), 2.0)), D(x[1:], torch.full((1,), 2.0))
    assert torch.allclose(both[1:], one, atol=1e-4)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_geometry(preset):
    p = PRESETS[preset]
    assert p.length(5) == 4 * p.patch and p.length(13) == 10 * p.patch and p.stride * 4 == 3 * p.patch
    assert (
        layouts(p, "rnn")[1] == [k * p.patch for k in (1, 2, 3, 4)] and layouts(p, "coordinator")[1][-1] == 4 * p.patch
    )
    assert p.patch % p.coordinator["patch"] == 0


def small_paper_cell(**kw):
    "The paper's recurrent network with narrow layers."
    narrow = dict(channels=16, attention_features=8, attention_heads=2, resnet_groups=4)
    return build(PRESETS["paper"], "rnn_overlap", **narrow, **kw)


def test_paper_cell_runs():
    torch.manual_seed(0)
    C, F = small_paper_cell(), dde.Tiling(2048, 1536).layout((2048 + 1536,))
    with torch.no_grad():
        y = C(torch.randn(2, 2, 4, 2048), torch.tensor([0.1, 1.0]), None, F)
    assert y.shape == (2, 2, 4, 2048) and y.isfinite().all()


@pytest.mark.parametrize("part", ["base", "coordinator", "spectral", "rnn", "rnn_overlap"])
def test_trains_and_resumes(tmp_path, part):
    "A few steps of every part of `tiny`; the composite loads with its base and answers for a length it never saw."
    tracks = Tracks(drawn(4, TINY.length(5), 4000, 0))
    few = dict(batch=2, warmup=1, progress=False)
    base = train_part("base", "tiny", tracks, tmp_path / "m" / "base", steps=2, **few)
    out = (
        base
        if part == "base"
        else train_part(
            part, "tiny", tracks, tmp_path / "m" / part, base=base, steps=2, held=tracks, held_batches=1, **few
        )
    )
    D = dde.load(out)
    assert (
        D.sampler == TINY.sampler
        and D.sigma_data == TINY.sigma_data
        and (tmp_path / "m" / f"{part}-training" / "log.csv").is_file()
    )
    told = dict(w=0, above=0, among=None) | TINY.guidance.get(part, {})
    assert {k: getattr(D, k, v) for k, v in told.items()} == told
    x = torch.randn(1, 4, TINY.patch if part == "base" else 2 * TINY.patch + TINY.patch // 2)
    with torch.no_grad():
        assert D(x, torch.ones(1)).shape == x.shape
    assert set(trained(tmp_path / "m")) >= {"base"}


def test_the_base_is_a_coordinator_alone():
    net = dde.build("music/tiny/base", device="meta", hidden=48, heads=2, depth=1)
    assert (
        type(net).__name__ == "DiT"
        and net.vit.blocks[0].qkv.in_features == 48
        and net.vit.reach == (1024, 128)
        and not net.vit.residual
    )
    with pytest.raises((TypeError, ValueError), match="colour"):
        dde.build("music/tiny/base", colour="red")


def test_led_away_from_silence():
    "Only where the preset says so, and inside its window: there an estimate is larger by the weight."
    led = music.ready(Quarter(), TINY)
    x = torch.full((1, 4, 16), 0.4)
    for s, k in ((0.2, 1), (1.0, 1 + TINY.led["w"]), (20.0, 1)):
        assert torch.allclose(led(x, torch.full((1,), s)), k * x / 4)
    assert torch.allclose(music.ready(Quarter(), PRESETS["paper"])(x, torch.ones(1)), x / 4)


def test_no_stem_louder_than_the_limit():
    "Each stem of each track by itself; what is below the limit is left exactly as it is."
    x = (
        torch.tensor([[2.0, 4.0, 8.0, 0.0], [1.0, 1.0, 1.0, 1.0]])[..., None].expand(2, 4, 32).clone()
    )  # a quarter of it: powers .25, 1, 4, 0 and 1/16
    said = music.Limiter(Quarter(), [1.0, 0.5, 0.25, 0.0])(x, torch.ones(2))
    assert torch.allclose(said[0].square().mean(-1), torch.tensor([0.25, 0.5, 0.25, 0.0]))
    assert torch.equal(said[1, :3], x[1, :3] / 4) and not said[1, 3].any()
    for bad in ([[1.0] * 4], [1.0, -1.0, 1.0, 1.0], [1.0, float("nan"), 1.0, 1.0]):
        with pytest.raises(ValueError, match="a power per stem"):
            music.Limiter(Quarter(), bad)
    with pytest.raises(ValueError, match="2 powers and the track 4 stems"):
        music.Limiter(Quarter(), [1.0, 1.0])(x, torch.ones(2))


def test_ready_is_limited_as_the_preset_says():
    x, s, power = torch.full((1, 4, 16), 2.0), torch.full((1,), 20.0), [0.01] * 4
    assert torch.allclose(music.ready(Quarter(), TINY, power)(x, s).square().mean(-1), torch.tensor(TINY.limit * 0.01))
    for p, told in ((TINY, None), (PRESETS["paper"], power)):
        assert torch.equal(music.ready(Quarter(), p, told)(x, s), x / 4)
    source, tracks = music.Source("procedural", TINY), torch.full((2, 4, 8), 0.5)
    tracks[0, 3] = 0
    tracks[:, 0] = 0
    source.reference = lambda size, n: tracks
    assert source.power().tolist() == [
        0,
        0.25,
        0.25,
        0.25,
    ]  # a stem that is silent in one track is as loud as in the other


class Quarter(torch.nn.Module):
    sigma_data = 0.2

    def forward(self, x, sigma, y=None):
        return x / 4


def test_generate_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    D = dde.EDMDenoiser(dde.build("music/tiny/base", hidden=32, depth=1, heads=2), 0.15)
    D.sampler = TINY.sampler | dict(steps=2)
    R = dde.MultiDiffusion(dde.Clamp(D), dde.Tiling(TINY.patch, TINY.stride))
    with torch.no_grad():
        a, b = (generate(R, 3, TINY.length(2), seed=1, batch=k) for k in (1, 3))
    assert torch.allclose(a, b, atol=1e-4) and a.abs().max() <= 1


def test_chunks_change_nothing():
    torch.manual_seed(0)
    base = dde.EDMDenoiser(dde.build("music/tiny/base", hidden=32, depth=1, heads=2), 0.15)
    for v in base.parameters():
        torch.nn.init.normal_(v, std=0.05)
    C, F, x = (
        dde.build("music/tiny/coordinator", depth=1),
        dde.Tiling(TINY.patch, TINY.stride),
        torch.randn(2, 4, TINY.length(5)),
    )
    with torch.no_grad():
        a, b = (dde.DDE(base, F, C, chunk=k)(x, torch.tensor([0.1, 2.0])) for k in (None, 3))
    assert torch.allclose(a, b, atol=1e-5)


class Still(torch.nn.Module):
    "A base that costs nothing: what matters here is the coordinator."

    sigma_data = 0.2

    def __init__(self):
        super().__init__()
        self.p = torch.nn.Parameter(torch.zeros(1))
        self.most = 0

    def forward(self, x, sigma, y=None):
        self.most = max(self.most, len(x))
        return 0.5 * x


@pytest.mark.skipif(not os.environ.get("DDE_KIT_SLOW"), reason="minutes of CPU: set DDE_KIT_SLOW=1")
def test_paper_geometry_in_bounded_memory():
    "13 parts of 2^18 samples, 26,624 tokens, through one step of DDE with the paper's coordinator: at most 6 GB."
    p = PRESETS["paper"]
    size = p.length(13)
    base = Still()
    D = dde.DDE(base, dde.Tiling(p.patch, p.stride), dde.build("music/paper/coordinator"), chunk=2)
    with torch.inference_mode():
        y = D(torch.randn(1, 4, size), torch.ones(1))
    assert y.shape == (1, 4, 10 * 2**18) and y.isfinite().all() and base.most == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 < 6


def test_paper_geometry_one_block():
    "The same with one narrow block: 26,624 tokens, positions and all."
    p = PRESETS["paper"]
    D = dde.DDE(
        Still(),
        dde.Tiling(p.patch, p.stride),
        dde.build("music/paper/coordinator", hidden=16, depth=1, heads=1, residual=True),
        chunk=2,
    )
    x = torch.randn(1, 4, p.length(13))
    with torch.inference_mode():
        y = D(x, torch.ones(1))
    assert (
        D.C.tables and next(iter(D.C.tables.values()))[0].shape[0] == 26_624 and torch.allclose(y, 0.5 * x, atol=1e-4)
    )


# --- FAD


def test_fad_equals_an_independent_implementation():
    "Means, covariances and scipy's matrix root, in float64; fewer windows than features, too."
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    for n, m, d in ((200, 300, 12), (500, 400, 32)):
        a, b = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), 1 + rng.normal(size=(m, d)) @ rng.normal(size=(d, d))
        ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * np.trace(sqrtm(ca @ cb)).real
        assert fad(a, b) == pytest.approx(want, rel=1e-6, abs=1e-6)
        assert fad(a.reshape(n // 4, 4, d), b.reshape(m // 4, 4, d)) == pytest.approx(want, rel=1e-6)


def test_fad_of_a_crowd_with_itself_is_zero():
    a = np.random.default_rng(0).normal(size=(50, 3, 8))
    assert fad(a, a) < 1e-9


def test_influence_by_track_is_the_derivative():
    "Weighting one track a little more changes FAD by its influence: one-sided jackknife against the formula."
    g = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(120, 3, 6, generator=g).double() + torch.randn(120, 1, 6, generator=g),
        torch.randn(500, 6, generator=g).double(),
    )
    _, i, _ = fad_influence(a, b)
    out = torch.tensor([fad(torch.cat([a[:k], a[k + 1 :]]), b) for k in range(20)])
    assert np.corrcoef(-(out - fad(a, b)) * 119, i[:20])[0, 1] > 0.99 and i.shape == (120,) and abs(i.mean()) < 1e-9


def test_intervals_know_tracks():
    "Windows that repeat each other are no new evidence."
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(60, 1, 6, generator=g), torch.randn(400, 6, generator=g)
    one, ten = (music.bootstrap("fad", v, b) for v in (a, a.expand(-1, 10, -1)))
    assert (ten.hi - ten.lo) / (one.hi - one.lo) == pytest.approx(1, abs=0.15)


def test_fad_curve_falls():
    g = torch.Generator().manual_seed(0)
    c = fad_curve(torch.randn(64, 2, 6, generator=g), torch.randn(500, 6, generator=g), [4, 16, 64])
    assert c.fad.is_monotonic_decreasing


# --- VGGish


def slow_log_mel(x, rate=16_000):
    "The front end of data sheet and paper, written once more: loops, float64, a plain Fourier sum."
    mel = lambda f: 1127 * math.log(1 + f / 700)
    edges = [mel(125) + (mel(7500) - mel(125)) * i / 65 for i in range(66)]
    W = np.zeros((257, 64))
    for k in range(1, 257):
        m = mel(k * rate / 2 / 256)
        for b in range(64):
            lo, mid, hi = edges[b : b + 3]
            W[k, b] = max(0.0, min((m - lo) / (mid - lo), (hi - m) / (hi - mid)))
    window = [0.5 - 0.5 * math.cos(2 * math.pi * i / 400) for i in range(400)]
    basis = np.exp(-2j * np.pi * np.outer(np.arange(400), np.arange(257)) / 512)
    out = []
    for i in range(1 + (len(x) - 400) // 160):
        out.append(np.log(np.abs((x[160 * i : 160 * i + 400] * window) @ basis) @ W + 0.01))
    out = np.array(out)
    return np.stack([out[96 * k : 96 * k + 96] for k in range(len(out) // 96)])


def test_front_end_equals_an_independent_computation():
    x = np.random.default_rng(0).uniform(-1, 1, 16_000 * 2 + 777)
    want = slow_log_mel(x)
    got = vggish_input(torch.from_numpy(x)[None])[0]
    assert got.shape == want.shape == (2, 96, 64) and np.abs(got.numpy() - want).max() < 1e-10
    assert np.abs(vggish_input(torch.from_numpy(x)[None].float())[0].numpy() - want).max() < 1e-4
    with pytest.raises(ValueError, match="0.975 seconds"):
        vggish_input(torch.zeros(1, 15_000))


def stand_in(seed=0):
    "Tensors of the published shapes, with numbers that keep activations of order one."
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in VGGish().state_dict().items()}
    g = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(s, generator=g) * (math.prod(s[1:]) ** -0.5 * 1.4 if len(s) > 1 else 0.1)
        for k, s in shapes.items()
    }


def test_vggish_network_and_files(tmp_path):
    "Names and shapes of the published state dict, both file formats, and the same numbers from plain functions."
    import torch.nn.functional as f
    from safetensors.torch import save_file

    t = stand_in()
    assert sorted(t) == sorted(
        [f"features.{i}.{w}" for i in (0, 3, 6, 8, 11, 13) for w in ("weight", "bias")]
        + [f"embeddings.{i}.{w}" for i in (0, 2, 4) for w in ("weight", "bias")]
    )
    assert t["embeddings.0.weight"].shape == (4096, 12288) and sum(v.numel() for v in t.values()) == 72_141_184
    save_file(t, tmp_path / "v.safetensors")
    torch.save(t, tmp_path / "vggish-10086976.pth")
    x = torch.randn(2, 96, 64)
    h = x[:, None]
    for i, pool in ((0, 1), (3, 1), (6, 0), (8, 1), (11, 0), (13, 1)):
        h = f.relu(f.conv2d(h, t[f"features.{i}.weight"], t[f"features.{i}.bias"], padding=1))
        h = f.max_pool2d(h, 2) if pool else h
    h = h.transpose(1, 3).transpose(1, 2).reshape(2, -1)
    for i in (0, 2, 4):
        h = f.linear(h if i == 0 else f.relu(h), t[f"embeddings.{i}.weight"], t[f"embeddings.{i}.bias"])
    for path in (tmp_path / "v.safetensors", tmp_path):
        with torch.no_grad():
            assert torch.allclose(load_vggish(path)(x), h, atol=1e-4)
    ear = audio_extractor("vggish", path=tmp_path)
    assert ear(torch.randn(3, 4, 4000 * 2), 4000).shape == (3, 2, 128) and ear.distance == "FAD"
    del t["features.3.bias"]
    save_file(t, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="no features.3.bias"):
        load_vggish(tmp_path / "w.safetensors")
    (tmp_path / "bad.pth").write_bytes((tmp_path / "v.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cut off"):
        load_vggish(tmp_path / "bad.pth")


def test_absent_weights_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DDE_KIT_VGGISH", raising=False)
    with pytest.raises(FileNotFoundError, match="DDE_KIT_VGGISH"):
        audio_extractor("vggish")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        audio_extractor("vggish", path=tmp_path / "no.pth")
    with pytest.raises(ValueError, match="kit-small-audio"):
        audio_extractor("ears")
    assert (
        "random" in audio_extractor("random features").distance
        and "FAD" not in audio_extractor("random features").distance
    )


# --- the kit's own ear


def test_ear_file_round_trip(tmp_path):
    net = EarNet().eval()
    music.save_feature_net(net, tmp_path / "e.safetensors")
    m = torch.randn(3, 96, 193)
    assert torch.equal(load_ear(tmp_path / "e.safetensors")(m), net(m))
    with pytest.raises(FileNotFoundError, match="train_ear"):
        load_ear(tmp_path / "no")
    (tmp_path / "e.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(ValueError, match="not a whole EarNet file"):
        load_ear(tmp_path / "e.safetensors")


def test_windows_of_the_ear():
    ear = audio_extractor("random features")
    assert ear(procedural(2, TINY.length(5) / 4000), 4000).shape == (2, 3, 16) and ear(
        torch.randn(2, TINY.length(13)), 4000
    ).shape == (2, 9, 16)
    assert ear(torch.randn(1, 8000 * 6), 8000).shape == (1, 1, 16)
    with pytest.raises(ValueError, match="at least two"):
        ear(torch.randn(1, 4000), 4000)
    with pytest.raises(ValueError, match="NaN"):
        ear(torch.full((1, 16_384), math.nan), 4000)


def test_facts():
    f = facts(3)
    st = draw_style(np.random.default_rng([0, 3]))
    assert f.shape == (26,) and f[:12].sum() == 1 and f[12] == pytest.approx(math.log(st["ticks"]))


def test_shipped_ear_hears():
    "It knows scale and tempo of pieces that it never heard, hears patchwork, and hears noise."
    ear = audio_extractor("kit-small-audio")
    assert music.ear_path().stat().st_size < 1e6
    x = procedural(120, TINY.length(5) / 4000, seed=88)
    with torch.no_grad():
        guess = ear.net.head(torch.from_numpy(ear(x, 4000)[:, 1]))
    truth = np.stack([facts(i, 88) for i in range(120)])
    assert (guess[:, :12].argmax(1).numpy() == truth[:, :12].argmax(1)).mean() > 0.6
    assert np.corrcoef(guess[:, 12], truth[:, 12])[0, 1] > 0.7
    reference = ear(procedural(120, TINY.length(5) / 4000, seed=89), 4000)
    real, wrong, rough = (
        fad(ear(v, 4000), reference) for v in (x, patchwork(x, TINY.patch), x + 0.05 * torch.randn_like(x))
    )
    assert wrong > 2 * real and rough > 2 * real


# --- agreement and borders


def test_agreement_measures_what_it_says():
    "The same piece played a semitone higher at its end, or faster."
    l = TINY.patch
    x = procedural(12, TINY.length(5) / 4000, seed=4)
    up = torch.cat(
        [
            x[..., :-l],
            torch.stack(
                [
                    torch.stack(
                        [
                            torch.nn.functional.interpolate(
                                s[None, None, -int(l * 1.0595) - 1 :], size=l, mode="linear"
                            )[0, 0]
                            for s in v
                        ]
                    )
                    for v in x
                ]
            ),
        ],
        -1,
    )
    assert np.nanmean(key_agreement(x, 4000, l)) - np.nanmean(key_agreement(up, 4000, l)) > 0.4
    fast = torch.cat([x[..., :-l], torch.nn.functional.interpolate(x[..., -int(l * 1.3) :], size=l, mode="linear")], -1)
    assert np.nanmean(tempo_agreement(x, 4000, l)) - np.nanmean(tempo_agreement(fast, 4000, l)) > 0.3


def test_border_steps():
    x = torch.randn(40, 4, 16_000, generator=torch.Generator().manual_seed(0))
    at = [4000, 8000, 12_000]
    for v in border_steps(x, 4000, at).values():
        assert abs(v.mean() - 1) < 0.2  # 120 borders
    x[..., 4000:8000] *= 20
    x[..., 12_000:] *= 20
    assert border_steps(x, 4000, at)["energy"].min() > 5
    assert (
        lines_of("Concat", 4 * TINY.patch, TINY) == [TINY.patch * k for k in (1, 2, 3)]
        and len(lines_of("DDE", 4 * TINY.patch, TINY)) == 8
    )


def test_table():
    x = procedural(6, TINY.length(5) / 4000, seed=4)
    ear = audio_extractor("random features")
    tracks = {
        "Concat": patchwork(x, TINY.patch),
        "MultiDiffusion": x + 0.02 * torch.randn_like(x),
        "DDE": x,
        "real": procedural(6, TINY.length(5) / 4000, seed=5),
    }
    t = score_table({k: ear(v, 4000) for k, v in tracks.items()}, ear(x, 4000), tracks, TINY)
    assert (
        list(t.index) == list(tracks)
        and t.loc["DDE", "FAD"].value < 1e-6
        and t.loc["DDE", "FAD / best of two"].value < 1e-6
    )
    assert t.loc["Concat", "tempo"].hi < t.loc["real", "tempo"].lo
    assert clipped(torch.ones(1, 4, 10)).item() == 1


# --- optional packages


def test_works_without_optional_packages_and_says_so():
    "Import, pieces, presets and measures need neither torchaudio nor soundfile; what does says what to install."
    code = """
import sys
for m in ('torchaudio', 'soundfile', 'audio_diffusion_pytorch'):
    sys.modules[m] = None
import dde_kit as dde
from dde_kit import music, maps
x = music.procedural(2, 2.1)
music.key_agreement(x, 4000, 4000)
music.audio_extractor('kit-small-audio')(x, 4001)
dde.build('music/tiny/base')
for f, word in (
    (lambda: music.write_wav('x.wav', x[0], 4000), 'soundfile'),
    (lambda: dde.build('music/paper/base', device='meta'), 'audio-diffusion-pytorch==0.0.43'),
):
    try:
        f()
    except ImportError as e:
        assert word in str(e) and 'pip install' in str(e), e
    else:
        raise SystemExit(word)
"""
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert r.returncode == 0, r.stderr[-2000:]


# --- the notebook


def toy_models(folder):
    "All parts, narrow and hardly trained, that sample in two steps."
    tracks = Tracks(drawn(4, TINY.length(5), 4000, 0))
    for name, part in music.PARTS.items():
        low = dict(widths=(16,), blocks=(1,), stem=4, fine=8)
        form = dict(
            coordinator=dict(hidden=48, depth=1, heads=1),
            base=dict(hidden=48, depth=1, heads=1),
            spectral=dict(trunk=low, picture=low),
        ).get(part, dict(widths=(16, 32), blocks=(1, 1)))
        out = train_part(
            part,
            "tiny",
            tracks,
            folder / name,
            base=None if part == "base" else folder / "base",
            form=form,
            steps=1,
            batch=1,
            warmup=1,
            progress=False,
        )
        config = json.loads((out / "config.json").read_text())
        config["sampler"]["steps"] = 2
        (out / "config.json").write_text(json.dumps(config))
    return folder


def test_papermill_all_methods(tmp_path):
    "Every row of the table at two lengths, from models of one's own, somewhere else."
    papermill, pd = pytest.importorskip("papermill"), pytest.importorskip("pandas")
    nb = Path(__file__).resolve().parent.parent / "nbs" / "10_music.ipynb"
    papermill.execute_notebook(
        nb,
        tmp_path / "out.ipynb",
        cwd=str(tmp_path),
        progress_bar=False,
        parameters=dict(
            weights=str(toy_models(tmp_path / "toy")), results=str(tmp_path / "results"), samples=2, parts=6, seed=1
        ),
    )
    out = tmp_path / "results" / "music" / "tiny"
    for name in ("4l", "4.75l"):
        t = pd.read_csv(out / f"{name}-n2-seed1.csv", index_col=0)
        assert (
            list(t.index) == [*music.METHODS, "real", "patchwork"]
            and (t["FAD lo"] <= t["FAD"]).all()
            and t.loc["real", "tempo"] > t.loc["Concat", "tempo"]
        )
    x, rate = sf.read(out / "sound" / "DDE-4.75l.wav")
    assert rate == 4000 and len(x) == TINY.length(6)
    assert (
        len(list((out / "sound").glob("*.wav"))) == len(music.METHODS) + 4
        and json.loads((out / "4l-n2-seed1.json").read_text())["extractor"] == "kit-small-audio"
    )
