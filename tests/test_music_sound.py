"Sound as people have it: files that are damaged, lie, or are merely unusual; resampling and the mel spectrogram."

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dde_kit import music
from dde_kit.music import STEMS, DamagedSound, Folder, Tracks, procedural, read_tracks, resampled, unit, write_wav

sf = pytest.importorskip("soundfile")
ROOT = Path(__file__).resolve().parent.parent


def track(folder, x=None, rate=4000, stems=STEMS, kind="wav", **kw):
    "A folder of four sounds."
    folder.mkdir(parents=True, exist_ok=True)
    for s, v in zip(stems, music_like() if x is None else x):
        sf.write(folder / f"{s}.{kind}", np.asarray(v).T, rate, **kw)
    return folder


def music_like(n=4000):
    return torch.rand(4, n, generator=torch.Generator().manual_seed(0)) - 0.5


# --- resampling


@pytest.mark.parametrize(
    "old,new", [(44100, 4000), (8000, 4000), (4000, 16000), (22050, 8000), (48000, 44100), (11025, 4001), (4000, 4000)]
)
def test_resampling_keeps_what_is_heard(old, new):
    "A tone stays where it is, its phase too; what the new rate cannot hold is gone; the length is as it should be."
    n, low = old + 17, min(old, new)
    t, u = np.arange(n) / old, np.arange(math.ceil(n * new / old)) / new
    for f in (0.02, 0.2, 0.4):
        y = resampled(torch.from_numpy(np.sin(2 * np.pi * f * low * t))[None], old, new)
        assert y.shape == (1, len(u)) and y.dtype == torch.float32
        edge = 20 * math.ceil(new / low)
        assert np.abs(y[0].numpy() - np.sin(2 * np.pi * f * low * u))[edge:-edge].max() < 5e-3
    if 0.6 * new < 0.45 * old:
        y = resampled(torch.from_numpy(np.sin(2 * np.pi * 0.6 * new * t)), old, new)
        assert y[20:-20].abs().max() < 0.01


def test_resampling_against_a_sum():
    "Every sample by the definition: a Kaiser-windowed sinc over ten samples of the lower rate, of sum one."
    x = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    for old, new in ((7, 3), (3, 7), (441, 80)):
        up, down = new // math.gcd(old, new), old // math.gcd(old, new)
        half = 10 * max(up, down)
        k = np.arange(-half, half + 1)
        h = np.sinc(k / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
        h *= up / h.sum()
        want = np.zeros((2, math.ceil(300 * up / down)))
        for j in range(want.shape[1]):
            for i in range(300):
                if abs(j * down - i * up) <= half:
                    want[:, j] += x[:, i].numpy() * h[half + j * down - i * up]
        assert np.abs(resampled(x, old, new).numpy() - want).max() < 1e-5


@pytest.mark.parametrize("old,new", [(44100, 4000), (3000, 4000), (4410, 4000), (11025, 4001)])
def test_a_place_is_that_of_the_whole(tmp_path, old, new):
    "What is read at any place is what converting the whole file gives there, to the sample."
    x = procedural(1, 2, seed=3, rate=old)[0]
    f = Folder([track(tmp_path / "t", x, rate=old, subtype="FLOAT")], new, resample=True, say=lambda s: None)
    whole = resampled(x, old, new).clamp(-1, 1)
    assert f.lengths() == [2 * old * new // old]
    for at, n in ((0, 500), (1, 100), (1234, 2000), (2 * new - 300, 300)):
        assert torch.allclose(f.read(0, at, n), whole[:, at : at + n], atol=1e-6)
    assert not f.read(0, 2 * new + 100, 50).any()


# --- the mel spectrogram


def slow_mel(x):
    "Loops, float64 and a plain Fourier sum: HTK's scale, triangles in Hz, magnitudes."
    mel = lambda f: 2595 * math.log10(1 + f / 700)
    hz = lambda m: 700 * (10 ** (m / 2595) - 1)
    edges = [hz(mel(40) + (mel(1950) - mel(40)) * i / 97) for i in range(98)]
    W = np.zeros((513, 96))
    for k in range(513):
        f = 2000 * k / 512
        for b in range(96):
            lo, mid, hi = edges[b : b + 3]
            W[k, b] = max(0, min((f - lo) / (mid - lo), (hi - f) / (hi - mid)))
    t = np.arange(1024)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * t / 1024)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(513), t) / 1024)
    frames = [np.abs(waves @ (window * x[a : a + 1024])) for a in range(0, len(x) - 1023, 80)]
    return (np.array(frames) @ W).T


