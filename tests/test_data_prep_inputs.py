"`data_prep` and images, sounds, songs, tiles and commands as people have them."

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for m in ("httpx", "tenacity", "filelock", "soundfile", "soxr", "yaml", "mido"):
    pytest.importorskip(m)
import mido
import soundfile as sf
import yaml
from bad_server import ROOT
from data_prep import clevr, fetch, maps, pairs, preview, slakh
from data_prep.fetch import PrepError
from data_prep.images import SCALED, TURNED, WHITE, is_junk, open_image
from test_data_prep_maps import Earth
from test_data_prep_maps import go as go_maps

SHARED = ROOT.parent / "shared" / "data"


def field(seed, h=96, w=128, n=8):
    "Coloured squares."
    a = np.random.default_rng(seed).integers(0, 256, (h // n, w // n, 3), dtype=np.uint8)
    return np.kron(a, np.ones((n, n, 1), np.uint8))


def folder_of(where, n=4, suffixes=(".jpg", ".png")):
    for i in range(n):
        d = where / ("a" if i < n // 2 else "b")
        d.mkdir(parents=True, exist_ok=True)
        for e in suffixes:
            kind = "JPEG" if e.lower() in (".jpg", ".jpeg") else "PNG"
            Image.fromarray(field(i)).save(
                d / f"{i}{e}", kind, **(dict(quality=95, subsampling=0) if kind == "JPEG" else {})
            )
    return where


def cut_maps(tmp_path, folder, *args, out="out.npz"):
    maps.main(["--source", "folder", "--folder", str(folder), "--size", "32", "--out", str(tmp_path / out), *args])
    with np.load(tmp_path / out, allow_pickle=False) as z:
        return {k: z[k] for k in z.files}


# --- the layout of pairs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffixes", [(".JPG", ".PNG"), (".jpg", ".PNG"), (".JPEG", ".png"), (".Jpg", ".Png")], ids=str)
def test_suffixes_in_any_case(tmp_path, capsys, suffixes):
    z = cut_maps(tmp_path, folder_of(tmp_path / "in", suffixes=suffixes))
    assert "two files" in capsys.readouterr().out
    assert len(z["sat"]) == 4 * 12 and np.abs(z["sat"].astype(int) - z["map"]).mean() < 5  # never a photo with its half
    pairs.main([str(tmp_path / "in"), str(tmp_path / "p.npz"), "--size", "32"])
    with np.load(tmp_path / "p.npz") as p:
        assert np.array_equal(p["sat"], z["sat"])


def test_one_map_is_missing(tmp_path):
    d = folder_of(tmp_path / "in", 12)
    for gone in ("a/1.png", "b/7.jpg", "a/2.png", "b/8.png"):
        (d / gone).unlink()
    for run in (lambda: cut_maps(tmp_path, d), lambda: pairs.main([str(d), str(tmp_path / "p.npz")])):
        with pytest.raises(PrepError, match=r"a/1.jpg, a/2.jpg, b/7.png, ... \(4\) .*have no partner, and 8 pairs"):
            run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]  # nothing was begun


def test_side_by_side_is_said(tmp_path, capsys):
    d = folder_of(tmp_path / "in", suffixes=(".png",))
    z = cut_maps(tmp_path, d)
    assert "side by side in one image, the photo left" in capsys.readouterr().out and len(z["sat"]) == 4 * 6
    with pytest.raises(PrepError, match="no .jpg or .jpeg"):
        cut_maps(tmp_path, d, "--layout", "two", out="b.npz")


def test_what_cannot_be_told(tmp_path):
    d = folder_of(tmp_path / "in", 2)
    (d / "a" / "0.png").rename(d / "a" / "0_map.png")
    (d / "b" / "1.png").rename(d / "b" / "1_map.png")
    with pytest.raises(PrepError, match="no two of one name.*--layout side"):
        cut_maps(tmp_path, d)
    cut_maps(tmp_path, d, "--layout", "side")
    d = folder_of(tmp_path / "twice", 2)
    (d / "a" / "0.JPEG").write_bytes((d / "a" / "0.jpg").read_bytes())
    with pytest.raises(PrepError, match="share a name"):
        cut_maps(tmp_path, d, out="b.npz")


def test_what_systems_leave_behind(tmp_path):
    "AppleDouble files, `.DS_Store` and `Thumbs.db` change neither the pairs nor the mark of the folder."
    d = folder_of(tmp_path / "in")
    good, mark = cut_maps(tmp_path, d), fetch.content(d)
    for n in (
        "a/._0.jpg",
        "a/._0.png",
        "a/.DS_Store",
        "b/Thumbs.db",
        "__MACOSX/9.jpg",
        "__MACOSX/._1.png",
        "b/._2.PNG",
    ):
        (d / n).parent.mkdir(exist_ok=True)
        (d / n).write_bytes(b"\0\5\x16\7")
    z = cut_maps(tmp_path, d, out="b.npz")
    assert fetch.content(d) == mark and all(np.array_equal(z[k], good[k]) for k in good)
    assert len(pairs.find(d, "two")[1]) == 4 and is_junk("x/__MACOSX/y.png") and not is_junk("x/a._b.png")


def test_systems_leave_things_in_archives_too(tmp_path):
    "CLEVR as a zip made on macOS, and one made on Windows."
    frame = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (320, 480, 3), dtype=np.uint8)).save(frame, "PNG")
    scene = dict(image_filename="a.png", objects=[dict(pixel_coords=[240, 100, 9])])
    for k, (sep, extra) in enumerate([("/", "__MACOSX/"), ("\\", "__MACOSX\\")]):
        p = tmp_path / f"{k}.zip"
        with zipfile.ZipFile(p, "w") as z:
            for root, a, b in (
                (extra, b"\0\5", b"\0\5"),
                ("", json.dumps(dict(scenes=[scene])).encode(), frame.getvalue()),
            ):
                for name, body in (("scenes/CLEVR_train_scenes.json", a), ("images/train/a.png", b)):
                    z.writestr(zipfile.ZipInfo(root + f"C/{name}".replace("/", sep)), body)
        clevr.main(["--source", "v1", "--file", str(p), "--out", str(tmp_path / f"{k}.npz")])
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()
    d = tmp_path / "music"
    for n in ("t", "__MACOSX/t"):
        (d / n).mkdir(parents=True)
        for s in slakh.STEMS:
            sf.write(d / n / f"{s}.wav", np.zeros(500, np.float32), 22050) if n == "t" else (d / n / f"{s}.wav").touch()
    assert len(preview.tracks_in(d)) == 1
    preview.preview(d)
    slakh.main(["--source", "folder", "--folder", str(d), "--out", str(tmp_path / "out")])


