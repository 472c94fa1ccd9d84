"""A folder of (satellite image, label map) pairs, cut into the file that `nbs/30_maps.ipynb` takes with `data=<path>`.

    python -m data_prep.pairs FOLDER OUT.npz --size 256 --hold tile_2 tile_4

Pairs are two files of the same name and size, the image as .jpg or .jpeg and the map as .png (in any case), in FOLDER
or one folder below it (the layout of the Dubai set of Humans in the Loop, CC0). An image without its map, or a map
without its image, ends the run with their names. Crops of SIZE pixels cover every image at its native resolution;
images smaller than that and crops with more than 98 % in one class are left out and counted. Crops from the
sub-folders named by --hold are marked as held out: whole tiles, so that no test crop touches a training crop on the
ground.

Photos are turned as their EXIF says, transparent pixels laid on white, 16 bits a channel scaled to 8 (label maps with
16 bits are refused). What an operating system leaves in folders (`._a.jpg`, `.DS_Store`, `__MACOSX`, `Thumbs.db`) is
ignored.

OUT holds `map` and `sat` (uint8, n x 3 x SIZE x SIZE), `held` (bool, n) and `source` (one name per crop).
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from .fetch import PrepError, between, can_write, command, save_npz, shown
from .images import images_in, open_image

PHOTOS = (".jpg", ".jpeg")


def corners(n, size):
    "Corners of crops of `size` that cover `n` pixels: side by side, the last one shifted in."
    return sorted({*range(0, n - size + 1, size), n - size}) if n >= size else []


def dominant(crop):
    "Share of the most frequent colour of a map (size, size, 3)."
    code = crop.astype(np.int64) @ [65536, 256, 1]
    return np.unique(code, return_counts=True)[1].max() / code.size


# --- which files belong together -------------------------------------------------------------------------------------


def names_of(paths, folder, k=3):
    "The first few of some files, and how many there are."
    first = ", ".join(shown(p.relative_to(folder).as_posix()) for p in paths[:k])
    return f"{first}{', ...' if len(paths) > k else ''} ({len(paths)})"


def partners(files):
    "The files by their place and name without suffix: photos (.jpg, .jpeg) and maps (.png)."
    photos, maps = {}, {}
    for p in files:
        (photos if p.suffix.lower() in PHOTOS else maps).setdefault(p.with_suffix(""), []).append(p)
    return photos, maps


def find(folder, layout="auto"):  # 'two' files a pair, 'side' by side in one image, or 'auto'
    "The layout of a folder of pairs, and its images: the photos for 'two'. Says what does not fit, with names."
    folder = Path(folder)
    if layout not in ("auto", "two", "side"):
        raise PrepError(f"layout {layout!r}: 'auto', 'two' or 'side' is needed.")
    if not folder.is_dir():
        raise PrepError(f"{folder} is no folder: no .jpg or .png image can be there.")
    files = images_in(folder)
    photos, maps = partners(files)
    both = photos.keys() & maps.keys()
    if layout == "side" or layout == "auto" and not both and not (photos and maps):
        if not files:
            raise PrepError(f"no .jpg or .png image in {folder} or one folder below it.")
        return "side", files
    if not photos:
        raise PrepError(
            f"no .jpg or .jpeg image in {folder} or one folder below it: each image needs a .png map of the same name"
            " beside it."
        )
    several = sorted(p for found in (photos, maps) for ps in found.values() if len(ps) > 1 for p in ps)
    if several:
        raise PrepError(f"{names_of(several, folder)} in {folder} share a name: one .jpg and one .png make a pair.")
    if not both:
        raise PrepError(
            f"{folder} holds {len(photos)} .jpg and {len(maps)} .png images, and no two of one name: a photo without"
            f" its map is, for example, {names_of(sorted(p for ps in photos.values() for p in ps), folder)}. Give a"
            " pair one name, or say --layout side if each image is photo and map side by side."
        )
    alone = sorted(p for found in (photos, maps) for k, ps in found.items() if k not in both for p in ps)
    if alone:
        raise PrepError(
            f"{names_of(alone, folder)} in {folder} have no partner, and {len(both)} pairs of .jpg and .png do: add"
            " what is missing (a photo .jpg, a map .png of the same name), or move them away."
        )
    return "two", [p for p in files if p.suffix.lower() in PHOTOS]


def map_of(p):
    "The .png beside a photo, its suffix in any case."
    found = [p.with_suffix(e) for e in (".png", ".PNG") if p.with_suffix(e).is_file()]
    found = found or [q for q in p.parent.glob("*") if q.stem == p.stem and q.suffix.lower() == ".png"]
    if not found:
        raise PrepError(f"{p} has no map {p.with_suffix('.png').name} beside it.")
    return found[0]


def picture(p, use="photo"):
    "An image as an array (h, w, 3), and what was changed."
    try:
        im = open_image(p, use=use)
    except ValueError as e:
        raise PrepError(f"{e}.") from None
    return np.asarray(im), im.info["notes"]


def two_files(p):
    "Photo and map of a .jpg with a .png of the same name beside it, and what was changed."
    if p.suffix.lower() not in PHOTOS:
        raise PrepError(f"{p}: the photo of a pair is a .jpg or .jpeg, the .png beside it is its map.")
    (sat, a), (label, b) = picture(p), picture(map_of(p), "label map")
    if sat.shape != label.shape:
        raise PrepError(
            f"{p} is {sat.shape[1]}x{sat.shape[0]}, its map {label.shape[1]}x{label.shape[0]}: a pair has one size."
        )
    return sat, label, {*a, *b}


def side_by_side(p, photo="left"):
    "Photo and map of one image that holds both, as in pix2pix, and what was changed."
    both, notes = picture(p, "pair of photo and label map")
    w = both.shape[1] // 2
    if both.shape[1] != 2 * w or not w:
        raise PrepError(f"{p} is {both.shape[1]}x{both.shape[0]}: two images side by side have an even width.")
    halves = both[:, :w], both[:, w:]
    return *(halves if photo == "left" else halves[::-1]), set(notes)


# --- crops -----------------------------------------------------------------------------------------------------------


def check_hold(hold, images):
    "The folders to hold out exist, and leave something to learn from."
    folders = {p.parent.name for p in images}
    unknown = set(hold) - folders
    if unknown:
        raise PrepError(f"--hold names {sorted(unknown)}, the folders are {sorted(folders)}.")
    if hold and set(hold) == folders:
        raise PrepError(f"--hold names every folder ({sorted(folders)}): nothing is left to train on.")


def cut(folder, size, hold=(), most=0.98, read=two_files, images=None, notes=None):
    "All useful crops of a folder: dict of `map`, `sat`, `held`, `source`, and the number left out; `notes` counts."
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise PrepError(f"size {size!r}: a whole number of pixels above 0 is needed.")
    if not 0 < most <= 1:
        raise PrepError(f"a largest share of {most} in one colour: a number above 0 and up to 1 is needed.")
    folder = Path(folder)
    if images is None:
        images = find(folder, "two")[1]
    check_hold(hold, images)
    out, dropped = dict(map=[], sat=[], held=[], source=[]), 0
    for p in images:
        sat, label, changed = read(p)
        if notes is not None:
            notes.update(changed)
        for i in corners(sat.shape[0], size):
            for j in corners(sat.shape[1], size):
                s, m = (a[i : i + size, j : j + size] for a in (sat, label))
                if dominant(m) > most:
                    dropped += 1
                    continue
                out["map"].append(m.transpose(2, 0, 1))
                out["sat"].append(s.transpose(2, 0, 1))
                out["held"].append(p.parent.name in hold)
                out["source"].append(f"{shown(p.relative_to(folder).with_suffix('').as_posix())}@{i},{j}")
    if not out["sat"]:
        raise PrepError(
            f"no crop of {size} pixels could be cut from the {len(images)} images in {folder}"
            f" ({dropped} nearly empty ones were left out): use a smaller --size."
        )
    return {k: np.array(v) for k, v in out.items()}, dropped


def said(notes):
    "What was changed in how many images, for people."
    return "".join(f"; {n} images {what}" for what, n in sorted(notes.items()))


def main(argv=None):
    ap = argparse.ArgumentParser(
        prog="python -m data_prep.pairs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("folder")
    ap.add_argument("out")
    ap.add_argument("--size", type=int, default=256, help="side of a crop in pixels (default 256)")
    ap.add_argument("--hold", nargs="*", default=[], help="sub-folders whose crops are held out")
    ap.add_argument("--overwrite", action="store_true", help="replace a file OUT that exists")
    a = ap.parse_args(argv)
    between(a, 1, 4096, "size")
    out = Path(a.out)
    if out.suffix != ".npz":
        raise PrepError(f"{out}: the dataset is one .npz file, so a name that ends in .npz is needed.")
    if out.is_dir() or out.exists() and not a.overwrite:
        raise PrepError(f"{out} exists: choose another name{'' if out.is_dir() else ', or add --overwrite'}.")
    can_write(out)
    notes = Counter()
    arrays, dropped = cut(a.folder, a.size, a.hold, notes=notes)
    save_npz(out, **arrays)
    print(
        f"{out}: {len(arrays['sat'])} crops of {a.size} pixels, {int(arrays['held'].sum())} of them held out; {dropped}"
        f" nearly empty ones left out{said(notes)}"
    )


if __name__ == "__main__":
    command(main)