def test_mel_against_a_slow_one():
    x = procedural(1, 0.4, seed=6)[0].sum(0)
    want = (np.log(slow_mel(x.double().numpy()) + 1e-2) - 1.4) / 1.4
    got = music.log_mel(x[None])[0].numpy()
    assert got.shape == want.shape == (96, 8) and np.abs(got - want).max() < 1e-4


def test_mel_against_torchaudio():
    "Its triangles are computed in single precision: 1e-5 off, which shows where one ends beside a strong tone."
    ta = pytest.importorskip("torchaudio", exc_type=(ImportError, OSError)).transforms
    M = ta.MelSpectrogram(4000, n_fft=1024, hop_length=80, n_mels=96, f_min=40, f_max=1950, power=1.0, center=False)
    x = procedural(2, 4.1, seed=6).sum(1)
    assert (M.mel_scale.fb - music.ear_mel()).abs().max() < 2e-5
    assert (music.log_mel(x) - ((M(x) + 1e-2).log() - 1.4) / 1.4).abs().max() < 2e-4


def test_one_function_makes_both_kinds_of_triangles():
    "Both have their tops at the same frequencies; at a top nothing else sounds."
    for straight in ("mel", "Hz"):
        w = music.mel_matrix(20_001, 4000, 20, 100, 1900, straight)
        assert w.min() == 0 and w.max() > 0.999 and (w.sum(1) <= 1 + 1e-9).all()
    a, b = (music.mel_matrix(20_001, 4000, 20, 100, 1900, s) for s in ("mel", "Hz"))
    assert torch.equal(a.argmax(0), b.argmax(0)) and 0.001 < (a - b).abs().max() < 0.1


# --- values that are no sound


BAD = dict(nan=(math.nan, "NaN"), inf=(math.inf, "inf"), minus=(-math.inf, "-inf"), peak=(1e30, "1e+30"))


@pytest.fixture(params=list(BAD))
def spoilt(request, tmp_path):
    "Three tracks, one sample of one of which is no sound."
    for i in range(3):
        x = music_like(8000)
        if i == 1:
            x[2, 5000] = BAD[request.param][0]
        track(tmp_path / f"t{i}", x, subtype="FLOAT")
    said = []
    return Folder([tmp_path / f"t{i}" for i in range(3)], 4000, say=said.append), said, BAD[request.param][1]


def test_one_place_stops_and_names_it(spoilt):
    f, _, word = spoilt
    for bad in (lambda: f.read(1, 4500, 1000), lambda: f.middle(8000), f.inspect):
        with pytest.raises(ValueError, match=rf"guitar\.wav holds {word.replace('+', '.')} at sample 5000, 1\.250 s"):
            bad()
    assert f.read(1, 0, 4000).isfinite().all()


def test_many_places_leave_it_out_and_say_so(spoilt):
    f, said, word = spoilt
    t = f.load(2000, progress=False)
    assert len(t) == 3 * 4 - 1 and unit(t.x).std() > 0.2
    assert len(said) == 1 and said[0].startswith("Left out") and word in said[0] and "sample 5000" in said[0]
    draw = f.crops(2000)
    x, _ = draw(torch.Generator().manual_seed(0), 200)
    assert x.isfinite().all() and x.abs().max() <= 1 and (x.abs().amax((1, 2)) > 0).all()
    assert torch.equal(x, draw(torch.Generator().manual_seed(0), 200)[0])  # as before, however often it was met
    assert len(said) == 1


