"""A picture of a dataset, to see at a glance what came out. Every command of `data_prep` writes one beside its result.

python -m data_prep.preview maps.npz        pairs of photo and map, held-out ones framed
python -m data_prep.preview clevr.npz       images with a cross at every known centre
python -m data_prep.preview music           the loudness of the four stems of some tracks over time
"""

import argparse
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from .fetch import PrepError, command, whole

COLOURS = [(230, 120, 40), (70, 130, 210), (90, 170, 80), (170, 90, 190)]  # bass, drums, guitar, piano


def some(n, k=12):
    return np.unique(np.linspace(0, n - 1, min(n, k)).round().astype(int))  # spread over the dataset


def rows(path, name, which=None):
    "Some rows of an array in an .npz (None: all), without having the others in memory."
    with zipfile.ZipFile(path) as z, z.open(f"{name}.npy") as f:
        read = (
            np.lib.format.read_array_header_1_0
            if np.lib.format.read_magic(f) == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(f)
        at, one = f.tell(), int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        out = []
        for i in range(shape[0]) if which is None else which:
            f.seek(at + int(i) * one)
            out.append(np.frombuffer(f.read(one), dtype).reshape(shape[1:]))
        return np.stack(out)


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
            if np.isnan(x):
                continue
            i, j = min(round((1 - y) * S), S - 1), min(round(x * S), S - 1)
            t[max(i - 4, 0) : i + 5, j] = t[i, max(j - 4, 0) : j + 5] = (255, 30, 30)
        out.append(t)
    return sheet(out)


def music(folder, w=600, h=28):
    import soundfile as sf

    tracks, out = sorted(p.parent for p in Path(folder).rglob("bass.wav")), []
    for k in some(len(tracks), 8):
        t = np.full((4 * h, w, 3), 245, np.uint8)
        for s, name in enumerate(("bass", "drums", "guitar", "piano")):
            with sf.SoundFile(tracks[k] / f"{name}.wav") as f:
                peaks = np.array([np.abs(b).max() for b in f.blocks(max(1, -(-f.frames // w)), dtype="float32")])
            for j, p in enumerate(peaks[:w]):
                a = int(p * (h - 2) / 2)
                t[s * h + h // 2 - a : s * h + h // 2 + a + 1, j] = COLOURS[s]
        out.append(t)
    return sheet(out, 2)


def preview(data, out=None):
    "Writes the picture and gives its path."
    data = Path(data)
    out = Path(out) if out else data / "preview.png" if data.is_dir() else data.with_suffix(".png")
    if data.is_dir():
        if not any(data.rglob("bass.wav")):
            raise PrepError(f"{data} has no tracks with bass.wav, drums.wav, guitar.wav and piano.wav.")
        picture = music(data)
    else:
        try:
            names = {n.removesuffix(".npy") for n in zipfile.ZipFile(data).namelist()}
        except zipfile.BadZipFile:
            names = set()
        if not ({"map", "sat", "held"} <= names or {"ims", "coords_labels"} <= names):
            raise PrepError(f"{data} is no dataset of data_prep.")
        picture = clevr(data) if "ims" in names else maps(data)
    with whole(out) as f:
        Image.fromarray(picture).save(f, "PNG")
    return out


def main(argv=None):
    ap = argparse.ArgumentParser(
        prog="python -m data_prep.preview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("data")
    ap.add_argument("--out", help="the .png to write (default: beside the data)")
    a = ap.parse_args(argv)
    if not Path(a.data).exists():
        raise PrepError(f"{a.data} does not exist.")
    print(preview(a.data, a.out))


if __name__ == "__main__":
    command(main)
