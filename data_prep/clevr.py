"""CLEVR scenes with the positions of their objects, as the file that `nbs/20_clevr.ipynb` takes with `data=<path>`.

    python -m data_prep.clevr --out clevr.npz                                the paper's 30,000 images, one position each
    python -m data_prep.clevr --out clevr.npz --file clevr_pos_data_128_30000.npz     the same, downloaded by hand
    python -m data_prep.clevr --out all.npz --source v1 --limit 200          a first try: 200 images without the 18 GB archive
    python -m data_prep.clevr --out all.npz --source v1                      CLEVR v1.0: 70,000 images, every position
    python -m data_prep.clevr --out all.npz --source v1 --file CLEVR_v1.0.zip         ... downloaded by hand
    python -m data_prep.clevr --out all.npz --source folder --file DIR       ... or unpacked, or rendered by yourself

Sources
  pos     (default) `clevr_pos_data_128_30000.npz` of Liu et al., from the link in their repository: one object's centre an image.
          No checksum is published, so everything that can be verified is: arrays, ranges, the archive's own checksums, and
          that the labelled places differ from the background (and do so with y upwards).
  v1      CLEVR v1.0 of Johnson et al. (CC BY 4.0, 18 GB, md5 known), --split train (default) or val. The square middle of
          the 480 x 320 frame is kept and averaged to --size; all centres inside are labels. With --limit only the needed parts
          of the archive are read from the server, when it can.
  folder  --file DIR in CLEVR's layout: images/SPLIT/ with scenes/CLEVR_SPLIT_scenes.json, or images/ with scenes.json.

OUT holds `ims` (uint8, n x S x S x 3) and `coords_labels` (float32): n x 2 when one centre an image is known, else n x K x 2
with NaN after the last centre. x to the right, y UPWARDS, both in [0, 1]: row = round((1-y)*S), column = round(x*S).
OUT.json is the manifest, OUT.png shows some of it.
"""

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from .fetch import (
    PrepError,
    Remote,
    bar,
    begin,
    command,
    content,
    damaged,
    digest,
    fetcher,
    finish,
    inside,
    is_image,
    magic,
    need,
    parser,
    positive,
    rebase,
    save_npz,
    whole,
    zip_bytes,
)
from .preview import preview as picture_of

MODULES = ["httpx", "tenacity", "filelock", "PIL"]
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


class Member:
    "An array inside an .npz, read forward in pieces; never unpickled."

    def __init__(self, z, name, path):
        try:
            self.f = z.open(f"{name}.npy")
        except KeyError:
            raise PrepError(
                f"{path} holds {sorted(n.removesuffix('.npy') for n in z.namelist())}, `ims` and `coords_labels` are"
                " needed: this is not the published file. Download it again."
            ) from None
        with damaged(path):
            try:
                version = np.lib.format.read_magic(self.f)
                self.shape, fortran, self.dtype = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )(self.f)
            except ValueError as e:
                raise PrepError(f"{path}: `{name}` is no plain array ({e}): download the file again.") from None
        if self.dtype.hasobject or fortran:
            raise PrepError(
                f"{path}: `{name}` holds"
                f" {'pickled Python objects, which could run anything when read' if self.dtype.hasobject else 'columns first'};"
                " plain numbers are needed: this is not the published file."
            )
        self.path = path

    def pieces(self, n, step=256):
        "The first `n` rows."
        one = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        for i in range(0, n, step):
            k = min(step, n - i)
            with damaged(self.path):
                b = self.f.read(k * one)
            if len(b) != k * one:
                raise PrepError(
                    f"{self.path} is damaged (it ends in row {i + len(b) // one} of {self.shape[0]}): remove it and run"
                    " again."
                )
            yield np.frombuffer(b, self.dtype).reshape(k, *self.shape[1:])

    def end(self):
        with damaged(self.path):
            while self.f.read(1 << 20):
                pass  # the checksum is compared at the end


