"""A folder of (satellite image, label map) pairs, cut into the file that `nbs/30_maps.ipynb` takes with `data=<path>`.

    python -m data_prep.pairs FOLDER OUT.npz --size 256 --hold tile_2 tile_4

Pairs are two files of the same name and size, the image as .jpg or .jpeg and the map as .png, in FOLDER or one folder
below it (the layout of the Dubai set of Humans in the Loop, CC0). Crops of SIZE pixels cover every image at its native
resolution; images smaller than that and crops with more than 98 % in one class are left out and counted. Crops from the
sub-folders named by --hold are marked as held out: whole tiles, so that no test crop touches a training crop on the ground.

OUT holds `map` and `sat` (uint8, n x 3 x SIZE x SIZE), `held` (bool, n) and `source` (one name per crop).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .fetch import save_npz


def corners(n, size):
    "Corners of crops of `size` that cover `n` pixels: side by side, the last one shifted in."
    return sorted({*range(0, n - size + 1, size), n - size}) if n >= size else []


def dominant(crop):
    "Share of the most frequent colour of a map (size, size, 3)."
    code = crop.astype(np.int64) @ [65536, 256, 1]
    return np.unique(code, return_counts=True)[1].max() / code.size


def two_files(p):
    "Photo and map of a .jpg with a .png of the same name beside it."
    if not p.with_suffix(".png").exists():
        raise FileNotFoundError(f"{p} has no map {p.with_suffix('.png').name} beside it")
    sat, label = (np.asarray(Image.open(q).convert("RGB")) for q in (p, p.with_suffix(".png")))
    if sat.shape != label.shape:
        raise ValueError(
            f"{p} is {sat.shape[1]}x{sat.shape[0]}, its map {label.shape[1]}x{label.shape[0]}: a pair has one size"
        )
    return sat, label


def side_by_side(p, photo="left"):
    "Photo and map of one image that holds both, as in pix2pix."
    both = np.asarray(Image.open(p).convert("RGB"))
    w = both.shape[1] // 2
    if both.shape[1] != 2 * w:
        raise ValueError(f"{p} is {both.shape[1]}x{both.shape[0]}: two images side by side have an even width")
    return (both[:, :w], both[:, w:])[:: 1 if photo == "left" else -1]


def cut(folder, size, hold=(), most=0.98, read=two_files, kinds=("jpg", "jpeg"), images=None):
    "All useful crops of a folder: dict of `map`, `sat`, `held`, `source`, and the number left out."
    folder = Path(folder)
    if images is None:
        images = sorted(p for e in kinds for p in [*folder.glob(f"*.{e}"), *folder.glob(f"*/*.{e}")])
    if not images:
        raise FileNotFoundError(
            f"no .{kinds[0]} image in {folder} or one folder below"
            + (": each image needs a .png map of the same name beside it" if "png" not in kinds else "")
        )
    unknown = set(hold) - {p.parent.name for p in images}
    if unknown:
        raise ValueError(f"--hold names {sorted(unknown)}, the folders are {sorted({p.parent.name for p in images})}")
    out, dropped = dict(map=[], sat=[], held=[], source=[]), 0
    for p in images:
        sat, label = read(p)
        for i in corners(sat.shape[0], size):
            for j in corners(sat.shape[1], size):
                s, m = (a[i : i + size, j : j + size] for a in (sat, label))
                if dominant(m) > most:
                    dropped += 1
                    continue
                for k, v in dict(
                    map=m.transpose(2, 0, 1),
                    sat=s.transpose(2, 0, 1),
                    held=p.parent.name in hold,
                    source=f"{p.relative_to(folder).with_suffix('').as_posix()}@{i},{j}",
                ).items():
                    out[k].append(v)
    if not out["sat"]:
        raise ValueError(
            f"no crop of {size} pixels could be cut from the {len(images)} images in {folder}: use a smaller --size"
        )
    return {k: np.array(v) for k, v in out.items()}, dropped


def main(argv=None):
    ap = argparse.ArgumentParser(
        prog="python -m data_prep.pairs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("folder")
    ap.add_argument("out")
    ap.add_argument("--size", type=int, default=256, help="side of a crop in pixels (default 256)")
    ap.add_argument("--hold", nargs="*", default=[], help="sub-folders whose crops are held out")
    a = ap.parse_args(argv)
    arrays, dropped = cut(a.folder, a.size, a.hold)
    out = Path(a.out)
    save_npz(out, **arrays)
    print(
        f"{out}: {len(arrays['sat'])} crops of {a.size} pixels, {int(arrays['held'].sum())} of them held out; {dropped}"
        " nearly empty ones left out"
    )


if __name__ == "__main__":
    main()
