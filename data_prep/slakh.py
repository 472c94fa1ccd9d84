"""Music as four stems at 22,050 Hz, as the folder that `nbs/10_music.ipynb` takes with `data=<path>`.

    python -m data_prep.slakh --out music --source midi --folder DIR     MIDI songs of your own, with FluidSynth
    python -m data_prep.slakh --out music --source baby                  BabySlakh, 20 tracks, 0.9 GB
    python -m data_prep.slakh --out music --source redux --stream --limit 5     a first try at Slakh2100: five tracks
    python -m data_prep.slakh --out music --source redux                 Slakh2100-redux, 104 GB
    python -m data_prep.slakh --out music                                the paper's: Mariani et al.'s four stems
    python -m data_prep.slakh --out music --source folder --folder DIR   any of these, already unpacked

Sources
  mariani  (default) four archives at Google Drive, STEM_22050.tar.xz; --test: their test set alone. No checksums are
           published, so the archives' own are checked. When Drive's quota is used up: download them in a browser, name
           them with --archive.
  redux    Slakh2100-redux (CC BY 4.0, md5 known): each stem is the sum of the tracks of its class (drums; MIDI programs
           0-7 piano, 24-31 guitar, 32-39 bass); tracks that were never rendered are skipped, other classes left out.
  baby     the first 20 tracks of it, 16 kHz (so nothing sounds above 8 kHz).
  midi     every .mid below --folder, each class rendered on its own as Slakh was made, silent where it does not play;
           the mix of a song peaks at -1 dBFS. Needs `fluidsynth` and a soundfont (Debian: apt install fluidsynth
           fluid-soundfont-gm). What makes no sound (realtime bytes, meta events but tempo) is dropped from the songs.
  folder   four-stem tracks ({bass,drums,guitar,piano}.wav or .flac) or Slakh's layout (metadata.yaml with stems/).

Archives are kept in the cache, so a download goes on where it stopped; with --stream nothing is kept: the archive is
read once from the network, forward, and a run that was stopped reads it again from the start but writes only the
tracks that are missing.

OUT/<track>/{bass,drums,guitar,piano}.wav (with --by-split OUT/<split>/<track>/): mono, 22,050 Hz, 16 bit, the four of
equal length. A stem that a track does not have is silence. A track with a sound that cannot be believed (NaN, infinity,
a peak far over full scale or one over it that stands alone) is left out, and listed with file and position.
OUT/manifest.json lists split, length, missing stems and silent stretches of every track; OUT/preview.png shows some.
"""

import contextlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import numpy as np

from .fetch import (
    PrepError,
    Remote,
    bar,
    begin,
    begun,
    between,
    can_write,
    check_common,
    command,
    content,
    digest,
    fetcher,
    finish,
    gib,
    inside,
    magic,
    named,
    need,
    parser,
    read_json,
    rebase,
    room,
    save_json,
    shown,
    tar_members,
    unpack,
)
from .images import is_junk
from .preview import preview as picture_of

MODULES = ["httpx", "tenacity", "filelock", "soundfile", "soxr", "yaml", "mido"]
STEMS = ("bass", "drums", "guitar", "piano")
RATE = 22050  # Hz
DRIVE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
IDS = dict(
    bass="1T7rbuwyqR73K__0L3nF550rVBXgrpYVT",
    drums="1vieJQdvN22YrTdBMMvZXw1xr1rdko1pm",
    guitar="1Uo3iN4lIecJ8SulEKlhD96Bgd2CGf8F",
    piano="1w3Zou4oL_DfdJm1o_Y-qLCvVYG8W6J62",
    test="1Xo-bGORndJhenHvzf3eY5Lt0XCTgElZP",
)
SLAKH = dict(
    redux=("https://zenodo.org/records/4599666/files/slakh2100_flac_redux.tar.gz", "f4b71b6c45ac9b506f59788456b3f0c4"),
    baby=("https://zenodo.org/records/4603870/files/babyslakh_16k.tar.gz", "311096dc2bde7d61c97e930edbfc7f78"),
)
FONTS = [
    f"{d}/{n}"
    for d in (
        "/usr/share/sounds/sf2",
        "/usr/share/soundfonts",
        "/opt/homebrew/share/soundfonts",
        "/usr/local/share/soundfonts",
    )
    for n in ("FluidR3_GM.sf2", "TimGM6mb.sf2", "default-GM.sf2", "default.sf2")
]
CC = "Slakh2100: Manilow, Wichern, Seetharaman, Le Roux (2019), slakh.com, CC BY 4.0"
TERMS = dict(
    mariani=f"{CC}; four-stem version of Mariani, Tallini, Postolache, Mancusi, Cosmo, Rodola (2023).",
    redux=f"{CC}; summed to four stems and resampled by dde_kit.",
    baby=f"{CC} (BabySlakh); summed to four stems and resampled by dde_kit.",
    midi=(
        "Audio rendered by dde_kit: what may be done with it follows from the licences of the songs and of the"
        " soundfont."
    ),
    folder="as the folder that the tracks come from",
)