def from_npz(path, out, limit=None, size=None):
    "Verifies and converts; gives the facts for the manifest."

    try:
        z = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise PrepError(
            f"{path} is no .npz file ({Path(path).read_bytes()[:16]!r} ...): with ?dl=0 Dropbox sends a web page; use"
            " the link with ?dl=1, or let this script download it."
        ) from None
    with z:
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
        )
        if not good:
            raise PrepError(
                f"{path} has `ims` {ims.dtype} {ims.shape} and `coords_labels` {labels.dtype} {labels.shape}; uint8 (n,"
                " S, S, 3) and float (n, 2) or (n, k, 2) are needed: this is not the published file."
            )
        n = min(limit or ims.shape[0], ims.shape[0])
        S = size or ims.shape[1]
        if ims.shape[1] % S:
            raise PrepError(
                f"--size {S}: the images have {ims.shape[1]} pixels, which only divides into"
                f" {', '.join(str(ims.shape[1] // k) for k in (1, 2, 4))}."
            )
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
        col, row = o["pixel_coords"][:2]
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
    x = (w - h) / 2
    return np.asarray(im.convert("RGB").resize((size, size), Image.Resampling.BOX, box=(x, 0, x + h, h)))


def scenes_of(text, where):
    try:
        out = sorted(json.loads(text)["scenes"], key=lambda s: s["image_filename"])
        [s["objects"] for s in out]
        return out
    except (ValueError, KeyError, TypeError) as e:
        raise PrepError(
            f'{where} is no scenes file ({type(e).__name__}: {e}): {{"scenes": [{{"image_filename", "objects"}}]}} is'
            " needed."
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
        return is_image(body)
    except ValueError as e:
        raise PrepError(f"{where}: {e}. The archive or folder is damaged.") from None


def from_zip(z, a):
    names = z.namelist()
    root = next((n[: n.index("scenes/")] for n in names if n.endswith(f"scenes/CLEVR_{a.split}_scenes.json")), None)
    if root is None:
        raise PrepError(
            f"{z.filename or V1} has no scenes/CLEVR_{a.split}_scenes.json: this is not CLEVR v1.0 (its test part has"
            " no positions)."
        )
    kept = Path(a.cache) / "clevr_v1"  # what was read from afar

    def member(name):
        if not a.remote:
            return zip_bytes(z, name)
        path = kept / inside(name)
        if not (path.exists() and a.resume):
            with whole(path) as f:
                f.write(zip_bytes(z, name))
        return path.read_bytes()

    scenes = scenes_of(member(f"{root}scenes/CLEVR_{a.split}_scenes.json"), "the scenes file of the archive")

    def image(s):
        n = f"{root}images/{a.split}/{s['image_filename']}"
        return picture(member(n), n, a)

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
        p = found[1] / inside(s["image_filename"])
        if not p.is_file():
            raise PrepError(
                f"{p} is listed in {found[0].name} and does not exist: unpack the whole archive, or use the zip with"
                " --source v1 --file."
            )
        return picture(p.read_bytes(), s["image_filename"], a)

    return from_scenes(scenes_of(found[0].read_text(encoding="utf-8"), found[0]), image, a.out, a.size or 128, a.limit)


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
    positive(a, "limit", "size")
    need("PIL")
    if Path(a.out).suffix != ".npz":
        raise PrepError(f"--out {a.out}: the dataset is one .npz file, so a name that ends in .npz is needed.")
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
    if a.source == "folder":
        n, facts = from_folder(a)
    elif a.source == "pos":
        path = a.file
        if not path:
            with fetcher(a) as f:
                path = f.download(url, "clevr_pos_data_128_30000.npz", magic(b"PK\x03\x04"))
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
                path = f.download(url, "CLEVR_v1.0.zip", magic(b"PK\x03\x04"), md5=V1_MD5)
            sources = {path.name: f.sha256(path)}
        with damaged(path), zipfile.ZipFile(path) as z:
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
            with raw, damaged(url), zipfile.ZipFile(raw) as z:
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
        f" y ran downwards). Manifest: {manifest}, picture: {out.with_suffix('.png')}"
    )


if __name__ == "__main__":
    command(main)