def test_nothing_but_damage_is_said(tmp_path):
    f = Folder([track(tmp_path / "t", music_like() * math.nan, subtype="FLOAT")], 4000, say=lambda s: None)
    with pytest.raises(ValueError, match="no piece of 1000 samples sounds"):
        f.load(1000, progress=False)
    with pytest.raises(ValueError, match="silent or damaged"):
        f.crops(1000)(torch.Generator().manual_seed(0), 2)


def test_doubles_too_large_for_floats(tmp_path):
    x = music_like().double()
    x[0, 10] = 1e300
    f = Folder([track(tmp_path / "t", x, subtype="DOUBLE")], 4000)
    with pytest.raises(ValueError, match="bass.wav holds inf at sample 10"):
        f.read(0, 0, 100)


# --- files of every kind


@pytest.mark.parametrize(
    "subtype,step",
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-24), ("FLOAT", 0)]
    + [("DOUBLE", 2**-24)],
)
def test_depths(tmp_path, subtype, step):
    x = music_like()
    f = Folder([track(tmp_path / "t", x, subtype=subtype)], 4000)
    assert (f.read(0, 0, 4000) - x).abs().max() <= step
    assert f.inspect() == ([], [])


def test_loud_files_are_cut_off_and_said(tmp_path):
    "Beyond [-1, 1] 16 bits begin again at the other end: nothing may change its sign."
    x = music_like() * 3
    said = []
    f = Folder([track(tmp_path / "t", x, subtype="FLOAT")], 4000, say=said.append)
    for got in (f.read(0, 0, 4000), unit(f.load(4000, progress=False).x[0])):
        assert (got - x.clamp(-1, 1)).abs().max() < 1e-4
    assert len(said) == 4 and "leaves [-1, 1]" in said[0] and "at sample" in said[0]
    assert len(f.inspect()[1]) == 4
    flat_topped = Folder([track(tmp_path / "c", (music_like() * 3).clamp(-1, 1))], 4000)
    assert len(flat_topped.inspect()[1]) == 4  # cut off by whoever made it
    over = Folder([track(tmp_path / "r", (music_like() * 3).clamp(-1, 1), rate=8000)], 4000, resample=True, say=str)
    assert over.read(0, 0, 2000).abs().max() <= 1 and over.load(2000, progress=False).x.abs().max() <= 32767


def test_stereo(tmp_path):
    x = music_like()
    both = torch.stack([x, 0.5 * x], 1)
    f = Folder([track(tmp_path / "s", both, subtype="FLOAT")], 4000, say=lambda s: None)
    assert torch.allclose(f.read(0, 0, 4000), 0.75 * x)
    f = Folder([track(tmp_path / "c", torch.stack([x, -x], 1), subtype="FLOAT")], 4000, say=lambda s: None)
    with pytest.raises(ValueError, match="bass.wav holds channels that cancel"):
        f.read(0, 0, 4000)