# --- images ----------------------------------------------------------------------------------------------------------


def saved(im, kind="PNG", **kw):
    out = io.BytesIO()
    im.save(out, kind, **kw)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    "A photo that a camera stored turned, beside a map as it is seen."
    from PIL import ImageOps

    im, exif = Image.fromarray(field(3)), Image.Exif()
    exif[0x0112] = orientation
    body = saved(im, "JPEG", quality=95, exif=exif)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    got = open_image(body)
    assert got.size == want.size and np.array_equal(got, want) and (TURNED in got.info["notes"]) == (orientation > 1)
    (tmp_path / "a.jpg").write_bytes(body)
    want.save(tmp_path / "a.png")
    arrays, _ = pairs.cut(tmp_path, 32, notes=(n := Counter()))
    assert np.array_equal(arrays["map"], arrays["sat"]) and n == ({TURNED: 1} if orientation > 1 else {})


def test_damaged_exif_says_nothing():
    body = saved(Image.fromarray(field(3)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert open_image(body).info["notes"] == []


def deep_png(a):
    "A colour PNG of 16 bits: (h, w, 3) uint16."
    import zlib

    h, w, _ = a.shape
    rows = b"".join(b"\0" + r.astype(">u2").tobytes() for r in a)
    chunk = lambda k, d: struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
    head = struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bits(tmp_path):
    "Photos keep their upper byte, grey and colour alike; label maps are refused, and photos of 12 bits."
    a = field(5).astype(np.uint16) * 257
    for body, want in ((deep_png(a), field(5)), (saved(Image.fromarray(a[..., 0])), field(5)[..., :1].repeat(3, 2))):
        im = open_image(body)
        assert np.array_equal(im, want) and im.info["notes"] == [SCALED]
        with pytest.raises(ValueError, match="16 bits a channel"):
            open_image(body, use="label map")
        (tmp_path / "a.png").write_bytes(body)
        Image.fromarray(field(5)).save(tmp_path / "a.jpg")
        with pytest.raises(PrepError, match="a.png has 16 bits"):
            pairs.cut(tmp_path, 32)
    for body in (deep_png(a // 32), saved(Image.fromarray(a[..., 0] // 32))):
        with pytest.raises(ValueError, match="12 bits or fewer"):
            open_image(body)
    with pytest.raises(ValueError, match="32 bits|no picture"):
        open_image(saved(Image.fromarray(a[..., 0].astype(np.int32)), "TIFF"))


def test_alpha_palette_and_grey():
    "Opaque pixels stay; transparent ones are laid on white, as a viewer shows them."
    a = field(7)
    alpha = np.full(a.shape[:2], 255, np.uint8)
    im = open_image(saved(Image.fromarray(np.dstack([a, alpha]))))
    assert np.array_equal(im, a) and im.info == dict(notes=[], clear=0.0)
    alpha[:48] = 0
    im = open_image(saved(Image.fromarray(np.dstack([a, alpha]))))
    assert (np.asarray(im)[:48] == 255).all() and np.array_equal(np.asarray(im)[48:], a[48:])
    assert im.info == dict(notes=[WHITE], clear=0.5)
    few = Image.fromarray(a).quantize(16)
    assert np.array_equal(open_image(saved(few)), few.convert("RGB"))
    assert open_image(saved(few, transparency=few.getpixel((0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    grey = a[..., 0]
    for im in (Image.fromarray(grey), Image.fromarray(np.dstack([grey, np.full_like(grey, 255)]), "LA")):
        assert np.array_equal(open_image(saved(im)), grey[..., None].repeat(3, 2))
    assert set(np.unique(open_image(saved(Image.fromarray(grey > 99))))) == {0, 255}
    assert open_image(saved(Image.fromarray(a).convert("CMYK"), "JPEG")).mode == "RGB"


@pytest.mark.parametrize(
    "body", [b"", b"\0\5\x16\7", saved(Image.fromarray(field(1)))[:-300], b"\x89PNG\r\n\x1a\n"], ids=range(4)
)
def test_no_picture(tmp_path, body):
    (tmp_path / "a.png").write_bytes(body)
    for source in (body, tmp_path / "a.png"):
        with pytest.raises(ValueError, match="no picture|no complete picture"):
            open_image(source)


# --- sound -----------------------------------------------------------------------------------------------------------


def tone(seconds=1.0, level=0.2, rate=22050):
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def music(where, bad, kind="FLOAT"):
    for name in ("good", "bad"):
        (where / name).mkdir(parents=True)
        for s in slakh.STEMS:
            x = tone()
            if name == "bad" and s == "guitar":
                x = bad(x.copy())
            sf.write(where / name / f"{s}.wav", x, 22050, subtype=kind)
    return where


def put(k, v):
    def do(x):
        x[k] = v
        return x

    return do


@pytest.mark.parametrize(
    "bad,words",
    [
        (put(11025, np.nan), "guitar.wav: nan at 0.500 s (sample 11025), channel 1"),
        (put(5, np.inf), "guitar.wav: inf at 0.000 s (sample 5), channel 1"),
        (put(22049, -np.inf), "guitar.wav: -inf at 1.000 s (sample 22049), channel 1"),
        (put(2205, 1e6), "guitar.wav: 1e+06 at 0.100 s (sample 2205)"),
        (put(2205, -3.0), "guitar.wav: -3 at 0.100 s (sample 2205)"),
        (lambda x: x * 32768, "stands far out"),
    ],
    ids=range(6),
)
def test_a_sound_that_cannot_be_believed(tmp_path, capsys, bad, words):
    "The track is left out, counted and listed with file and position; the other is as it was."
    args = ["--source", "folder", "--folder", str(music(tmp_path / "in", bad)), "--out", str(tmp_path / "out")]
    slakh.main(args)
    m = json.loads((tmp_path / "out" / "manifest.json").read_text())
    ((why, n),) = m["left_out"].items()
    assert list(m["tracks"]) == ["good"] and n == 1 and why.startswith("bad/guitar.wav") and words in why
    assert why in capsys.readouterr().out and not (tmp_path / "out" / "bad").exists()
    x, _ = sf.read(tmp_path / "out" / "good" / "guitar.wav")
    assert np.abs(x).max() == pytest.approx(0.2, abs=0.001) and m["tracks"]["good"]["gain"] == 1


def test_music_over_full_scale_is_music(tmp_path):
    "A float mix that was never limited keeps its balance: one gain for the four."
    slakh.main(
        ["--source", "folder", "--folder", str(music(tmp_path / "in", lambda x: 10 * x)), "--out", str(tmp_path / "o")]
    )
    m = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert sorted(m["tracks"]) == ["bad", "good"] and m["tracks"]["bad"]["gain"] == pytest.approx(0.5, abs=0.001)


def test_a_bad_part_of_a_class(tmp_path):
    "Of Slakh's layout: the part is named, not only the class; a resumed run says the same."
    d = tmp_path / "in" / "Track00001" / "stems"
    d.mkdir(parents=True)
    (tmp_path / "in" / "Track00002" / "stems").mkdir(parents=True)
    for t in (1, 2):
        where = tmp_path / "in" / f"Track0000{t}"
        stems = {f"S0{k}": dict(program_num=26, is_drum=False) for k in range(3)}
        (where / "metadata.yaml").write_text(yaml.safe_dump(dict(stems=stems)))
        for k in range(3):
            x = tone()
            if (t, k) == (1, 2):
                x[7] = np.nan
            sf.write(where / "stems" / f"S0{k}.wav", x, 22050, subtype="FLOAT")
    slakh.main(["--source", "folder", "--folder", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    m = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(m["left_out"]) == ["Track00001/stems/S02.wav: nan at 0.000 s (sample 7), channel 1"]
    with pytest.raises(slakh.Unusable, match="bass: nan at 0.000 s"):
        slakh.write_track(tmp_path, "t", dict(bass=put(3, np.nan)(tone())))


# --- songs -----------------------------------------------------------------------------------------------------------


def midi(*tracks, n=None):
    head = b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks) if n is None else n, 480)
    return head + b"".join(b"MTrk" + struct.pack(">I", len(t)) + t for t in tracks)


END, TEMPO = b"\0\xff\x2f\0", b"\0\xff\x51\3\7\xa1\x20"
NOTE = b"\0\xc0\0" + b"\0\x90\x3c\x40" + b"\x83\x60\x3c\0"  # piano, one note of a second with running status


def heard(path, body):
    path.write_bytes(body)
    stems, count, seconds = slakh.split_midi(path)
    out = {}
    for s, part in stems.items():
        part.save(path.with_suffix(".out"))  # what FluidSynth gets
        now, out[s] = 0, []
        for m in mido.MidiFile(path.with_suffix(".out")).tracks[0]:
            now += m.time
            if not m.is_meta or m.type == "set_tempo":
                out[s].append((now, str(m.copy(time=0))))
    return out, count, seconds


@pytest.mark.parametrize(
    "track",
    [
        b"\0\xf8" + NOTE,
        NOTE[:3] + b"\0\xf8" + NOTE[3:],
        NOTE[:7] + b"\x83\x60\xf8\0" + NOTE[9:],  # a clock carries the delta, then running status
        NOTE + b"\0\xfe\0\xfa\0\xfc",
        NOTE + b"\0\xf4\0\xf9\0\xf6",
        b"\0\xf2\1\2\0\xf3\1\0\xf1\5" + NOTE,
        NOTE[:5] + b"\xf8" + NOTE[5:],  # inside a message
        b"\0\xff\x59\2\x09\0" + NOTE,  # nine sharps
        b"\0\xff\x59\2\0\7" + NOTE,
        b"\0\xff\x59\1\0" + NOTE,
        b"\0\xff\x58\1\4" + NOTE,  # half a time signature
        b"\0\xff\x51\2\7\xa1" + NOTE,  # two bytes of a tempo
        b"\0\xff\x54\1\0\0\xff\x20\0\0\xff\0\1\5" + NOTE,
        b"\0\xff\1\4\xff\xfe\x80\x81\0\xff\x7f\2\xf8\xf8" + NOTE,
        b"\0\xff\5\3a\xf8b" + NOTE,
    ],
    ids=range(15),
)
def test_what_makes_no_sound_is_dropped(tmp_path, track):
    want = heard(tmp_path / "a.mid", midi(TEMPO + END, NOTE + END))
    assert want[1]["piano"] == 1 and want[2] == pytest.approx(0.5)
    got = heard(tmp_path / "b.mid", midi(TEMPO + END, track + END))
    assert got == want


def test_other_songs_stay_as_they_came(tmp_path):
    "Chunks of other programs go; a track without an end keeps its length; what is no song stays one that is listed."
    want = heard(tmp_path / "a.mid", midi(TEMPO + END, NOTE + END))
    body = midi(TEMPO + END, NOTE + END)
    body = body[:14] + b"XFIH" + struct.pack(">I", 3) + b"abc" + body[14:]
    assert heard(tmp_path / "b.mid", body) == want
    late = heard(tmp_path / "c.mid", midi(TEMPO, NOTE + b"\x83\x60\xff\1\1a"))
    assert late[2] == pytest.approx(1.0) and late[0] == want[0]
    for body in (b"", b"MThd nonsense", midi(NOTE)[:-4], midi(NOTE, n=3), b"MThd" + b"\xff" * 40, midi(b"\x90")):
        assert slakh.repaired(body) == body
    with pytest.raises(ValueError):
        slakh.audible(b"\xff" * 20)


@pytest.mark.skipif(not (SHARED / "music" / "midi").is_dir(), reason="no songs in ../shared/data/music/midi")
def test_nothing_else_changes_in_real_songs():
    "Sixteen of 141 songs: the notes, programs, tempi and times that mido reads are those of the song as it came."
    songs = sorted(p for p in (SHARED / "music" / "midi").rglob("*.mid"))[::9]
    for p in songs:
        both = []
        for body in (p.read_bytes(), slakh.repaired(p.read_bytes())):
            song, events = mido.MidiFile(file=io.BytesIO(body), clip=True), []
            for k, t in enumerate(song.tracks):
                now = 0
                for m in t:
                    now += m.time
                    if not m.is_meta or m.type in ("set_tempo", "end_of_track"):
                        events.append((k, now, str(m.copy(time=0))))
            both.append((song.type, song.ticks_per_beat, events))
        assert both[0] == both[1], p
    assert len(songs) > 10


# --- tiles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 400, "empty"], ids=str)
def test_a_place_without_a_tile_is_replaced(tmp_path, status):
    with Earth() as earth:
        order = go_maps(earth, tmp_path, "--limit", 4, out="good.npz", cache="c0")["source"]
        x, y = order[1].split("/")[2:]
        earth.always[f"/xyz/pale/18/{x}/{y}.png"] = status
        z = go_maps(earth, tmp_path, "--limit", 4)
        m = json.loads((tmp_path / "a.json").read_text())
        assert m["left_out"] == {f"no tile of gsi-pale (answer {status})": 1} and len(z["sat"]) == 4
        assert order[1] not in z["source"] and list(z["source"][:3]) == [order[0], order[2], order[3]]
        (tmp_path / "a.npz").unlink()
        again = go_maps(earth, tmp_path, "--limit", 4)
        assert all(np.array_equal(again[k], z[k]) for k in z)


@pytest.mark.parametrize("status", [400, "empty"], ids=str)
def test_only_such_answers_end_the_run(tmp_path, status):
    with Earth() as earth:
        earth.always = type("All", (dict,), dict(get=lambda self, k, d=None: status))()
        with pytest.raises(PrepError, match=f"first 60 places.*answer {status}.*The last answer"):
            go_maps(earth, tmp_path, "--limit", 4)


def test_refusals_after_a_good_start_end_too(tmp_path, monkeypatch):
    class Odd(dict):
        def get(self, k, d=None):
            return 400 if sum(earth.good.values()) >= 4 else None

    monkeypatch.setattr(maps, "ROW", 20)
    with Earth() as earth:
        earth.always = Odd()
        with pytest.raises(PrepError, match="last 20 places.*answer 400"):
            go_maps(earth, tmp_path, "--limit", 9, "--pause", 0)
        earth.always = {}
        assert len(go_maps(earth, tmp_path, "--limit", 9)["sat"]) == 9  # nothing wrong was remembered


@pytest.mark.parametrize("lon", [180, -179.999])
def test_the_antimeridian(tmp_path, lon):
    "x goes on from the other side, places and names with it; each tile is asked for once."
    with Earth() as earth:
        z = go_maps(earth, tmp_path, "--limit", 12, "--center", "-17", lon, "--side", "1.2", "--zoom", "17")
        xs = {int(s.split("/")[2]) for s in z["source"]}
        assert min(xs) < 20 and max(xs) > 2**17 - 20 and max(earth.asked.values()) == 1
        assert (np.abs(z["place"][:, 1]) > 179.9).all() and (np.abs(z["place"][:, 1]) <= 180).all()
        assert len(set(map(tuple, z["place"]))) == 12
    for s, (lat, lo) in zip(z["source"], z["place"]):
        x, y = (int(v) for v in s.split("/")[2:])
        assert np.allclose(maps.pixel(lat, lo, 17), [(x + 0.5) * 256, (y + 0.5) * 256])


@pytest.mark.parametrize(
    "args",
    [
        ("--center", "84.99", "0", "--side", "200"),
        ("--center", "-84.9", "10", "--side", "99", "--zoom", "8"),
        ("--center", "0", "0", "--side", "50000"),
        ("--center", "0", "0", "--side", "19000", "--zoom", "2", "--size", "256"),
    ],
    ids=range(4),
)
def test_beyond_the_map(tmp_path, args):
    with Earth() as earth, pytest.raises(PrepError, match="beyond the map|does not fit on the map|from zoom"):
        go_maps(earth, tmp_path, "--limit", 4, *args)


# --- commands --------------------------------------------------------------------------------------------------------


def shell(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        env={k: v for k, v in {**os.environ, "OMP_NUM_THREADS": "1", **env}.items() if v is not None},
    )


def test_one_line_and_status_2(tmp_path):
    "A user's error, an unwritable place and one that breaks while it is read, in every command."
    d = folder_of(tmp_path / "in")
    (tmp_path / "file").write_bytes(b"x")
    inside = tmp_path / "file" / "x.npz"
    (tmp_path / "foreign.npz").write_bytes(b"mine")
    for args, words in (
        (["pairs", tmp_path / "none", tmp_path / "a.npz"], b"is no folder"),
        (["pairs", d, inside], b"is a file, a folder is needed"),
        (["pairs", d, tmp_path / "foreign.npz"], b"exists"),
        (["maps", "--source", "folder", "--folder", d, "--out", inside], b"is a file, a folder is needed"),
        (["clevr", "--out", inside], b"is a file, a folder is needed"),
        (["slakh", "--out", tmp_path / "file" / "x", "--source", "baby"], b"is a file, a folder is needed"),
        (["preview", tmp_path / "foreign.npz"], b"is damaged"),
    ):
        p = shell(f"data_prep.{args[0]}", *args[1:])
        assert p.returncode == 2 and words in p.stderr and len(p.stderr.strip().splitlines()) == 1, p.stderr
    assert (tmp_path / "foreign.npz").read_bytes() == b"mine"


def test_errors_of_the_system_in_words(monkeypatch, capsys):
    import errno

    for error, words in (
        (OSError(errno.ENOSPC, "No space left on device", "x.npz"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "x.npz"), "Permission denied: x.npz"),
        (MemoryError(), "not enough memory"),
        (PrepError("two\nlines"), "two lines"),
    ):

        def main(_):
            raise error

        with pytest.raises(SystemExit) as e:
            fetch.command(main)
        err = capsys.readouterr().err
        assert e.value.code == 2 and words in err and err.count("\n") == 1


def test_before_the_work(tmp_path, monkeypatch):
    "What cannot end well is refused before anything is read, fetched or written."
    d = folder_of(tmp_path / "in")
    calls = []
    monkeypatch.setattr(pairs, "open_image", lambda *a, **k: calls.append(a))
    monkeypatch.setattr(fetch.Fetcher, "open", lambda *a, **k: calls.append(a))
    (tmp_path / "shown.png").write_bytes(b"my picture")
    (tmp_path / "told.json").write_text("{}")
    (tmp_path / "dir.npz").mkdir()
    folder = ["--source", "folder", "--folder", str(d)]
    for main, args, words in (
        (maps.main, [*folder, "--out", "shown.npz"], "shown.png exists and"),
        (maps.main, [*folder, "--out", "told.npz"], "told.json exists and"),
        (clevr.main, ["--out", "told.npz"], "told.json exists and"),
        (maps.main, [*folder, "--out", "dir.npz"], "dir.npz is a folder"),
        (maps.main, [*folder, "--out", "a.npz", "--hold", "c"], r"--hold names \['c'\]"),
        (maps.main, [*folder, "--out", "a.npz", "--hold", "a", "b"], "names every folder"),
        (maps.main, ["--source", "dubai", "--out", "a.npz", "--hold", "tile_77"], r"--hold names \['tile_77'\]"),
        (maps.main, ["--out", "a.npz", "--hold", "a"], "names folders of"),
        (maps.main, ["--out", "a.npz", "--pause", "nan"], "--pause nan"),
        (slakh.main, ["--source", "folder", "--folder", str(tmp_path), "--out", "in/x"], "lies in --folder"),
        (slakh.main, ["--archive", "none.tar.xz", "--out", "x"], "does not exist"),
    ):
        with pytest.raises(PrepError, match=words):
            main([str(tmp_path / v) if v.endswith(".npz") or v in ("x", "in/x") else v for v in args])
    with pytest.raises(PrepError, match="names every folder"):
        pairs.main([str(d), str(tmp_path / "a.npz"), "--hold", "a", "b"])
    assert not calls and sorted(p.name for p in tmp_path.iterdir()) == ["dir.npz", "in", "shown.png", "told.json"]


def test_a_place_that_refuses(tmp_path, monkeypatch):
    "Rights do not bind root, so the refusal is made here."
    monkeypatch.setattr(
        fetch.tempfile, "TemporaryFile", lambda **k: (_ for _ in ()).throw(PermissionError(13, "no", "x"))
    )
    with pytest.raises(PrepError, match=r"a.npz cannot be written \(no\)"):
        fetch.can_write(tmp_path / "a.npz")


def test_without_a_home(tmp_path, monkeypatch, plain_folder):
    for k in ("DDE_KIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(k, raising=False)

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.chdir(tmp_path)
    assert fetch.cache_place() == tmp_path / "dde_kit_cache"
    monkeypatch.setattr(Path, "home", lambda: Path("."))
    assert fetch.cache_place() == tmp_path / "dde_kit_cache"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert fetch.cache_place() == tmp_path / ".cache" / "dde_kit"
    p = shell("data_prep.maps", "--help", HOME=None, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert p.returncode == 0 and b"--send-my-key-to-base" in p.stdout and max(map(len, p.stdout.split(b"\n"))) < 121


def test_names_in_any_locale(tmp_path, plain_folder):
    "Names that the locale cannot spell: the same dataset, the same manifest, and no error on the way."
    d = folder_of(tmp_path / "ïn 写真", 2)
    (d / "a" / "0.jpg").rename(d / "a" / "zö.jpg")
    (d / "a" / "0.png").rename(d / "a" / "zö.png")
    m = tmp_path / "müsic" / "tràck"
    m.mkdir(parents=True)
    for s in slakh.STEMS:
        sf.write(m / f"{s}.wav", tone(0.6), 22050)
    c = tmp_path / "cl" / "images"
    c.mkdir(parents=True)
    Image.fromarray(field(1, 96, 144)).save(c / "ä.png")
    scenes = [dict(image_filename="ä.png", objects=[dict(pixel_coords=[70, 40])])]
    (tmp_path / "cl" / "scenes.json").write_text(json.dumps(dict(scenes=scenes), ensure_ascii=False), encoding="utf-8")
    for k, env in enumerate([{}, dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")]):
        o = tmp_path / f"öut{k}"
        for args in (
            ["maps", "--source", "folder", "--folder", d, "--size", "32", "--out", o / "ä.npz"],
            ["slakh", "--source", "folder", "--folder", m.parent, "--out", o / "m"],
            ["clevr", "--source", "folder", "--file", c.parent, "--size", "32", "--out", o / "c.npz"],
        ):
            for again in (False, True) if args[0] != "clevr" else (False,):
                p = shell(f"data_prep.{args[0]}", *args[1:], **env)
                assert p.returncode == 0, p.stderr.decode("utf-8", "replace")
                assert b"nothing to do" in p.stdout or not again
    a, b = (
        {p.relative_to(o): p.read_bytes() for p in o.rglob("*") if p.is_file()}
        for o in (tmp_path / "öut0", tmp_path / "öut1")
    )
    assert a == b and len(a) == 12 and "tràck" in a[Path("m/manifest.json")].decode()


def test_another_size_of_frame(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(field(1)).save(tmp_path / "images" / "a.png")
    scenes = [dict(image_filename="a.png", objects=[dict(pixel_coords=[60, 40])])]
    (tmp_path / "scenes.json").write_text(json.dumps(dict(scenes=scenes)))
    args = ["--source", "folder", "--file", str(tmp_path), "--out", str(tmp_path.parent / "frame.npz"), "--size"]
    with pytest.raises(PrepError, match="at most 96 are known"):
        clevr.main([*args, "128"])
    clevr.main([*args, "96"])
