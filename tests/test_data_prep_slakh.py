"`data_prep.slakh` on archives in the sources' exact layout, on folders and on MIDI songs."

import csv
import hashlib
import importlib.util
import io
import json
import os
import shlex
import shutil
import sys
import tarfile
import time

import numpy as np
import pytest

for m in ("httpx", "tenacity", "filelock", "soundfile", "soxr", "yaml", "mido"):
    pytest.importorskip(m)
import mido
import soundfile as sf
import yaml
from bad_server import ROOT, BadServer, Killer
from data_prep import slakh
from data_prep.fetch import PrepError

SHARED = ROOT.parent / "shared" / "data" / "music"
STEMS = slakh.STEMS
BABY = "/records/4603870/files/babyslakh_16k.tar.gz"
REDUX = "/records/4599666/files/slakh2100_flac_redux.tar.gz"


def tone(hz, seconds, rate, level=0.2):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def sound(x, rate, kind="WAV", channels=1):
    out = io.BytesIO()
    sf.write(out, np.stack([x] * channels, 1) if channels > 1 else x, rate, format=kind, subtype="PCM_16")
    return out.getvalue()


def tar(members, mode):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, b in members.items():
            m = tarfile.TarInfo(name)
            m.size = len(b) if b is not None else 0
            if b is None:
                m.type = tarfile.DIRTYPE
            t.addfile(m, io.BytesIO(b or b""))
    return out.getvalue()


PARTS = dict(
    S00=(30, False), S01=(128, True), S02=(1, False), S03=(33, False), S04=(52, False), S05=(26, False), S06=(27, False)
)  # S04: a choir; S06: never rendered


def slakh_track(where, seed, rate=44100, kind="FLAC", seconds=1.5):
    out = {
        f"{where}/": None,
        f"{where}/mix.{kind.lower()}": sound(tone(99, seconds, rate), rate, kind),
        f"{where}/MIDI/S00.mid": b"MThd",
        f"{where}/all_src.mid": b"MThd",
    }
    out[f"{where}/metadata.yaml"] = yaml.safe_dump(
        dict(
            UUID=str(seed),
            stems={
                k: dict(program_num=p, is_drum=d, inst_class="x", audio_rendered=k != "S06")
                for k, (p, d) in PARTS.items()
            },
        )
    ).encode()
    for i, k in enumerate(PARTS):
        if k != "S06":
            out[f"{where}/stems/{k}.{kind.lower()}"] = sound(tone(200 + 100 * i + seed, seconds, rate, 0.1), rate, kind)
    return out


def redux():
    return tar(
        {
            k: v
            for i, (split, n) in enumerate(
                [("train", 1), ("train", 2), ("omitted", 3), ("validation", 1501), ("test", 1880)]
            )
            for k, v in slakh_track(f"slakh2100_flac_redux/{split}/Track{n:05d}", i).items()
        },
        "w:gz",
    )


def baby():
    return tar(
        {k: v for i in (1, 2, 3) for k, v in slakh_track(f"babyslakh_16k/Track{i:05d}", i, 16000, "WAV").items()},
        "w:gz",
    )


def mariani(stem):
    out = {}
    for i, (split, n) in enumerate([("train", 1), ("train", 2), ("validation", 1501), ("test", 1880)]):
        if (stem, n) == ("guitar", 2):
            continue  # a missing stem
        seconds = 1.4 if stem == "bass" else 1.5  # and one that ends early
        out[f"{stem}_22050/{split}/Track{n:05d}.wav"] = sound(
            tone(200 + 100 * STEMS.index(stem) + i, seconds, 22050), 22050, channels=2 if stem == "piano" else 1
        )
    return tar(out, "w:xz")


def go(tmp_path, *args, server=None, out="out", cache="cache"):
    slakh.main(
        [
            *map(str, args),
            "--out",
            str(tmp_path / out),
            "--base",
            server.url if server else "",
            "--cache",
            str(tmp_path / cache),
            "--pause",
            "0.002",
            "--timeout",
            ".5",
            "--tries",
            "4",
        ]
    )
    return check(tmp_path / out)