def test_stems_stay_in_their_order(tmp_path):
    "Every stem has a loudness of its own, in files that were written in another order."
    x = torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None].expand(4, 1000)
    track(tmp_path / "t", x.flip(0), stems=STEMS[::-1], subtype="FLOAT")
    for kw in ({}, dict(missing="silence"), dict(resample=True)):
        f = Folder([tmp_path / "t"], 4000, **kw)
        assert torch.allclose(f.read(0, 0, 10)[:, 0], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    (tmp_path / "t" / "drums.wav").unlink()
    f = Folder([tmp_path / "t"], 2000, missing="silence", resample=True, say=lambda s: None)
    got = f.read(0, 100, 10).mean(1)
    assert torch.allclose(got, torch.tensor([0.1, 0, 0.3, 0.4]), atol=1e-3)


def test_short_and_empty_stems(tmp_path):
    x = list(music_like())
    f = Folder([track(tmp_path / "a", [*x[:3], x[3][:3700]])], 4000)
    assert f.lengths() == [3700]
    with pytest.raises(ValueError, match="differ in length"):
        Folder([track(tmp_path / "b", [*x[:3], x[3][:3500]])], 4000)
    with pytest.raises(ValueError, match="piano.wav is empty"):
        Folder([track(tmp_path / "c", [*x[:3], x[3][:0]])], 4000)
    (track(tmp_path / "d") / "bass.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="bass.wav cannot be read as sound.*damaged"):
        Folder([tmp_path / "d"], 4000)


def test_names_of_files(tmp_path):
    "Any case; what other systems leave beside them is no sound; of two files for a stem the choice is said."
    x, said = music_like(), []
    t = track(tmp_path / "t", x, stems=[s.upper() for s in STEMS], kind="WAV")
    for s in STEMS:
        (t / f"._{s}.wav").write_bytes(b"\0\5\26\7")
    sf.write(t / "bass.flac", np.zeros(4000), 4000)
    f = Folder([t], 4000, say=said.append)
    assert torch.allclose(f.read(0, 0, 4000), x, atol=1e-4) and len(said) == 1 and "preference" in said[0]
    for k in ("a", "b"):
        track(tmp_path / "set" / k)
    track(tmp_path / "set" / "__MACOSX" / "a")
    train, held = read_tracks(tmp_path / "set", 4000)
    assert len(train) == len(held) == 1


# --- files that lie


def changed(file, at, bits):
    b = bytearray(file.read_bytes())
    b[at : at + len(bits)] = bits
    file.write_bytes(b)


def hours(file, frames):
    "Make a FLAC file claim another length: the last 36 bits of 8 bytes from 18 on."
    now = int.from_bytes(file.read_bytes()[18:26], "big")
    changed(file, 18, ((now >> 36 << 36) | frames).to_bytes(8, "big"))


@pytest.fixture
def asked(monkeypatch):
    "The most samples that are asked for at a time."
    most, read = [0], sf.SoundFile.read

    def counted(self, frames=-1, *a, **kw):
        most[0] = max(most[0], frames if frames >= 0 else self.frames)
        return read(self, frames, *a, **kw)

    monkeypatch.setattr(sf.SoundFile, "read", counted)
    return most


LIES = dict(
    wav_long=("wav", lambda f: changed(f, 40, struct.pack("<I", 4000 * 36_000 * 2))),
    wav_short=("wav", lambda f: changed(f, 40, struct.pack("<I", 400))),
    wav_cut=("wav", lambda f: f.write_bytes(f.read_bytes()[:4000])),
    wav_only_head=("wav", lambda f: f.write_bytes(f.read_bytes()[:36])),
    flac_long=("flac", lambda f: hours(f, 4000 * 36_000)),
    flac_unknown=("flac", lambda f: hours(f, 0)),
    flac_cut=("flac", lambda f: f.write_bytes(f.read_bytes()[:4000])),
    ogg_cut=("ogg", lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2])),
    not_sound=("wav", lambda f: f.write_bytes(b"<html>not found</html>" * 100)),
)


@pytest.mark.parametrize("lie", list(LIES))
def test_lies_about_the_length(tmp_path, lie, asked):
    "Refused at once, and without reading what is claimed."
    kind, change = LIES[lie]
    t = track(tmp_path / "t", kind=kind)
    change(t / f"guitar.{kind}")
    with pytest.raises(DamagedSound, match=rf"guitar\.{kind} .*(damaged|cut off|empty)"):
        Folder([t], 4000)
    assert asked[0] <= 1


def test_honest_oddities(tmp_path):
    "A length that was not known when writing began, notes behind the sound, a byte of padding."
    t = track(tmp_path / "t")
    changed(t / "bass.wav", 40, struct.pack("<I", 0xFFFFFFFF))
    with open(t / "drums.wav", "ab") as f:
        f.write(b"LIST" + struct.pack("<I", 5) + b"hello\0" + b"id3 " + struct.pack("<I", 9000) + bytes(9000))
    with open(t / "guitar.wav", "ab") as f:
        f.write(b"\0")
    assert Folder([t], 4000).lengths() == [4000]