# --- audio -----------------------------------------------------------------------------------------------------------


class Unusable(Exception):
    "A sound that cannot be believed, with file and position: the track is left out."


LONGEST = 3600  # seconds of one sound file


def mono(path, where=None):
    "A sound file as float32 (samples,), channels averaged, and its rate in Hz; Unusable when a value cannot be one."
    import soundfile as sf

    where = where or shown(path)
    try:
        with open(path, "rb") as raw, sf.SoundFile(raw) as f:
            rate, n, channels = f.samplerate, f.frames, f.channels
            if not 1000 <= rate <= 192_000 or n > LONGEST * rate or channels > 32:
                raise PrepError(
                    f"{where} claims {n} samples in {channels} channels at {rate} Hz: up to an hour at 1,000 to 192,000"
                    " Hz is taken. Cut it into shorter files."
                )
            x, at = np.empty(n, np.float32), 0
            while at < n and len(b := f.read(min(1 << 20, n - at), dtype="float32", always_2d=True)):
                bad = ~np.isfinite(b)
                if bad.any():
                    k, c = np.argwhere(bad)[0]
                    raise Unusable(f"{where}: {b[k, c]} at {place(at + k, rate)}, channel {c + 1}")
                x[at : at + len(b)] = b.mean(1)
                at += len(b)
    except (sf.LibsndfileError, RuntimeError) as e:
        if isinstance(e, PrepError):
            raise
        raise PrepError(
            f"{where} is no readable sound file ({str(e)[-100:]}): the archive or folder is damaged."
        ) from None
    x = x[:at]
    top = np.abs(x).max(initial=0)
    if top > 10 or top > 1 and (np.abs(x) > top / 4).sum() < 8:
        k = int(np.abs(x).argmax())
        raise Unusable(f"{where}: {x[k]:.3g} at {place(k, rate)}; sound lies between -1 and 1, and this stands far out")
    return x, rate


def place(k, rate):
    return f"{k / rate:.3f} s (sample {k})"


def resample(x, rate):
    import soxr

    return x if rate == RATE else soxr.resample(x, rate, RATE, quality="HQ").astype(np.float32)


def silences(x, least=5.0, floor=-60.0):  # seconds, dBFS
    "Stretches of at least `least` seconds in which no second is louder than `floor`: [[start, end]] in seconds."
    n = len(x) // RATE + (len(x) % RATE > 0)
    loud = np.array(
        [
            np.sqrt(np.mean(np.square(x[i * RATE : (i + 1) * RATE], dtype=np.float64))) > 10 ** (floor / 20)
            for i in range(n)
        ]
        + [True],
        bool,
    )
    out, start = [], 0
    for i in np.flatnonzero(loud):
        if i - start >= least:
            out.append([start, round(min(int(i), len(x) / RATE), 2)])
        start = int(i) + 1
    return out


def write_track(
    out,
    name,
    stems,  # {stem: float32 samples at RATE}
    peak=None,  # dBFS of the mix, or None: as it is unless it clips
):
    "The four stems of a track, equal in length, all or nothing; gives the facts for the manifest."
    import soundfile as sf

    n = max((len(x) for x in stems.values()), default=0)
    if not n:
        return None
    for s, x in stems.items():
        if not np.isfinite(x).all():
            raise Unusable(f"{s}: {x[~np.isfinite(x)][0]} at {place(int(np.flatnonzero(~np.isfinite(x))[0]), RATE)}")
    missing = [s for s in STEMS if s not in stems]
    full = {s: np.pad(stems[s], (0, n - len(stems[s]))) if s in stems else np.zeros(n, np.float32) for s in STEMS}
    top = max(float(np.abs(x).max()) for x in full.values())
    mix = float(np.abs(sum(full.values())).max())
    gain = 10 ** (peak / 20) / mix if peak is not None and mix > 0 else 1.0
    gain = min(gain, 32767 / 32768 / top) if top > 0 else 1.0  # one gain for all four; never clipped
    work = out / ".work" / f"{name}.new"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    room(work, 4 * 2 * n)
    for s, x in full.items():
        pcm = np.rint(x * (gain * 32768)).clip(-32768, 32767).astype(np.int16)
        with open(work / f"{s}.wav", "wb") as f:
            sf.write(f, pcm, RATE, format="WAV", subtype="PCM_16")
    facts = dict(
        seconds=round(n / RATE, 3),
        samples=n,
        gain=round(gain, 6),
        missing=missing,
        silent={s: v for s in STEMS if (v := silences(full[s] * gain))},
    )
    for p in work.iterdir():
        with open(p, "rb") as f:
            os.fsync(f.fileno())
    save_json(facts_of(out, name), facts)
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    os.replace(work, out / name)
    return facts