def check(out):
    "The written format of every track; gives {track: {stem: samples}} and the manifest."
    m = json.loads((out / "manifest.json").read_text())
    tracks = {}
    for t, facts in m["tracks"].items():
        assert sorted(p.name for p in (out / t).iterdir()) == [f"{s}.wav" for s in STEMS]
        info = [sf.info(out / t / f"{s}.wav") for s in STEMS]
        assert {(i.samplerate, i.channels, i.subtype, i.frames) for i in info} == {
            (22050, 1, "PCM_16", facts["samples"])
        }
        tracks[t] = {s: sf.read(out / t / f"{s}.wav")[0] for s in STEMS}
        for s in facts["missing"]:
            assert not tracks[t][s].any()
    for f, h in m["files"].items():
        assert hashlib.sha256((out / f).read_bytes()).hexdigest() == h
    assert len(m["files"]) == 4 * len(tracks) and not (out / ".work").exists() and not list(out.glob(".*"))
    return tracks, m


def pitches(x, n=2, rate=22050):
    "The `n` loudest frequencies in Hz."
    p = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    out = []
    for _ in range(n):
        k = int(p.argmax())
        out.append(k * rate / len(x))
        p[max(0, k - 20) : k + 20] = 0
    return sorted(out)


def tree(path):
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != "manifest.json"
    }


# --- Slakh ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source,path,data,bad",
    [("redux", REDUX, redux, ["truncated", 500]), ("baby", BABY, baby, ["html", (429, "0.1"), "reset"])],
)
@pytest.mark.parametrize("stream", [False, True])
def test_slakh(tmp_path, monkeypatch, source, path, data, bad, stream):
    "Sums of each class, resampled; what was never rendered and other classes are left out."
    b = data()
    monkeypatch.setitem(slakh.SLAKH, source, (slakh.SLAKH[source][0], hashlib.md5(b).hexdigest()))
    with BadServer({path: b}) as server:
        server.bad[path] = list(bad)
        tracks, m = go(tmp_path, "--source", source, *(["--stream"] if stream else []), server=server)
        assert server.sent[path] <= len(b) + 1000 and (tmp_path / "cache" / path.split("/")[-1]).exists() == (
            not stream
        )
        n = sum(server.asked.values())
        go(tmp_path, "--source", source, *(["--stream"] if stream else []), server=server)
        assert sum(server.asked.values()) == n
    assert sorted(tracks) == (
        ["Track00001", "Track00002", "Track01501", "Track01880"]
        if source == "redux"
        else ["Track00001", "Track00002", "Track00003"]
    )
    i = 0 if source == "redux" else 1
    x = tracks["Track00001"]
    assert np.allclose(pitches(x["guitar"]), [200 + i, 700 + i], atol=1) and [
        round(pitches(x[s], 1)[0]) for s in ("drums", "piano", "bass")
    ] == [300 + i, 400 + i, 500 + i]
    assert (
        abs(np.abs(x["guitar"]).max() - 0.2) < 0.01
        and abs(np.abs(x["bass"][2000:-2000]).max() - 0.1) < 0.005
        and m["tracks"]["Track00001"]["seconds"] == 1.5
        and m["tracks"]["Track00001"]["missing"] == []
    )
    if source == "redux":
        assert {t: v["split"] for t, v in m["tracks"].items()} == dict(
            Track00001="train", Track00002="train", Track01501="validation", Track01880="test"
        )
    assert "CC BY 4.0" in m["licence_and_attribution"]


def test_limited_stream_stops_early(tmp_path):
    b = tar(
        {
            k: v
            for i in range(12)
            for k, v in slakh_track(f"slakh2100_flac_redux/train/Track{i + 1:05d}", i, seconds=3).items()
        },
        "w:gz",
    )
    with BadServer({REDUX: b}) as server:
        server.always[REDUX] = ("after", 150_000)
        tracks, _ = go(tmp_path, "--source", "redux", "--stream", "--limit", 2, "--by-split", server=server)
        assert sorted(tracks) == ["train/Track00001", "train/Track00002"] and server.sent[REDUX] < 0.6 * len(b)


