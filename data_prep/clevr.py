"""CLEVR scenes with the positions of their objects: the file that `nbs/20_clevr.ipynb` takes with `data=<path>`.

    python -m data_prep.clevr --out clevr.npz                    the paper's 30,000 images, one position each
    python -m data_prep.clevr --out clevr.npz --file clevr_pos_data_128_30000.npz     the same, downloaded by hand
    python -m data_prep.clevr --out all.npz --source v1 --limit 200      a first try: 200 images, not the 18 GB archive
    python -m data_prep.clevr --out all.npz --source v1          CLEVR v1.0: 70,000 images, every position
    python -m data_prep.clevr --out all.npz --source v1 --file CLEVR_v1.0.zip         ... downloaded by hand
    python -m data_prep.clevr --out all.npz --source folder --file DIR   ... or unpacked, or rendered by yourself

Sources
  pos     (default) `clevr_pos_data_128_30000.npz` of Liu et al., from the link in their repository: one object's centre
          an image. No checksum is published, so everything that can be verified is: arrays, ranges, the archive's own
          checksums, and that the labelled places differ from the background (and do so with y upwards).
  v1      CLEVR v1.0 of Johnson et al. (CC BY 4.0, 18 GB, md5 known), --split train (default) or val. The square middle
          of the 480 x 320 frame is kept and averaged to --size; all centres inside are labels. With --limit only the
          needed parts of the archive are read from the server, when it can.
  folder  --file DIR in CLEVR's layout: images/SPLIT/ with scenes/CLEVR_SPLIT_scenes.json, or images/ with scenes.json.

Images are turned as their EXIF says, transparent pixels laid on white, 16 bits a channel scaled to 8.

OUT holds `ims` (uint8, n x S x S x 3) and `coords_labels` (float32): n x 2 when one centre an image is known, else
n x K x 2 with NaN after the last centre. x to the right, y UPWARDS, both in [0, 1]: row = round((1-y)*S),
column = round(x*S). OUT.json is the manifest, OUT.png shows some of it.
"""

import hashlib
import io
import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np

from .fetch import (
    Member,
    PrepError,
    Remote,
    bar,
    begin,
    between,
    can_write_npz,
    check_common,
    command,
    content,
    damaged,
    digest,
    fetcher,
    finish,
    gib,
    inside,
    is_image,
    magic,
    need,
    open_zip,
    parser,
    rebase,
    save_npz,
    named,
    whole,
    zip_bytes,
)
from .images import is_junk
from .pairs import said
from .preview import preview as picture_of

MODULES = ["httpx", "tenacity", "filelock", "PIL"]
MOST, MANY = 2048, 1000  # pixels along a side, objects in an image
POS = "https://www.dropbox.com/s/5zj9ci24ofo949l/clevr_pos_data_128_30000.npz?dl=1"
V1, V1_MD5 = "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip", "b11922020e72d0cd9154779b2d3d07d2"
TERMS = dict(
    pos=(
        'Images and positions: Liu, Li, Du, Torralba, Tenenbaum, "Compositional Visual Generation with Composable'
        ' Diffusion Models" (2022), from their repository; no licence is stated for the file. Rendered with the CLEVR'
        " generator of Johnson et al. (2017)."
    ),
    v1=(
        "CLEVR v1.0: Johnson, Hariharan, van der Maaten, Fei-Fei, Zitnick, Girshick (2017), CC BY 4.0; cut to the"
        " square middle and averaged by dde_kit."
    ),
    folder="as the folder that the images come from",
)


def near(ims, coords, size=None):
    "Distance in colour of each labelled pixel from the mean of all images there: (n,), NaN without a label."
    S = ims.shape[1]
    mean = ims.mean(0, dtype=np.float32)
    row, col = (np.clip(np.nan_to_num(np.round(v * S)), 0, S - 1).astype(int) for v in (1 - coords[:, 1], coords[:, 0]))
    d = np.abs(ims[np.arange(len(ims)), row, col] - mean[row, col]).mean(-1)
    return np.where(np.isnan(coords).any(-1), np.nan, d)


def upwards(ims, coords):
    "How much the labelled places stand out, with y upwards and with y downwards."
    c = coords.reshape(len(coords), -1, 2)[:, 0]
    return float(np.nanmean(near(ims, c))), float(np.nanmean(near(ims, np.stack([c[:, 0], 1 - c[:, 1]], -1))))


# --- the published .npz ---------------------------------------------------------------------------------------------