def facts_of(out, name):
    return out / ".work" / "facts" / f"{name}.json"


def left_of(out, name):
    return out / ".work" / "left" / f"{name}.json"


def done(out, name):
    return (out / name).is_dir() and facts_of(out, name).is_file()


def at(a, split, track):
    return f"{split}/{track}" if a.by_split else track  # where a track lies below --out


# --- Slakh's own layout ---------------------------------------------------------------------------------------------


def kind(is_drum, program):
    "The class of an instrument, or None: left out."
    return (
        "drums"
        if is_drum
        else (
            "piano"
            if 0 <= program <= 7
            else "guitar"
            if 24 <= program <= 31
            else "bass"
            if 32 <= program <= 39
            else None
        )
    )


def slakh_stems(path):
    "The stems of a metadata.yaml: [(name, class or None)]. Nothing but names and two facts of each is taken from it."
    import yaml

    where = f"{shown(path.parent.name)}/metadata.yaml"
    try:
        if path.stat().st_size > 1 << 18:
            raise ValueError(f"it has {gib(path.stat().st_size)}")
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > 1000:
            raise ValueError("it is nested too deeply")  # for a reader that takes the square of it in time
        if any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it refers to parts of itself")
        out = []
        for k, m in yaml.safe_load(text)["stems"].items():
            if not (isinstance(k, str) and re.fullmatch(r"\w[\w-]*", k)):
                raise ValueError(f"{str(k)[:80]!r} is no name of a stem: letters and digits are needed")
            program = m.get("program_num", -1)
            if isinstance(program, bool) or not isinstance(program, int):
                raise ValueError(f"the program of {k} is {str(program)[:80]!r}")
            out.append((k, kind(bool(m.get("is_drum")), program)))
        return sorted(out)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        why = str(e) if isinstance(e, ValueError) else type(e).__name__
        raise PrepError(f"{where} cannot be read ({why}): the archive or folder is damaged.") from None


def sum_stems(folder):
    "The four stems of a Slakh track from its metadata.yaml and stems/."
    out = {}
    for k, s in slakh_stems(folder / "metadata.yaml"):
        path = next((p for e in ("flac", "wav") if (p := folder / "stems" / f"{k}.{e}").is_file()), None)
        if s is None or path is None:
            continue
        x, rate = mono(path, f"stems/{path.name}")
        if s in out:
            if out[s][1] != rate:
                raise PrepError(f"{path}: {rate} Hz, another of its class {out[s][1]} Hz; one rate is needed.")
            n = max(len(x), len(out[s][0]))
            x = np.pad(x, (0, n - len(x))) + np.pad(out[s][0], (0, n - len(out[s][0])))
        out[s] = x, rate
    return {s: resample(*v) for s, v in out.items()}


def four_stems(folder):
    "The stems of a track that has a file for each."
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".wav", ".flac") and p.is_file())
    found = {p.stem: p for p in files if p.stem in STEMS}  # .wav comes last, so it wins
    return {s: resample(*mono(found[s], found[s].name)) for s in STEMS if s in found}


SLAKH_FILE = re.compile(r"(?:.*?/)??(?:(train|validation|test)/)?(Track\d+)/(metadata\.yaml|stems/S\d+\.(?:flac|wav))")


