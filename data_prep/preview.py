"""A picture of a dataset, to see at a glance what came out. Every command of `data_prep` writes one beside its result.

python -m data_prep.preview maps.npz        pairs of photo and map, held-out ones framed
python -m data_prep.preview clevr.npz       images with a cross at every known centre
python -m data_prep.preview music           the loudness of the four stems of some tracks over time
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .fetch import Member, PrepError, can_write, command, open_zip, whole
from .images import is_junk

COLOURS = [(230, 120, 40), (70, 130, 210), (90, 170, 80), (170, 90, 190)]  # of the stems
STEMS = ("bass", "drums", "guitar", "piano")


def some(n, k=12):
    return np.unique(np.linspace(0, n - 1, min(n, k)).round().astype(int))  # spread over the dataset


def rows(path, name, which=None):
    "Some rows of an array in an .npz (None: all), without having the others in memory."
    with open_zip(path) as z:
        m = Member(z, name, path)
        if which is None:
            return m.whole()
        wanted, out = set(map(int, which)), []
        for k, piece in enumerate(m.pieces(max(wanted) + 1, 1)):
            if k in wanted:
                out.append(piece[0])
        return np.stack(out)


def shape_of(z, name, path):
    m = Member(z, name, path)
    return m.shape, m.dtype


def check(path):
    "The kind of a dataset in one file, or what is wrong with its arrays."
    with open_zip(path) as z:
        names = {n.removesuffix(".npy") for n in z.namelist()}
        if {"map", "sat", "held"} <= names:
            (a, t), (b, u), (c, v) = (shape_of(z, n, path) for n in ("map", "sat", "held"))
            good = a == b and len(a) == 4 and a[1] == 3 and c == a[:1] and t == u == np.uint8 and v.kind == "b"
            kind = "maps"
        elif {"ims", "coords_labels"} <= names:
            (a, t), (b, u) = (shape_of(z, n, path) for n in ("ims", "coords_labels"))
            good = len(a) == 4 and a[1] == a[2] and a[3] == 3 and t == np.uint8
            good = good and len(b) in (2, 3) and b[-1] == 2 and b[0] == a[0] and u.kind == "f"
            kind = "clevr"
        else:
            raise PrepError(f"{path} is no dataset of data_prep: it holds {sorted(names)[:10]}.")
    if not (good and min(a) > 0 and max(a[1:]) <= 1 << 12):
        raise PrepError(f"{path} is no dataset of data_prep: its arrays have the shapes {a} and {b}.")
    return kind


def sheet(tiles, columns=6, gap=4):
    "Pictures of one size in rows, on white."
    h, w, _ = tiles[0].shape
    rows = -(-len(tiles) // columns)
    out = np.full((rows * (h + gap) + gap, min(columns, len(tiles)) * (w + gap) + gap, 3), 255, np.uint8)
    for k, t in enumerate(tiles):
        i, j = k // columns * (h + gap) + gap, k % columns * (w + gap) + gap
        out[i : i + h, j : j + w] = t
    return out


def maps(path):
    held = rows(path, "held")
    which, out = some(len(held)), []
    for sat, street, h in zip(rows(path, "sat", which), rows(path, "map", which), held[which]):
        t = np.concatenate([sat, street], 1).transpose(1, 2, 0).copy()  # photo above its map
        if h:
            t[:3] = t[-3:] = (220, 30, 30)
            t[:, :3] = t[:, -3:] = (220, 30, 30)
        out.append(t)
    return sheet(out)


def clevr(path):
    coords = rows(path, "coords_labels")
    which, out = some(len(coords)), []
    for im, c in zip(rows(path, "ims", which), coords[which]):
        t, S = im.copy(), len(im)
        for x, y in c.reshape(-1, 2):
            if not (0 <= x <= 1 and 0 <= y <= 1):
                continue
            i, j = min(round((1 - y) * S), S - 1), min(round(x * S), S - 1)
            t[max(i - 4, 0) : i + 5, j] = t[i, max(j - 4, 0) : j + 5] = (255, 30, 30)
        out.append(t)
    return sheet(out)


def tracks_in(folder):
    folder = Path(folder)
    return sorted(p.parent for p in folder.rglob("bass.wav") if not is_junk(p.relative_to(folder)))


def music(folder, w=600, h=28):
    import soundfile as sf

    tracks, out = tracks_in(folder), []
    for k in some(len(tracks), 8):
        t = np.full((4 * h, w, 3), 245, np.uint8)
        for s, name in enumerate(STEMS):
            path = tracks[k] / f"{name}.wav"
            try:
                with open(path, "rb") as raw, sf.SoundFile(raw) as f:
                    step = max(1, -(-f.frames // w))
                    if f.channels > 16 or step > 1 << 22:
                        raise PrepError(f"{path}: {f.frames} samples in {f.channels} channels are no track.")
                    peaks = [float(np.abs(b).max()) for b, _ in zip(f.blocks(step, dtype="float32"), range(w))]
            except FileNotFoundError:
                raise PrepError(f"{path} does not exist: a track has {', '.join(STEMS)}, each as .wav.") from None
            except sf.LibsndfileError as e:
                raise PrepError(f"{path} is no readable sound file ({str(e)[-100:]}).") from None
            for j, p in enumerate(peaks):
                a = int(min(p if np.isfinite(p) else 1.0, 1.0) * (h - 2) / 2)
                t[s * h + h // 2 - a : s * h + h // 2 + a + 1, j] = COLOURS[s]
        out.append(t)
    return sheet(out, 2)


def preview(data, out=None):
    "Writes the picture and gives its path."
    data = Path(data)
    out = Path(out) if out else data / "preview.png" if data.is_dir() else data.with_suffix(".png")
    if not data.exists():
        raise PrepError(f"{data} does not exist.")
    if out.is_dir() or out.suffix.lower() != ".png":
        raise PrepError(f"{out}: a picture is one file with a name that ends in .png.")
    can_write(out)
    if data.is_dir():
        if not tracks_in(data):
            raise PrepError(f"{data} has no tracks with bass.wav, drums.wav, guitar.wav and piano.wav.")
        made = music(data)
    else:
        made = clevr(data) if check(data) == "clevr" else maps(data)
    with whole(out) as f:
        Image.fromarray(made).save(f, "PNG")
    return out


def main(argv=None):
    ap = argparse.ArgumentParser(
        prog="python -m data_prep.preview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("data")
    ap.add_argument("--out", help="the .png to write (default: beside the data)")
    a = ap.parse_args(argv)
    print(preview(a.data, a.out))


if __name__ == "__main__":
    command(main)