def test_errors_in_archives(tmp_path, monkeypatch):
    good = slakh_track("slakh2100_flac_redux/train/Track00001", 1)
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w:gz") as t:
        m = tarfile.TarInfo("x/Track00001/stems/S00.flac")
        m.type, m.linkname = tarfile.SYMTYPE, "/etc/passwd"
        t.addfile(m)
    twice = list(good.items()) + list(slakh_track("slakh2100_flac_redux/train/Track00002", 1).items())
    broken = dict(good)
    broken["slakh2100_flac_redux/train/Track00001/stems/S00.flac"] = b"fLaC, not really"
    b = tar(dict(twice), "w:gz")
    again = io.BytesIO()
    with tarfile.open(fileobj=again, mode="w:gz") as t:
        for name, v in [*twice, twice[-1], *good.items()]:
            m = tarfile.TarInfo(name)
            m.size = len(v or b"")
            m.type = tarfile.REGTYPE if v is not None else tarfile.DIRTYPE
            t.addfile(m, io.BytesIO(v or b""))
    for data, words in (
        (b[:-20], "damaged"),
        (b[: len(b) // 2], "damaged"),
        (b[:-8] + bytes(8), "damaged"),
        (link.getvalue(), "link or a device"),
        (tar({"../Track00001/metadata.yaml": b"x"}, "w:gz"), "outside"),
        (again.getvalue(), "not together"),
        (tar({"README": b"x"}, "w:gz"), "No track came out"),
        (tar(broken, "w:gz"), "no readable sound file"),
        (tar({**good, "slakh2100_flac_redux/train/Track00001/metadata.yaml": b"{: x"}, "w:gz"), "metadata.yaml"),
    ):
        f = tmp_path / "slakh2100_flac_redux.tar.gz"
        f.write_bytes(data)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with pytest.raises(PrepError, match=words) as e:
            go(tmp_path, "--source", "redux", "--archive", f)
        assert "\n" not in str(e.value)
    f.write_bytes(b)
    assert len(go(tmp_path, "--source", "redux", "--archive", f)[0]) == 2  # the same folder, goes on


# --- the paper's four stems -----------------------------------------------------------------------------------------


@pytest.fixture
def drive():
    files = {
        f"/download?id={i}&export=download&confirm=t": lambda s=s: mariani(s)
        for s, i in slakh.IDS.items()
        if s != "test"
    }
    files = {k: v() for k, v in files.items()}
    with BadServer(files) as s:
        yield s


def key(stem):
    return f"/download?id={slakh.IDS[stem]}&export=download&confirm=t"


@pytest.mark.parametrize("stream", [False, True])
def test_four_archives(tmp_path, drive, stream):
    args = ["--stream"] if stream else []
    drive.bad[key("drums")] = ["truncated", (429, "0.05"), "lost"]
    tracks, m = go(tmp_path, *args, server=drive)
    assert sorted(tracks) == ["Track00001", "Track00002", "Track01501", "Track01880"] and m["missing_stems"] == dict(
        bass=0, drums=0, guitar=1, piano=0
    )
    assert (
        m["tracks"]["Track00002"]["missing"] == ["guitar"]
        and m["tracks"]["Track01880"]["split"] == "test"
        and m["tracks"]["Track00001"]["samples"] == round(1.5 * 22050)
    )
    for i, t in enumerate(sorted(tracks)):
        for s in STEMS:
            if s not in m["tracks"][t]["missing"]:
                assert round(pitches(tracks[t][s], 1)[0]) == 200 + 100 * STEMS.index(s) + i
        assert not tracks[t]["bass"][-2000:].any()  # filled up with silence
    a = tree(tmp_path / "out")
    n = sum(drive.asked.values())
    go(tmp_path, *args, server=drive)
    assert sum(drive.asked.values()) == n
    go(tmp_path, *args, "--limit", 2, server=drive, out="two", cache="c2")
    assert sorted(json.loads((tmp_path / "two" / "manifest.json").read_text())["tracks"]) == [
        "Track00001",
        "Track00002",
    ]
    if not stream:
        with pytest.raises(PrepError, match="other parameters"):
            go(tmp_path, "--limit", 2, server=drive)
        go(tmp_path, "--limit", 2, "--overwrite", server=drive)
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "Track00001",
            "Track00002",
            "manifest.json",
            "preview.png",
        ]
        by_hand = []
        for s in STEMS:
            p = tmp_path / f"{s}_22050.tar.xz"
            p.write_bytes(mariani(s))
            by_hand.append(p)
        go(tmp_path, "--archive", *by_hand, out="hand", cache="c3")
        assert tree(tmp_path / "hand") == a
        with pytest.raises(PrepError, match="does not name piano_22050"):
            go(tmp_path, "--archive", *by_hand[:3], out="three", cache="c3")


def test_drive_pages(tmp_path, drive):
    quota = (
        b"<html><title>Google Drive - Quota exceeded</title><body>Too many users have viewed or downloaded this file"
        b" recently.</body></html>"
    )
    drive.always[key("bass")] = ("html", quota)
    with pytest.raises(PrepError, match="24 hours.*--archive"):
        go(tmp_path, server=drive)
    assert drive.asked[key("bass")] == 1
    drive.always[key("bass")] = ("html", b"<html><title>Sign in</title></html>")
    with pytest.raises(PrepError, match="gone or not public"):
        go(tmp_path, server=drive)
    form = (
        f'<html><title>Virus scan warning</title><form id="download-form" action="{drive.url}/confirmed"'
        ' method="get"><input type="hidden" name="id" value="7"><input type="hidden" name="uuid"'
        ' value="a-b"></form></html>'.encode()
    )
    drive.always[key("bass")] = ("html", form)
    drive.files["/confirmed?id=7&uuid=a-b"] = mariani("bass")
    assert len(go(tmp_path, server=drive)[0]) == 4
    drive.always[key("bass")] = ("html", form.replace(drive.url.encode(), b"http://elsewhere.example"))
    with pytest.raises(PrepError, match="web page instead"):
        go(tmp_path, server=drive, out="o2", cache="c2")


def test_test_set_alone(tmp_path):
    b = tar(
        {
            f"slakh2100/test/Track0188{i}/{s}.wav": sound(tone(200 + i, 1, 22050), 22050)
            for i in range(3)
            for s in STEMS
            if (i, s) != (1, "bass")
        },
        "w:xz",
    )
    with BadServer({key("test"): b}) as server:
        tracks, m = go(tmp_path, "--test", server=server)
    assert (
        len(tracks) == 3
        and m["tracks"]["Track01881"]["missing"] == ["bass"]
        and {t["split"] for t in m["tracks"].values()} == {"test"}
    )


# --- folders and audio ----------------------------------------------------------------------------------------------


def test_folder(tmp_path):
    d = tmp_path / "in"
    for name, stems in (("a", dict(bass=2, drums=2.2)), ("b", dict(piano=0.5)), ("c", {})):
        (d / name).mkdir(parents=True)
        for s, n in stems.items():
            (d / name / f"{s}.flac").write_bytes(sound(tone(300, n, 48000), 48000, "FLAC", 2))
    tracks, m = go(tmp_path, "--source", "folder", "--folder", d)
    assert (
        sorted(tracks) == ["a", "b"]
        and m["tracks"]["a"]["seconds"] == 2.2
        and m["tracks"]["b"]["missing"] == ["bass", "drums", "guitar"]
    )
    assert go(tmp_path, "--source", "folder", "--folder", d, "--need", 2, out="two")[1]["left_out"] == {
        "fewer than 2 stems": 1
    }
    (d / "b" / "piano.flac").write_bytes(b"fLaC...")
    with pytest.raises(PrepError, match="no readable sound"):
        go(tmp_path, "--source", "folder", "--folder", d, out="three")
    for args, words in ((["--folder", tmp_path / "nowhere"], "no folder"), (["--folder", d / "c"], "holds neither")):
        with pytest.raises(PrepError, match=words):
            go(tmp_path, "--source", "folder", *args, out="four")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(PrepError, match="not empty"):
        go(tmp_path, "--source", "folder", "--folder", d, out="full")


def test_silences_and_gain(tmp_path):
    x = np.concatenate([tone(200, 3, 22050), np.zeros(7 * 22050, np.float32), tone(200, 2.5, 22050)])
    assert (
        slakh.silences(x) == [[3, 10.0]]
        and slakh.silences(x, 8) == []
        and slakh.silences(np.zeros(22050 * 6 + 100)) == [[0, round(6 + 100 / 22050, 2)]]
    )
    facts = slakh.write_track(tmp_path, "t", dict(bass=tone(100, 1, 22050, 2.5), drums=tone(150, 1, 22050, 0.5)))
    bass, drums = (sf.read(tmp_path / "t" / f"{s}.wav")[0] for s in ("bass", "drums"))
    assert (
        facts["gain"] == pytest.approx(0.4, abs=0.001)
        and np.abs(bass).max() > 0.999
        and np.abs(drums).max() == pytest.approx(0.2, abs=0.001)
    )  # one gain: the balance stays


# --- MIDI -----------------------------------------------------------------------------------------------------------


def song(path, programs=((0, 5), (1, 25), (2, 33)), drums=True, seconds=2, seed=0):
    "A type-1 song: a tempo track, then a track per channel."
    f = mido.MidiFile(type=1, ticks_per_beat=480)
    t = mido.MidiTrack()
    f.tracks.append(t)
    t.append(mido.MetaMessage("set_tempo", tempo=500000))
    t.append(mido.MetaMessage("end_of_track", time=960 * seconds))
    for ch, p in [*programs, *([(9, 0)] if drums else [])]:
        t = mido.MidiTrack()
        f.tracks.append(t)
        t.append(mido.Message("program_change", channel=ch, program=p))
        for k in range(2 * seconds):
            t.append(mido.Message("note_on", channel=ch, note=40 + ch + seed, velocity=80, time=0))
            t.append(mido.Message("note_on", channel=ch, note=40 + ch + seed, velocity=0, time=480))
    path.parent.mkdir(parents=True, exist_ok=True)
    f.save(path)


FAKE = """import sys; sys.path[:0] = {path!r}
import array, math, os, wave, mido
assert sys.argv[1:3] == ['-niq', '-g'] and '-F' in sys.argv and os.path.isfile(sys.argv[-2]), sys.argv
rate,out,song = int(sys.argv[sys.argv.index('-r')+1]),sys.argv[sys.argv.index('-F')+1],mido.MidiFile(sys.argv[-1])
x,now = array.array('h', bytes(4*int(rate*(song.length+1)))),0.
for m in song:
    now += m.time
    if m.type == 'note_on' and m.velocity:
        for k in range(rate//4):
            i = 2*(int(now*rate)+k)
            x[i] = x[i+1] = int(9000*math.sin(2*math.pi*440*2**((m.note-69)/12)*k/rate))
with wave.open(out, 'wb') as w: w.setnchannels(2); w.setsampwidth(2); w.setframerate(rate); w.writeframes(x.tobytes())
"""


@pytest.fixture
def synth(tmp_path, monkeypatch):
    "A stand-in for FluidSynth, first on PATH, and a soundfont."
    d = tmp_path / "bin"
    d.mkdir()
    exe = d / "fluidsynth"
    script = d / "fluidsynth.py"
    script.write_text(FAKE.format(path=[p for p in sys.path if p]), encoding="utf-8")
    call = f'exec {shlex.quote(sys.executable)} -S {shlex.quote(str(script))} "$@"'  # "#!" cannot spell every folder
    exe.write_text(f"#!/bin/sh\n{call}\n", encoding="utf-8")
    exe.chmod(0o755)
    font = tmp_path / "font.sf2"
    font.write_bytes(b"RIFF")
    monkeypatch.setenv("PATH", f"{d}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return exe, font


def test_midi(tmp_path, synth):
    d = tmp_path / "songs"
    song(d / "x" / "one.mid", seed=1)
    song(d / "two !.MID", ((0, 0), (1, 30), (2, 39), (3, 56)))
    song(d / "poor.mid", ((0, 0),), drums=False)
    song(d / "y" / "one.mid", seed=3)
    shutil.copy(d / "x" / "one.mid", d / "copy.mid")
    (d / "broken.mid").write_bytes(b"MThd nonsense")
    (d / "...mid").write_bytes((d / "y" / "one.mid").read_bytes() + b"\0")
    tracks, m = go(tmp_path, "--source", "midi", "--folder", d, "--soundfont", synth[1])
    assert (
        "two_" in tracks
        and "poor" not in tracks
        and m["left_out"]["copies of another song"] == 1
        and m["left_out"]["fewer than 3 stems"] == 1
        and any("broken.mid" in k for k in m["left_out"])
    )
    x = tracks["two_"]
    hz = lambda note: 440 * 2 ** ((note - 69) / 12)
    for s, ch in (("piano", 0), ("guitar", 1), ("bass", 2), ("drums", 9)):
        assert abs(pitches(x[s], 1)[0] - hz(40 + ch)) < 1.5, s
    for t in tracks.values():
        assert (
            abs(20 * np.log10(np.abs(sum(t.values())).max()) + 1) < 0.01 and len(t["bass"]) == 2 * 22050
        )  # the mix peaks at -1 dBFS
    assert {v["split"] for v in m["tracks"].values()} <= {"train", "validation", "test"} and "font.sf2" in m["sources"]
    a = tree(tmp_path / "out")
    go(tmp_path, "--source", "midi", "--folder", d, "--soundfont", synth[1], out="again")
    assert tree(tmp_path / "again") == a


def test_program_changes_inside_a_channel(tmp_path):
    f = mido.MidiFile(type=0)
    t = mido.MidiTrack()
    f.tracks.append(t)
    for p, note in ((0, 60), (27, 61), (80, 62), (33, 63), (1, 64)):
        t.append(mido.Message("program_change", program=p, time=10))
        t.append(mido.Message("note_on", note=note, velocity=50, time=5))
        t.append(mido.Message("note_off", note=note, time=100))
    f.save(tmp_path / "a.mid")
    stems, count, seconds = slakh.split_midi(tmp_path / "a.mid")
    assert count == dict(bass=1, drums=0, guitar=1, piano=2) and "drums" not in stems
    for s, want in dict(bass=[(63, 360)], guitar=[(61, 130)], piano=[(60, 15), (64, 475)]).items():
        now, got = 0, []
        for m in stems[s].tracks[0]:
            now += m.time
            if m.type == "note_on":
                got.append((m.note, now))
        assert got == want and stems[s].length == pytest.approx(seconds)


def test_without_fluidsynth(tmp_path, synth, monkeypatch):
    song(tmp_path / "songs" / "a.mid")
    args = ["--source", "midi", "--folder", tmp_path / "songs"]
    with pytest.raises(PrepError, match=r"x.sf2 does not exist.*apt install"):
        go(tmp_path, *args, "--soundfont", "x.sf2")
    monkeypatch.setattr(slakh, "FONTS", [])
    with pytest.raises(PrepError, match="No soundfont was found.*apt install fluid-soundfont-gm"):
        go(tmp_path, *args)
    synth[0].write_text("#!/bin/sh\necho no audio driver >&2; exit 3\n")
    with pytest.raises(PrepError, match="status 3.*no audio driver"):
        go(tmp_path, *args, "--soundfont", synth[1])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrepError, match="apt install fluidsynth"):
        go(tmp_path, *args, "--soundfont", synth[1], out="o2")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(synth[0].parent))
    with pytest.raises(PrepError, match="no .mid"):
        go(tmp_path, "--source", "midi", "--folder", tmp_path / "empty", "--soundfont", synth[1], out="o3")