def from_slakh(stream, name, a, keep):
    "Tracks out of a Slakh archive, read once and forward; only the files of one track are on disk at a time."
    out, work, now, count = Path(a.out), Path(a.out) / ".work" / "slakh", None, 0

    def close():
        if now is None or not (work / "metadata.yaml").is_file():
            return 0
        return keep(now[1], now[0] or "none", lambda: sum_stems(work))

    with bar(unit="track", total=a.limit, desc=a.source) as b, contextlib.closing(tar_members(stream, name)) as members:
        seen = set()
        for path, size, f in members:
            m = SLAKH_FILE.fullmatch(path)
            if not m or "omitted" in path.split("/"):
                continue  # duplicates of other tracks
            if (m[1], m[2]) != now:
                count += close()
                b.n = count
                b.refresh()
                if a.limit and count >= a.limit:
                    return
                shutil.rmtree(work, ignore_errors=True)
                now = m[1], m[2]
                if now in seen:
                    raise PrepError(f"{name}: the files of {m[2]} are not together: this is not the published archive.")
                seen.add(now)
            if done(out, at(a, m[1] or "none", m[2])) and m[3] != "metadata.yaml":
                continue  # made by an earlier run
            unpack(f, size, work / m[3], name)
        close()
    shutil.rmtree(work, ignore_errors=True)


# --- four stems in four archives ------------------------------------------------------------------------------------

STEM = "(bass|drums|guitar|piano)"
STEM_FILE = re.compile(rf"(?:.*?/)??(?:{STEM}_22050/)?(train|validation|test)/(Track\d+)(?:/{STEM})?\.wav")


def gather(stream, name, only, a, work):
    "Stem files out of one archive, under the names that we give them."
    n = 0
    with bar(unit="file", desc=name) as b, contextlib.closing(tar_members(stream, name)) as members:
        for path, size, f in members:
            m = STEM_FILE.fullmatch(path)
            stem = m and (m[1] or m[4])
            if not stem or only and stem != only:
                continue
            dest = work / f"{m[2]}-{m[3]}" / f"{stem}.wav"
            if a.limit and not dest.parent.exists() and sum(1 for _ in work.glob("*-Track*")) >= a.limit:
                if only in (None, STEMS[0]):
                    break  # the first archive decides which
                continue
            if not dest.exists() and not done(Path(a.out), at(a, m[2], m[3])):
                unpack(f, size, dest, name)
            n += 1
            b.update()
            if a.limit and only and n >= a.limit:
                break
    if not n:
        raise PrepError(
            f"{name} has no {only or 'stem'}_22050/SPLIT/TrackNNNNN.wav: this is not the archive it should be. Download"
            " it again, or name the right file with --archive."
        )


class Form(HTMLParser):
    "Address and hidden fields of the form on Drive's page about large files."

    def __init__(self):
        super().__init__()
        self.action, self.fields = None, {}

    def handle_starttag(self, tag, attrs):
        d = dict(attrs)
        if tag == "form" and d.get("id") == "download-form":
            self.action = d.get("action")
        if tag == "input" and self.action and d.get("name"):
            self.fields[d["name"]] = d.get("value") or ""


def drive_page(text, url):
    "What Google Drive's web page means: another address, or an error."
    if re.search("quota|too many users|viewed or downloaded", text, re.I):
        raise PrepError(
            f"Google Drive has given this file to too many people today and refuses it for up to 24 hours ({url}). Run"
            " the same command tomorrow: what was fetched is kept. Or open the address in a browser that is signed in,"
            " add a copy to your own Drive, download that, and name it with --archive."
        )
    form = Form()
    form.feed(text)
    to = urljoin(url, html.unescape(form.action)) if form.action else ""
    known = urlsplit(url).hostname
    safe = urlsplit(to).scheme in ("https", urlsplit(url).scheme)
    if not to or not safe or urlsplit(to).hostname not in (known, "drive.usercontent.google.com"):
        raise PrepError(
            f"Google Drive sent a web page instead of the file ({url}): perhaps the file is gone or not public any"
            " more. Open the address in a browser; if it can be downloaded there, name it with --archive."
        )
    return f"{to.split('?')[0]}?{urlencode(form.fields)}"


def archive(f, a, url, name, md5=None, page=None, start=b"\xfd7zXZ"):
    "An archive as a stream: given by hand, from the cache, or from the network."
    given = next((Path(p) for p in a.archive or () if Path(p).name == name), None) or (
        Path(a.archive[0]) if a.archive and len(a.archive) == 1 and a.source != "mariani" else None
    )
    if a.archive and not given:
        raise PrepError(
            f"--archive does not name {name}: all of them are needed (their names say which stem they are)."
        )
    if given:
        if not given.is_file():
            raise PrepError(f"--archive {given} does not exist.")
        a.sources[given.name] = digest(given, "sha256", title="checksum")[0]
        return open(given, "rb")
    url = rebase(url, a.base)
    if a.stream and not (f.cache / name).exists():
        a.sources[name] = "streamed, checked with the checksum inside"
        return Remote(f, url, magic(start), page)
    path = f.download(url, name, magic(start), md5=md5, page=page, most=1 << 38)
    a.sources[name] = f.sha256(path)
    return open(path, "rb")