def test_ten_hours_are_not_read_for_a_second(tmp_path, asked):
    "A long file that is what it says: only the place that is asked for is read."
    n = 4000 * 36_000
    t = track(tmp_path / "t", torch.zeros(4, 8))
    for s in STEMS:
        changed(t / f"{s}.wav", 40, struct.pack("<I", 2 * n))
        os.truncate(t / f"{s}.wav", 44 + 2 * n)  # holes: nothing is stored
    f = Folder([t], 4000)
    assert f.lengths() == [n] and f.middle(4000).shape == (1, 4, 4000) and asked[0] == 4000


def test_rates_that_nobody_has(tmp_path):
    t = track(tmp_path / "t")
    for s in STEMS:
        changed(t / f"{s}.wav", 24, struct.pack("<I", 2**31 - 1))
    with pytest.raises(ValueError, match="bass.wav claims 2147483647 samples per second"):
        Folder([t], 4000, resample=True)


# --- names that lead outside


@pytest.mark.parametrize(
    "name", ["../../../private", "../private", "a/../../private", "/etc", "", ".", "a/./../b", "..\\b"]
)
def test_manifest_stays_inside(tmp_path, name, monkeypatch):
    root = tmp_path / "x" / "y" / "set"
    for k in ("a", "b"):
        track(root / k)
    for p in (tmp_path / "private", tmp_path / "x" / "y" / "private"):
        track(p)
    (root / "manifest.json").write_text(json.dumps(dict(tracks={name: dict(split="train"), "b": dict(split="test")})))
    monkeypatch.setattr(sf, "SoundFile", lambda *a: pytest.fail(f"{a} was opened"))
    with pytest.raises(ValueError, match="not a folder inside of"):
        read_tracks(root, 4000)


def test_manifest_leaves_out_and_says_so(tmp_path):
    said = []
    for k in ("a", "b", "c"):
        track(tmp_path / k)
    split = dict(a=dict(split="train"), b=dict(split="test"), c=dict(split="omitted"))
    (tmp_path / "manifest.json").write_text(json.dumps(dict(tracks=split)))
    train, held = read_tracks(tmp_path, 4000, say=said.append)
    assert len(train) == len(held) == 1 and said == [
        "Left out: 1 tracks of the manifest, in no split that is read (c: 'omitted')."
    ]


def test_plain_locale_and_no_home(tmp_path):
    "Names outside of ASCII, in a folder and in its manifest, where nothing says how text is stored."
    root = tmp_path / "dïr ß"
    for k in ("Günther", "señor"):
        track(root / k)
    split = {"Günther": dict(split="train"), "señor": dict(split="test")}
    (root / "manifest.json").write_text(json.dumps(dict(tracks=split), ensure_ascii=False), encoding="utf-8")
    code = """
import sys
from pathlib import Path
from dde_kit import music
root = next(Path(sys.argv[1]).iterdir())
train, held = music.read_tracks(root, 4000)
print(music.write_wav(root / 'neu' / 'ä.wav', train.middle(1000)[0], 4000), train.tracks[0][0]['bass'])
music.audio_extractor('kit-small-audio')
"""
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "LANG", "PYTHONUTF8") and not k.startswith("LC_")}
    env |= dict(LC_ALL="C", PYTHONPATH=str(ROOT))
    r = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, cwd=tmp_path, env=env)
    assert r.returncode == 0, r.stderr.decode(errors="replace")[-2000:]
    assert (root / "neu" / "ä.wav").is_file() and "Günther".encode() in r.stdout


# --- writing


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    x = music_like()
    write_wav(tmp_path / "x.wav", x, 4000)
    before = (tmp_path / "x.wav").read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        write_wav(tmp_path / "x.wav", x * math.nan, 4000)

    def fails(path, *a, **kw):
        Path(path).write_bytes(b"RIFF")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sf, "write", fails)
    with pytest.raises(OSError, match="disk full"):
        write_wav(tmp_path / "x.wav", x, 4000)
    assert [f.name for f in tmp_path.iterdir()] == ["x.wav"] and (tmp_path / "x.wav").read_bytes() == before


def test_16_bits_only():
    "`Tracks` of floats would be read as silence."
    with pytest.raises(ValueError, match=r"round\(\)\.short\(\)"):
        Tracks(music_like()[None])
    with pytest.raises(ValueError, match="torch.int16"):
        unit(music_like())