def from_npz(path, out, limit=None, size=None):
    "Verifies and converts; gives the facts for the manifest."

    with open(path, "rb") as f:
        start = f.read(16)
    if not start.startswith(b"PK"):
        raise PrepError(
            f"{path} is no .npz file ({start!r} ...): with ?dl=0 Dropbox sends a web page; use the link with ?dl=1, or"
            " let this script download it."
        )
    with open_zip(path) as z:
        ims, labels = Member(z, "ims", path), Member(z, "coords_labels", path)
        good = (
            len(ims.shape) == 4
            and ims.shape[1] == ims.shape[2]
            and ims.shape[3] == 3
            and ims.dtype == np.uint8
            and len(labels.shape) in (2, 3)
            and labels.shape[-1] == 2
            and labels.dtype.kind == "f"
            and labels.shape[0] == ims.shape[0] > 0
            and 0 < ims.shape[1] <= MOST
            and 0 < math.prod(labels.shape[1:]) <= 2 * MANY
        )
        if not good:
            raise PrepError(
                f"{path} has `ims` {ims.dtype} {ims.shape} and `coords_labels` {labels.dtype} {labels.shape}; uint8 (n,"
                " S, S, 3) and float (n, 2) or (n, k, 2) are needed: this is not the published file."
            )
        n = min(limit or ims.shape[0], ims.shape[0])
        S = size or ims.shape[1]
        if ims.shape[1] % S:
            sizes = ", ".join(str(ims.shape[1] // k) for k in (1, 2, 4) if ims.shape[1] % k == 0)
            raise PrepError(f"--size {S}: the images have {ims.shape[1]} pixels, which only divides into {sizes}.")
        if labels.shape[0] * labels.row > 1 << 30:
            raise PrepError(f"{path}: the positions take {gib(labels.shape[0] * labels.row)}: not the published file.")
        coords = np.concatenate([*labels.pieces(n)]).astype(np.float32)
        labels.end()
        known = coords[~np.isnan(coords)]
        if not len(known) or np.isinf(known).any() or known.min() < 0 or known.max() > 1:
            raise PrepError(
                f"{path}: positions run from {np.nanmin(coords) if len(known) else 'nothing'} to"
                f" {np.nanmax(coords) if len(known) else 'nothing'}; [0, 1] is needed: this is not the published file."
            )
        first = []

        def pieces():
            k = ims.shape[1] // S
            for p in bar(ims.pieces(n), total=-(-n // 256), desc="images", unit="256"):
                if len(first) < 8:
                    first.append(p)
                yield (
                    p
                    if k == 1
                    else np.rint(p.reshape(len(p), S, k, S, k, 3).mean((2, 4), dtype=np.float32)).astype(np.uint8)
                )
            if n == ims.shape[0]:
                ims.end()

        save_npz(out, ims=(np.uint8, (n, S, S, 3), pieces()), coords_labels=coords)
    sample = np.concatenate(first)
    up, down = upwards(sample, coords[: len(sample)])
    if len(sample) >= 32 and down > 1.5 * up:
        os.remove(out)
        raise PrepError(
            f"{path}: the labelled places stand out more with y downwards ({down:.1f} against {up:.1f} of 255): the"
            " file follows another convention than the published one, nothing was written."
        )
    return n, dict(
        shape=[n, S, S, 3], labels=list(coords.shape), contrast_at_labels=dict(y_up=round(up, 2), y_down=round(down, 2))
    )


# --- CLEVR v1.0 -----------------------------------------------------------------------------------------------------


def centres(scene, width, height):
    "Centres of all objects inside the square middle of the frame: (k, 2), y upwards."
    out = []
    for o in scene["objects"]:
        try:
            col, row = (float(v) for v in o["pixel_coords"][:2])
            if not (math.isfinite(col) and math.isfinite(row)):
                raise ValueError(f"{col}, {row}")
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise PrepError(
                f"{scene['image_filename']} has an object without a place ({type(e).__name__}: {str(e)[:100]}):"
                ' "pixel_coords": [column, row] is needed.'
            ) from None
        x, y = (col - (width - height) / 2) / height, 1 - row / height
        if 0 <= x <= 1 and 0 <= y <= 1:
            out.append((x, y))
    return np.array(out, np.float32).reshape(-1, 2)


def middle(im, size):
    "The square middle of a picture, averaged to `size`."
    from PIL import Image

    w, h = im.size
    if w < h:
        raise PrepError(f"a picture of {w} x {h} pixels is higher than wide: CLEVR frames are 480 x 320.")
    if size > h:
        raise PrepError(f"--size {size}: the frames are {w} x {h} pixels, so at most {h} are known.")
    x = (w - h) / 2
    return np.asarray(im.convert("RGB").resize((size, size), Image.Resampling.BOX, box=(x, 0, x + h, h)))


def scenes_of(body, where):  # bytes of a .json file
    try:
        out = json.loads(body)["scenes"]
        for s in out:
            if not (isinstance(s["image_filename"], str) and isinstance(s["objects"], list)):
                raise TypeError("a scene needs the name of an image and a list of objects")
            if len(s["objects"]) > MANY:
                raise TypeError(f"{len(s['objects'])} objects in one image")
        if len({s["image_filename"] for s in out}) < len(out):
            raise ValueError("an image is listed twice")
        return sorted(out, key=lambda s: s["image_filename"])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise PrepError(
            f'{where} is no scenes file ({type(e).__name__}: {str(e)[:200]}): {{"scenes": [{{"image_filename",'
            ' "objects"}]} is needed.'
        ) from None


def from_scenes(scenes, image, out, size, limit=None):  # image(scene) -> PIL image
    "All images with their centres; those without a centre in the square are left out and counted."
    if limit:
        scenes = scenes[:limit]
    if not scenes:
        raise PrepError("The scenes file lists no image.")
    w, h = image(scenes[0]).size
    labels = [centres(s, w, h) for s in scenes]
    keep = [i for i, c in enumerate(labels) if len(c)]
    if not keep:
        raise PrepError(
            f"No object lies in the square middle of the {w} x {h} frames: do scenes and images belong together?"
        )
    if len(keep) * max(len(labels[i]) for i in keep) > 1 << 27:
        raise PrepError("The positions of all images would take more than a gigabyte: take fewer with --limit.")
    coords = np.full((len(keep), max(len(labels[i]) for i in keep), 2), np.nan, np.float32)
    for k, i in enumerate(keep):
        coords[k, : len(labels[i])] = labels[i]
    first = []

    def pieces():
        for i in bar(keep, unit="image", desc="images"):
            im = image(scenes[i])
            if im.size != (w, h):
                raise PrepError(
                    f"{scenes[i]['image_filename']} is {im.size[0]} x {im.size[1]} pixels, the first image {w} x {h}: a"
                    " dataset has one frame."
                )
            a = middle(im, size)
            if len(first) < 512:
                first.append(a)
            yield a[None]

    save_npz(out, ims=(np.uint8, (len(keep), size, size, 3), pieces()), coords_labels=coords)
    up, down = upwards(np.stack(first), coords[: len(first)])
    return len(keep), dict(
        shape=[len(keep), size, size, 3],
        labels=list(coords.shape),
        objects=int((~np.isnan(coords[..., 0])).sum()),
        objects_outside_the_square=sum(len(s["objects"]) for s in scenes) - sum(map(len, labels)),
        images_without_object=len(scenes) - len(keep),
        contrast_at_labels=dict(y_up=round(up, 2), y_down=round(down, 2)),
    )


def picture(body, where, a):
    a.sums[str(where)] = hashlib.sha256(body).hexdigest()
    try:
        im = is_image(body)
    except ValueError as e:
        raise PrepError(f"{where}: {e}. The archive or folder is damaged.") from None
    if where not in a.noted:
        a.noted.add(where)
        a.notes.update(im.info["notes"])
    return im


def from_zip(z, a):
    end = f"scenes/CLEVR_{a.split}_scenes.json"
    names = {n.replace("\\", "/"): n for n in z.namelist() if not is_junk(n)}  # Windows writes a\\b
    root = next((n.removesuffix(end) for n in names if n == end or n.endswith(f"/{end}")), None)
    if root is None:
        raise PrepError(
            f"{z.filename or V1} has no scenes/CLEVR_{a.split}_scenes.json: this is not CLEVR v1.0 (its test part has"
            " no positions)."
        )
    kept = Path(a.cache) / "clevr_v1"  # what was read from afar

    def member(name, most):
        name = inside(name)
        if not a.remote:
            return zip_bytes(z, names.get(name, name), most)
        path = kept / named(name)
        if not (path.exists() and a.resume):
            with whole(path) as f:
                f.write(zip_bytes(z, names.get(name, name), most))
        return path.read_bytes()

    scenes = scenes_of(member(f"{root}{end}", 1 << 30), "the scenes file of the archive")

    def image(s):
        n = f"{root}images/{a.split}/{s['image_filename']}"
        return picture(member(n, 64 << 20), n, a)

    return from_scenes(scenes, image, a.out, a.size or 128, a.limit)


def from_folder(a):
    d = Path(a.file or "")
    where = [(d / "scenes" / f"CLEVR_{a.split}_scenes.json", d / "images" / a.split), (d / "scenes.json", d / "images")]
    found = next((w for w in where if w[0].is_file()), None)
    if not a.file or not found:
        raise PrepError(
            f"--source folder needs --file DIR with scenes/CLEVR_{a.split}_scenes.json and images/{a.split}/, or with"
            f" scenes.json and images/; {d} has neither."
        )

    def image(s):
        p = found[1] / named(inside(s["image_filename"]))
        if not p.is_file():
            raise PrepError(
                f"{p} is listed in {found[0].name} and does not exist: unpack the whole archive, or use the zip with"
                " --source v1 --file."
            )
        return picture(read(p, 64 << 20), s["image_filename"], a)

    return from_scenes(scenes_of(read(found[0], 1 << 30), found[0]), image, a.out, a.size or 128, a.limit)


def read(path, most):
    if path.stat().st_size > most:
        raise PrepError(f"{path} is {gib(path.stat().st_size)}, {gib(most)} is the most that is expected.")
    return path.read_bytes()


def main(argv=None):
    ap = parser("clevr", __doc__, MODULES, "the .npz to write; its manifest gets the same name with .json")
    ap.add_argument("--source", default="pos", choices=["pos", "v1", "folder"])
    ap.add_argument("--file", help="the archive (pos, v1) downloaded by hand, or the folder; nothing is fetched then")
    ap.add_argument(
        "--split",
        default="train",
        choices=["train", "val"],
        help="of CLEVR v1.0 (default train: 70,000 images; val: 15,000)",
    )
    ap.add_argument("--size", type=int, help="side of an image in pixels (default 128)")
    a = ap.parse_args(argv)
    check_common(a)
    between(a, 1, MOST, "size")
    need("PIL")
    can_write_npz(a.out)
    if a.source == "folder" and not a.file:
        raise PrepError("--source folder needs --file DIR: a folder with images and scenes.")
    if a.file and not Path(a.file).exists():
        raise PrepError(f"--file {a.file} does not exist.")
    if a.file and Path(a.file).is_dir() != (a.source == "folder"):
        raise PrepError(
            f"--file {a.file} is a {'folder' if Path(a.file).is_dir() else 'file'}: --source pos and v1 take the"
            " archive, --source folder a folder."
        )
    url = rebase(dict(pos=POS, v1=V1).get(a.source, ""), a.base) if a.source != "folder" else ""
    manifest, a.remote = Path(a.out).with_suffix(".json"), False
    mark = None
    if a.file and Path(a.file).is_file():
        mark = digest(a.file, "sha256", title="checksum")[0]
    if a.file and Path(a.file).is_dir():
        mark = content(a.file)
    params = dict(
        source=a.source,
        file=a.file and Path(a.file).name,
        mark=mark,
        limit=a.limit,
        size=a.size or 128,
        **(dict(split=a.split) if a.source != "pos" else {}),
    )
    if begin(a, manifest, params):
        return
    sources, a.sums = {Path(a.file).name: mark} if mark and a.source != "folder" else {}, {}
    a.notes, a.noted = Counter(), set()
    if a.source == "folder":
        n, facts = from_folder(a)
    elif a.source == "pos":
        path = a.file
        if not path:
            with fetcher(a) as f:
                path = f.download(url, "clevr_pos_data_128_30000.npz", magic(b"PK\x03\x04"), most=8 << 30)
            sources = {path.name: f.sha256(path)}
        try:
            n, facts = from_npz(path, a.out, a.limit, a.size)
        except PrepError as e:
            if a.file or "damaged" not in str(e):
                raise
            path.unlink()
            raise PrepError(f"{e} (The damaged download was removed.)") from None
    elif a.file or not a.limit:
        path = Path(a.file) if a.file else None
        if path and digest(path, "md5") != [V1_MD5]:
            print(f"{path} is not the published CLEVR_v1.0.zip (md5 differs); read all the same.")
        if not path:
            with fetcher(a) as f:
                path = f.download(url, "CLEVR_v1.0.zip", magic(b"PK\x03\x04"), md5=V1_MD5, most=64 << 30)
            sources = {path.name: f.sha256(path)}
        with damaged(path), open_zip(path) as z:
            n, facts = from_zip(z, a)
    else:
        with fetcher(a) as f:
            path = f.cache / "CLEVR_v1.0.zip"
            a.remote = not path.exists()
            raw = (
                open(path, "rb")
                if not a.remote
                else io.BufferedReader(Remote(f, url, magic(b"PK\x03\x04"), step=1 << 18), 1 << 16)
            )
            with raw, damaged(url), open_zip(raw, url) as z:
                n, facts = from_zip(z, a)
    out = Path(a.out)
    picture_of(out)
    finish(
        manifest,
        dataset="clevr",
        parameters=params,
        url=url,
        licence_and_attribution=TERMS[a.source],
        images=n,
        **facts,
        files={out.name: digest(out, "sha256")[0]},
        sources=sources | a.sums,
    )
    print(
        f"{out}: {n} images, labels {tuple(facts['labels'])}; at the labelled places they differ by"
        f" {facts['contrast_at_labels']['y_up']} of 255 from the background ({facts['contrast_at_labels']['y_down']} if"
        f" y ran downwards){said(a.notes)}. Manifest: {manifest}, picture: {out.with_suffix('.png')}"
    )


if __name__ == "__main__":
    command(main)