# --- round trip, kills, real samples --------------------------------------------------------------------------------


def test_read_by_the_notebook(tmp_path, drive):
    if not importlib.util.find_spec("dde_kit.music"):
        pytest.skip("dde_kit.music does not exist yet")
    from dde_kit.music import read_tracks

    for args, out in (([], "flat"), (["--by-split"], "split")):
        tracks, _ = go(tmp_path, *args, server=drive, out=out)
        train, held = read_tracks(tmp_path / out, 22050)
        assert len(train) + len(held) == 4 and (out == "flat" or len(held) == 2)
        t = sorted(tracks)[0] if out == "flat" else "train/Track00001"
        assert (
            np.abs(
                train.read(0, 100, 5000).numpy()
                - np.stack([tracks[t][s] for s in ("bass", "drums", "guitar", "piano")])[:, 100:5100]
            ).max()
            < 1e-6
        )


@pytest.mark.parametrize("source", ["baby", "mariani", "stream"])
def test_killed_twenty_times(tmp_path, drive, source):
    "Through download, unpacking and writing; every file of the dataset is the same byte for byte."
    args = ["--source", "mariani"] if source == "mariani" else ["--source", "baby"]
    if source == "stream":
        args.append("--stream")
    if source != "mariani":
        b = baby()
        drive.files[BABY] = b
        (tmp_path / "b").mkdir()
        p = tmp_path / "b" / "babyslakh_16k.tar.gz"
        p.write_bytes(b)
    start = time.monotonic()
    if source == "baby":
        go(tmp_path, *args, "--archive", p, out="good", cache="c0")
        args += ["--archive", p]
    elif source == "stream":
        go(tmp_path, *args, server=drive, out="good", cache="c0")
    else:
        go(tmp_path, *args, server=drive, out="good", cache="c0")
        drive.always = {key(s): ("after", 3000) for s in STEMS}
        drive.sent.clear()
    seconds = time.monotonic() - start
    with Killer("data_prep.slakh") as k:
        hits = k.twenty(
            [*args, "--base", drive.url, "--pause", 0, "--out", tmp_path / "k", "--cache", tmp_path / "c1"], seconds
        )
    assert hits >= 5 and tree(tmp_path / "k") == tree(tmp_path / "good")
    check(tmp_path / "k")
    a, b = (json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("k", "good"))
    for m in (a, b):
        m.pop("date")
    assert a == b
    if source == "mariani":
        assert sum(drive.sent.values()) <= sum(len(v) for p, v in drive.files.items() if "download" in p) + hits * 3000