# --- MIDI -----------------------------------------------------------------------------------------------------------


def number(data, p):
    "A number of variable length, and the position behind it."
    n = 0
    for k in range(p, p + 5):
        n = n << 7 | data[k] & 127
        if data[k] < 128:
            return n, k + 1
    raise ValueError("a number that does not end")


def encoded(n):
    out = [n & 127]
    while n := n >> 7:
        out.append(n & 127 | 128)
    return bytes(out[::-1])


def audible(track, inner=False):
    "The events of a track that are heard or set the time, and whether it was read to a proper end."
    out, p, wait, status, ended = bytearray(), 0, 0, None, False
    while p < len(track):
        delta, p = number(track, p)
        wait += delta
        b, start, event, ended = track[p], p, None, False
        if b == 0xFF:  # meta
            n, q = number(track, p + 2)
            p = q + n
            ended = track[start + 1] == 0x2F
            if ended or track[start + 1] == 0x51 and n == 3:  # the end, the tempo
                event = track[start:p]
        elif b in (0xF0, 0xF7):  # system exclusive
            n, q = number(track, p + 1)
            p = q + n
            event = track[start:p]
        elif b >= 0xF1:  # realtime and system common: for cables, not for files
            p += {0xF1: 2, 0xF2: 3, 0xF3: 2}.get(b, 1)
        else:
            if b >= 0x80:
                status, p = b, p + 1
            if status is None:
                raise ValueError("data before the first status")
            data = bytearray()
            while len(data) < (1 if 0xC0 <= status < 0xE0 else 2):
                if not (inner and track[p] >= 0xF8):  # a realtime byte may stand inside another message
                    data.append(track[p])
                p += 1
            event = bytes([status]) + data
        if p > len(track):
            raise ValueError("an event that does not end")
        if event is not None:
            out += encoded(wait) + event
            wait = 0
    if wait:
        out += encoded(wait) + b"\xff\x2f\0"
    return bytes(out), ended


def repaired(song):
    "The bytes of a song without what makes no sound and stops readers; as they came where that cannot be told."
    if song[:4] != b"MThd" or len(song) < 14:
        return song
    p = 8 + int.from_bytes(song[4:8], "big")
    out, n = [song[:p]], int.from_bytes(song[10:12], "big")
    while n and p + 8 <= len(song):
        size = int.from_bytes(song[p + 4 : p + 8], "big")
        name, track = song[p : p + 4], song[p + 8 : p + 8 + size]
        if len(track) < size:
            return song
        p += 8 + size
        if name != b"MTrk":
            continue  # another program's own
        n -= 1
        tries = []
        for inner in (False, True):
            with contextlib.suppress(ValueError, IndexError):
                tries.append(audible(track, inner))
                if tries[-1][1]:
                    break
        if tries:
            track = next((t for t, ended in tries if ended), tries[0][0])
        out.append(b"MTrk" + len(track).to_bytes(4, "big") + track)
    return song if n else b"".join(out)


def split_midi(path):
    "A song as {stem: MIDI with the notes of that class alone}, number of notes each, and its length in seconds."
    import mido

    if path.stat().st_size > 1 << 24:
        raise ValueError(f"a song of {gib(path.stat().st_size)}")
    song = mido.MidiFile(file=io.BytesIO(repaired(path.read_bytes())), clip=True)
    if song.type == 2:
        raise ValueError("its tracks are separate songs (type 2)")
    merged, program, stems, count = mido.merge_tracks(song.tracks), [0] * 16, {}, dict.fromkeys(STEMS, 0)
    classes = []  # class of every note that begins, '' for the rest
    for m in merged:
        if m.type == "program_change":
            program[m.channel] = m.program
        starts = m.type == "note_on" and m.velocity > 0
        s = kind(m.channel == 9, program[m.channel]) if starts else ""
        if s:
            count[s] += 1
        classes.append(s)
    for s in STEMS:
        if not count[s]:
            continue
        t, wait = mido.MidiTrack(), 0
        for m, c in zip(merged, classes):
            wait += m.time
            if c not in ("", s):
                continue
            t.append(m.copy(time=wait))
            wait = 0
        part = mido.MidiFile(type=0, ticks_per_beat=song.ticks_per_beat)
        part.tracks.append(t)
        stems[s] = part
    return stems, count, song.length


