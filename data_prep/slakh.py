"""Music as four stems at 22,050 Hz, as the folder that `nbs/10_music.ipynb` takes with `data=<path>`.

    python -m data_prep.slakh --out music --source midi --folder DIR         MIDI songs of your own, rendered with FluidSynth
    python -m data_prep.slakh --out music --source baby                      BabySlakh, 20 tracks, 0.9 GB
    python -m data_prep.slakh --out music --source redux --stream --limit 5  a first try at Slakh2100: stops after five tracks
    python -m data_prep.slakh --out music --source redux                     Slakh2100-redux, 104 GB
    python -m data_prep.slakh --out music                                    the paper's: Mariani et al.'s four stems
    python -m data_prep.slakh --out music --source folder --folder DIR       any of these, already unpacked

Sources
  mariani  (default) four archives at Google Drive, STEM_22050.tar.xz; --test: their test set alone. No checksums are
           published, so the archives' own are checked. When Drive's quota is used up: download them in a browser, name them
           with --archive.
  redux    Slakh2100-redux (CC BY 4.0, md5 known): each stem is the sum of the tracks of its class (drums; MIDI programs 0-7
           piano, 24-31 guitar, 32-39 bass); tracks that were never rendered are skipped, other classes are left out.
  baby     the first 20 tracks of it, 16 kHz (so nothing sounds above 8 kHz).
  midi     every .mid below --folder, each class rendered on its own as Slakh was made, silent where it does not play; the
           mix of a song peaks at -1 dBFS. Needs `fluidsynth` and a soundfont (Debian: apt install fluidsynth fluid-soundfont-gm).
  folder   four-stem tracks ({bass,drums,guitar,piano}.wav or .flac) or Slakh's layout (metadata.yaml with stems/), unpacked.

Archives are kept in the cache, so a download goes on where it stopped; with --stream nothing is kept: the archive is read once from
the network, forward, and a run that was stopped reads it again from the start but writes only the tracks that are missing.

OUT/<track>/{bass,drums,guitar,piano}.wav (with --by-split OUT/<split>/<track>/): mono, 22,050 Hz, 16 bit, the four of equal length. A stem that a track does not have is
silence. OUT/manifest.json lists split, length, missing stems and silent stretches of every track; OUT/preview.png shows some.
"""

import contextlib
import html
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
    command,
    content,
    digest,
    fetcher,
    finish,
    inside,
    magic,
    need,
    parser,
    positive,
    rebase,
    room,
    save_json,
    tar_members,
    unpack,
)
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


def mono(path, where=None):
    "A sound file as float32 (samples,), channels averaged, and its rate in Hz."
    import soundfile as sf

    try:
        x, rate = sf.read(path, dtype="float32", always_2d=True)
    except sf.LibsndfileError as e:
        raise PrepError(f"{where or path} is no readable sound file ({e}): the archive or folder is damaged.") from None
    return x.mean(1), rate


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
    out, name, stems, peak=None
):  # {stem: float32 samples at RATE}; dBFS of the mix, or None: as it is unless it clips
    "The four stems of a track, equal in length, all or nothing; gives the facts for the manifest."
    import soundfile as sf

    n = max((len(x) for x in stems.values()), default=0)
    if not n:
        return None
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
        sf.write(
            work / f"{s}.wav", np.rint(x * (gain * 32768)).clip(-32768, 32767).astype(np.int16), RATE, subtype="PCM_16"
        )
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


def sum_stems(folder):
    "The four stems of a Slakh track from its metadata.yaml and stems/."
    import yaml

    try:
        meta = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))["stems"].items()
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as e:
        raise PrepError(
            f"{folder.name}/metadata.yaml cannot be read ({type(e).__name__}): the archive or folder is damaged."
        ) from None
    out = {}
    for k, m in sorted(meta):
        s = kind(m.get("is_drum"), m.get("program_num", -1))
        path = next((p for e in ("flac", "wav") if (p := folder / "stems" / f"{k}.{e}").is_file()), None)
        if s is None or path is None:
            continue
        x, rate = mono(path)
        if s in out:
            if out[s][1] != rate:
                raise PrepError(f"{path}: {rate} Hz, another of its class {out[s][1]} Hz; one rate is needed.")
            n = max(len(x), len(out[s][0]))
            x = np.pad(x, (0, n - len(x))) + np.pad(out[s][0], (0, n - len(out[s][0])))
        out[s] = x, rate
    return {s: resample(*v) for s, v in out.items()}


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

STEM_FILE = re.compile(
    r"(?:.*?/)??(?:(bass|drums|guitar|piano)_22050/)?(train|validation|test)/(Track\d+)(?:/(bass|drums|guitar|piano))?\.wav"
)


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
    if not to or urlsplit(to).hostname not in (known, "drive.usercontent.google.com"):
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
    path = f.download(url, name, magic(start), md5=md5, page=page)
    a.sources[name] = f.sha256(path)
    return open(path, "rb")


# --- MIDI -----------------------------------------------------------------------------------------------------------


def split_midi(path):
    "A song as {stem: MIDI with the notes of that class alone}, number of notes each, and its length in seconds."
    import mido

    song = mido.MidiFile(path, clip=True)
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
                text=True,
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
        x, rate = mono(wav, "What FluidSynth wrote")
    n = round(seconds * RATE)
    x = resample(x, rate)[:n]
    return np.pad(x, (0, n - len(x)))