def test_killed_while_rendering(tmp_path, synth):
    for i in range(2):
        song(tmp_path / "songs" / f"{i}.mid", seed=i, seconds=1)
    args = ["--source", "midi", "--folder", tmp_path / "songs", "--soundfont", synth[1]]
    go(tmp_path, *args, out="good")
    with Killer("data_prep.slakh") as k:
        for s in (0.2, 0.5, 0.8, 1.1, 1.6):
            k.run([*args, "--out", tmp_path / "k"], s)
        assert k.run([*args, "--out", tmp_path / "k"]) == 0
    assert tree(tmp_path / "k") == tree(tmp_path / "good")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real samples in ../shared/data/music")
def test_real_slakh(tmp_path):
    "Two seconds of Slakh2100: three guitars to sum (one never rendered), organ and choir to drop."
    tracks, m = go(tmp_path, "--source", "folder", "--folder", SHARED / "slakh_sample")
    d = SHARED / "slakh_sample" / "train" / "Track00001"
    meta = yaml.safe_load((d / "metadata.yaml").read_text())["stems"]
    want = sum(
        sf.read(p)[0]
        for k, v in meta.items()
        if 24 <= v["program_num"] <= 31 and (p := d / "stems" / f"{k}.flac").exists()
    )
    assert (
        list(tracks) == ["Track00001"]
        and m["tracks"]["Track00001"]["split"] == "train"
        and len(tracks["Track00001"]["guitar"]) == 44100
    )
    assert np.sqrt(np.mean(tracks["Track00001"]["guitar"] ** 2)) == pytest.approx(np.sqrt(np.mean(want**2)), rel=0.02)
    tracks, m = go(tmp_path, "--source", "folder", "--folder", SHARED / "stems_22050", out="stems")
    assert (
        m["missing_stems"]["piano"] == 1
        and np.abs(
            tracks["Track00001"]["bass"] - sf.read(SHARED / "stems_22050" / "train" / "Track00001" / "bass.flac")[0]
        ).max()
        < 1e-4
    )


@pytest.mark.skipif(
    not SHARED.is_dir() or not shutil.which("fluidsynth"), reason="no ../shared/data/music, or no fluidsynth"
)
def test_real_songs(tmp_path):
    try:
        slakh.synthesizer(type("A", (), dict(soundfont=None)))
    except PrepError:
        pytest.skip("no soundfont")
    with open(SHARED / "midi" / "index.csv", newline="", encoding="utf-8") as f:
        _, name = min((float(r["seconds"]), r["file"]) for r in csv.DictReader(f) if r["stems_present"] == "4")
    (tmp_path / "songs").mkdir()
    shutil.copy(SHARED / name, tmp_path / "songs")  # the shortest song with all four
    tracks, m = go(tmp_path, "--source", "midi", "--folder", tmp_path / "songs")
    ((t, x),) = tracks.items()
    assert m["tracks"][t]["missing"] == [] and all(np.abs(v).max() > 0.01 for v in x.values())