def synthesizer(a):
    "FluidSynth and the soundfont, or how to get them."
    exe = shutil.which("fluidsynth")
    font = a.soundfont or next((p for p in FONTS if Path(p).is_file()), None)
    if not exe:
        raise PrepError(
            "FluidSynth renders the songs and is not installed. Debian, Ubuntu: apt install fluidsynth"
            " fluid-soundfont-gm (or timgm6mb-soundfont, 5 MB). macOS: brew install fluid-synth. Then run the same"
            " command again."
        )
    if not font or not Path(font).is_file():
        raise PrepError(
            f"{'--soundfont ' + font + ' does not exist' if font else 'No soundfont was found in the usual places'}:"
            " FluidSynth needs one to know how instruments sound. Debian, Ubuntu: apt install fluid-soundfont-gm (or"
            " timgm6mb-soundfont, 5 MB); or name a .sf2 file with --soundfont."
        )
    return exe, font


def render(exe, font, part, seconds):
    "One stem as samples at RATE, of exactly the song's length."
    with tempfile.TemporaryDirectory() as d:
        mid, wav = Path(d) / "stem.mid", Path(d) / "stem.wav"
        part.save(mid)
        try:
            r = subprocess.run(
                [exe, "-niq", "-g", "0.4", "-r", str(RATE), "-F", str(wav), str(font), str(mid)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=60 + 2 * seconds,
            )
        except subprocess.TimeoutExpired:
            raise PrepError(
                f"FluidSynth did not finish {seconds:.0f} s of music in {60 + 2 * seconds:.0f} s: is the machine"
                " overloaded, or the soundfont on a slow disk? Finished songs are kept, run the same command again."
            ) from None
        if r.returncode or not wav.is_file():
            raise PrepError(
                f"FluidSynth failed (status {r.returncode}):"
                f" {(r.stderr or r.stdout).strip()[-300:] or 'it said nothing and wrote no sound'}. Try it by hand on"
                f" one song with {font}."
            )
        x, rate = mono(wav, "what FluidSynth wrote")
    n = round(seconds * RATE)
    x = resample(x, rate)[:n]
    return np.pad(x, (0, n - len(x)))


def songs_of(folder):
    "MIDI files in a folder, each content once: [(path, name, sha256)], and the number of copies."
    found, seen, out = (
        sorted(
            p
            for p in Path(folder).rglob("*")
            if p.suffix.lower() in (".mid", ".midi") and p.is_file() and not is_junk(p.relative_to(folder))
        ),
        set(),
        [],
    )
    if not found:
        raise PrepError(f"--folder {folder} holds no .mid or .midi file.")
    for p in found:
        h = digest(p, "sha256")[0]
        if h not in seen:
            seen.add(h)
            text = "__".join(shown(part) for part in p.relative_to(folder).with_suffix("").parts)
            out.append((p, named(re.sub(r"[^\w.-]+", "_", text).lstrip(".") or "song"), h))
    names = [n for _, n, _ in out]
    return [(p, n if names.count(n) == 1 else f"{n}-{h[:8]}", h) for p, n, h in out], len(found) - len(out)


def from_midi(a, keep):
    exe, font = synthesizer(a)
    songs, copies = songs_of(a.folder)
    a.sources |= {Path(font).name: digest(font, "sha256")[0]}
    a.left["copies of another song"] = copies
    made = 0
    for p, name, h in bar(songs, unit="song", desc="rendering"):
        if a.limit and made >= a.limit:
            break
        try:
            stems, count, seconds = split_midi(p)
        except Exception as e:
            a.left[f"unreadable: {shown(p.name)} ({type(e).__name__}: {str(e)[:100]})"] = 1
            continue  # whatever a broken song makes of the reader
        if len(stems) < a.need:
            a.left[f"fewer than {a.need} stems"] = a.left.get(f"fewer than {a.need} stems", 0) + 1
            continue
        if not 0.5 <= seconds <= 3600:
            a.left["shorter than half a second or longer than an hour"] = (
                a.left.get("shorter than half a second or longer than an hour", 0) + 1
            )
            continue
        u = int(h[:8], 16) / 2**32  # the split depends on the song alone
        a.sources[shown(p.relative_to(a.folder).as_posix())] = h
        made += keep(
            name,
            "train" if u < 0.8 else "validation" if u < 0.9 else "test",
            lambda: {s: render(exe, font, m, seconds) for s, m in stems.items()},
            -1.0,
        )


# --- folders --------------------------------------------------------------------------------------------------------


def from_folder(a, keep):
    folder = Path(a.folder)
    files = [p for p in folder.rglob("*") if p.is_file() and not is_junk(p.relative_to(folder))]
    four = {p.parent for p in files if p.stem in STEMS and p.suffix.lower() in (".wav", ".flac")}
    slakh = {p.parent for p in files if p.name == "metadata.yaml"}
    if not four | slakh:
        raise PrepError(
            f"--folder {folder} holds neither {{bass,drums,guitar,piano}}.wav or .flac nor metadata.yaml with stems/:"
            " name the folder above the tracks."
        )
    made, names = 0, {}
    for d in sorted(four | slakh):
        names.setdefault(d.name, []).append(d)
    for d in bar(sorted(four | slakh), unit="track", desc="folder"):
        if a.limit and made >= a.limit:
            break
        split = next(
            (q for q in d.relative_to(folder).parts[:-1] if q in ("train", "validation", "test", "omitted")), "none"
        )

        for p in sorted(d.rglob("*")):
            if p.suffix.lower() in (".wav", ".flac", ".yaml") and not is_junk(p.relative_to(folder)) and p.is_file():
                a.sources[shown(p.relative_to(folder).as_posix())] = digest(p, "sha256")[0]
        stems = sum_stems if d in slakh else four_stems
        made += keep(
            d.name if len(names[d.name]) == 1 else "_".join(d.relative_to(folder).parts), split, lambda: stems(d)
        )


def listed(left, most=8):
    "What was left out, for people; all of it is in the manifest."
    rows = [f"{v} {k}" for k, v in left.items() if v]
    return ", ".join(rows[:most]) + (f", and {len(rows) - most} more kinds" if len(rows) > most else "")


def main(argv=None):
    ap = parser("slakh", __doc__, MODULES, "the folder to write; with manifest.json")
    ap.add_argument("--source", default="mariani", choices=["mariani", "redux", "baby", "midi", "folder"])
    ap.add_argument("--folder", help="of MIDI songs (midi) or tracks (folder)")
    ap.add_argument("--archive", nargs="+", metavar="FILE", help="archives downloaded by hand, under their own names")
    ap.add_argument("--stream", action="store_true", help="do not keep the archive (redux, baby, mariani)")
    ap.add_argument("--test", action="store_true", help="mariani: the test set alone (7 GB unpacked)")
    ap.add_argument("--need", type=int, help="leave out tracks with fewer of the four stems (default 1; midi 3)")
    ap.add_argument(
        "--by-split",
        action="store_true",
        help="write OUT/<split>/<track>/ with the split of the source (midi: 80, 10, 10 %% by the content of the song)",
    )
    ap.add_argument("--soundfont", help="midi: the .sf2 file (default: FluidR3_GM or TimGM6mb of the system)")
    a = ap.parse_args(argv)
    check_common(a)
    between(a, 1, 4, "need", why=", of the four stems")
    for p in a.archive or ():
        if not Path(p).is_file():
            raise PrepError(f"--archive {p} does not exist.")
    need("soundfile", "soxr")
    a.need = a.need or (3 if a.source == "midi" else 1)
    if a.source in ("midi", "folder"):
        if not a.folder or not Path(a.folder).is_dir():
            raise PrepError(
                f"--source {a.source} needs --folder DIR{f'; {a.folder} is no folder' if a.folder else ''}."
            )
    if a.source == "midi":
        need("mido")
        _, font = synthesizer(a)
    if a.source in ("redux", "baby", "folder"):
        need("yaml")
    out, manifest = Path(a.out), Path(a.out) / "manifest.json"
    if out.is_file():
        raise PrepError(f"--out {out} is a file; a folder is needed.")
    can_write(manifest)
    if a.folder and Path(a.folder).resolve() in (out.resolve(), *out.resolve().parents):
        raise PrepError(
            f"--out {out} lies in --folder {a.folder}, which would change what is read: name another place."
        )
    params = dict(
        source=a.source,
        limit=a.limit,
        need=a.need,
        test=a.test,
        by_split=a.by_split,
        rate=RATE,
        **(dict(folder=shown(Path(a.folder).name), content=content(a.folder)) if a.folder else {}),
        **(dict(soundfont=Path(font).name) if a.source == "midi" else {}),
    )
    if out.is_dir() and any(out.iterdir()) and not (manifest.exists() or (out / ".manifest.json.begun").exists()):
        raise PrepError(f"--out {out} is not empty and was not begun by this command: name a new folder.")
    mark, old = begun(manifest), None
    if mark.exists():
        old = read_json(mark)
    elif manifest.exists():
        old = read_json(manifest).get("parameters")
    same = old == json.loads(json.dumps(params))
    if mark.exists() and not same and a.resume and not a.overwrite:
        raise PrepError(
            f"{out} was begun with other parameters ({mark} lists them): choose another --out, or add --overwrite."
        )
    if begin(a, manifest, params):
        shutil.rmtree(out / ".work", ignore_errors=True)
        return
    if not a.resume or not same:  # what another run made here
        names = (
            read_json(manifest).get("tracks", {})
            if manifest.exists()
            else [
                p.relative_to(out / ".work" / "facts").with_suffix("").as_posix()
                for p in (out / ".work" / "facts").rglob("*.json")
            ]
        )
        for n in map(named, names):
            if out in (out / inside(n)).parents and (out / n).is_dir():
                shutil.rmtree(out / n)
        shutil.rmtree(out / ".work", ignore_errors=True)
    a.sources, a.left, tracks = {}, {}, {}

    def keep(name, split, stems, peak=None):
        "Makes a track unless it is there; 1 if it counts."
        name = at(a, split, name)
        if not done(out, name):
            why, note = None, left_of(out, name)
            if note.is_file():
                why = read_json(note)["why"]  # found out by an earlier run
            else:
                try:
                    made = stems()
                    if len(made) < a.need or not write_track(out, name, made, peak):
                        why = f"fewer than {a.need} stems"
                except Unusable as e:
                    why = f"{shown(name)}/{e}"
            if why:
                save_json(note, dict(why=why))
                a.left[why] = a.left.get(why, 0) + 1
                return 0
        tracks[name] = dict(read_json(facts_of(out, name)), split=split)
        return 1

    if a.source == "midi":
        from_midi(a, keep)
    elif a.source == "folder":
        from_folder(a, keep)
    else:
        with fetcher(a) as f:
            if a.source in SLAKH:
                url, md5 = SLAKH[a.source]
                name = url.rpartition("/")[2]
                with archive(f, a, url, name, md5, start=b"\x1f\x8b") as s:
                    from_slakh(s, name, a, keep)
            else:
                work = out / ".work" / "stems"
                for s in ("test",) if a.test else STEMS:
                    name = "slakh2100-testset-22050.tar.xz" if a.test else f"{s}_22050.tar.xz"
                    mark = work / f"{s}.done"
                    if mark.exists():
                        a.sources |= read_json(mark)
                        continue
                    with archive(f, a, DRIVE.format(id=IDS[s]), name, page=drive_page) as stream:
                        gather(stream, name, None if a.test else s, a, work)
                    save_json(mark, {name: a.sources[name]})
                found = {}
                for d in sorted(work.glob("*-Track*")):
                    split, _, track = d.name.partition("-")
                    found[track] = split, d
                for track, (split, d) in bar(sorted(found.items()), unit="track", desc="tracks"):
                    keep(track, split, lambda: four_stems(d))
                    for p in d.iterdir():
                        p.unlink()  # the folder stays: it says that the track belongs to this set
    if not tracks:
        raise PrepError(f"No track came out ({listed(a.left) or 'none was found'}): see --need and --folder.")
    files = {
        f"{t}/{s}.wav": digest(out / t / f"{s}.wav", "sha256")[0]
        for t in bar(sorted(tracks), unit="track", desc="checksums")
        for s in STEMS
    }
    seconds = sum(t["seconds"] for t in tracks.values())
    missing = {s: sum(s in t["missing"] for t in tracks.values()) for s in STEMS}
    picture_of(out)
    finish(
        manifest,
        dataset="slakh",
        parameters=params,
        licence_and_attribution=TERMS[a.source],
        tracks=dict(sorted(tracks.items())),
        hours=round(seconds / 3600, 3),
        missing_stems=missing,
        left_out=a.left,
        files=files,
        sources=a.sources,
    )
    shutil.rmtree(out / ".work", ignore_errors=True)
    silent = sum(sum(e - b for b, e in v) for t in tracks.values() for v in t["silent"].values())
    print(
        f"{out}: {len(tracks)} tracks, {seconds / 60:.1f} minutes; missing stems:"
        f" {', '.join(f'{v} {k}' for k, v in missing.items() if v) or 'none'}; silent stretches of 5 s and more:"
        f" {silent / 60:.1f} of {4 * seconds / 60:.1f} stem minutes; left out:"
        f" {listed(a.left) or 'nothing'}. Manifest: {manifest}, picture:"
        f" {out}/preview.png"
    )


if __name__ == "__main__":
    command(main)