def songs_of(folder):
    "MIDI files in a folder, each content once: [(path, name, sha256)], and the number of copies."
    found, seen, out = (
        sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".mid", ".midi") and p.is_file()),
        set(),
        [],
    )
    if not found:
        raise PrepError(f"--folder {folder} holds no .mid or .midi file.")
    for p in found:
        h = digest(p, "sha256")[0]
        if h not in seen:
            seen.add(h)
            out.append(
                (
                    p,
                    re.sub(r"[^\w.-]+", "_", "__".join(p.relative_to(folder).with_suffix("").parts)).lstrip(".")
                    or "song",
                    h,
                )
            )
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
            a.left[f"unreadable: {p.name} ({e})"] = 1
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
        a.sources[p.relative_to(a.folder).as_posix()] = h
        made += keep(
            name,
            "train" if u < 0.8 else "validation" if u < 0.9 else "test",
            lambda: {s: render(exe, font, m, seconds) for s, m in stems.items()},
            -1.0,
        )


# --- folders --------------------------------------------------------------------------------------------------------


def from_folder(a, keep):
    folder = Path(a.folder)
    four = {p.parent for s in STEMS for e in ("wav", "flac") for p in folder.rglob(f"{s}.{e}")}
    slakh = {p.parent for p in folder.rglob("metadata.yaml")}
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

        def stems(d=d):
            if d in slakh:
                return sum_stems(d)
            return {
                s: resample(*mono(p))
                for s in STEMS
                if (p := next((p for e in ("wav", "flac") if (p := d / f"{s}.{e}").is_file()), None))
            }

        for p in sorted(d.rglob("*")):
            if p.suffix in (".wav", ".flac", ".yaml"):
                a.sources[p.relative_to(folder).as_posix()] = digest(p, "sha256")[0]
        made += keep(d.name if len(names[d.name]) == 1 else "_".join(d.relative_to(folder).parts), split, stems)


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
    positive(a, "limit", "need")
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
    params = dict(
        source=a.source,
        limit=a.limit,
        need=a.need,
        test=a.test,
        by_split=a.by_split,
        rate=RATE,
        **(dict(folder=Path(a.folder).name, content=content(a.folder)) if a.folder else {}),
        **(dict(soundfont=Path(font).name) if a.source == "midi" else {}),
    )
    if out.is_dir() and any(out.iterdir()) and not (manifest.exists() or (out / ".manifest.json.begun").exists()):
        raise PrepError(f"--out {out} is not empty and was not begun by this command: name a new folder.")
    mark, old = begun(manifest), None
    if mark.exists():
        old = json.loads(mark.read_text(encoding="utf-8"))
    elif manifest.exists():
        old = json.loads(manifest.read_text(encoding="utf-8")).get("parameters")
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
            json.loads(manifest.read_text(encoding="utf-8"))["tracks"]
            if manifest.exists()
            else [
                p.relative_to(out / ".work" / "facts").with_suffix("").as_posix()
                for p in (out / ".work" / "facts").rglob("*.json")
            ]
        )
        for n in names:
            if out in (out / inside(n)).parents and (out / n).is_dir():
                shutil.rmtree(out / n)
        shutil.rmtree(out / ".work", ignore_errors=True)
    a.sources, a.left, tracks = {}, {}, {}

    def keep(name, split, stems, peak=None):
        "Makes a track unless it is there; 1 if it counts."
        name = at(a, split, name)
        if not done(out, name):
            made = stems()
            if len(made) < a.need or not write_track(out, name, made, peak):
                k = f"fewer than {a.need} stems"
                a.left[k] = a.left.get(k, 0) + 1
                return 0
        tracks[name] = dict(json.loads(facts_of(out, name).read_text()), split=split)
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
                        a.sources |= json.loads(mark.read_text())
                        continue
                    with archive(f, a, DRIVE.format(id=IDS[s]), name, page=drive_page) as stream:
                        gather(stream, name, None if a.test else s, a, work)
                    mark.parent.mkdir(parents=True, exist_ok=True)
                    mark.write_text(json.dumps({name: a.sources[name]}))
                found = {}
                for d in sorted(work.glob("*-Track*")):
                    split, _, track = d.name.partition("-")
                    found[track] = split, d
                for track, (split, d) in bar(sorted(found.items()), unit="track", desc="tracks"):
                    keep(
                        track,
                        split,
                        lambda: {s: resample(*mono(d / f"{s}.wav")) for s in STEMS if (d / f"{s}.wav").is_file()},
                    )
                    for p in d.iterdir():
                        p.unlink()  # the folder stays: it says that the track belongs to this set
    if not tracks:
        raise PrepError(
            f"No track came out ({', '.join(f'{v} {k}' for k, v in a.left.items()) or 'none was found'}): see --need"
            " and --folder."
        )
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
        f" {', '.join(f'{v} {k}' for k, v in a.left.items() if v) or 'nothing'}. Manifest: {manifest}, picture:"
        f" {out}/preview.png"
    )


if __name__ == "__main__":
    command(main)
