"""Pairs of satellite image and street map, as the file that `nbs/30_maps.ipynb` takes with `data=<path>`.

    python -m data_prep.maps --out maps.npz --limit 40                a first try: 80 requests, two minutes
    python -m data_prep.maps --out maps.npz                           7,300 places, 14,600 requests, about five hours
    python -m data_prep.maps --out big.npz --size 256 --number 1500   larger canvases: blocks of 2 x 2 tiles
    python -m data_prep.maps --out ny.npz --source usgs --center 40.71 -74.0     another square on Earth
    python -m data_prep.maps --out dubai.npz --source dubai           72 open images with label maps, 34 MB
    python -m data_prep.maps --out mine.npz --source folder --folder DIR         image/label pairs of your own

Sources
  gsi      (default) Geospatial Information Authority of Japan: seamless photo and pale map (--style std: standard
           map), zoom 18, halved: 128 pixels are 124 m at 0.97 m per pixel, the paper's sample. Both maps carry labels
           and contour lines.
  plateau  PLATEAU-Ortho photo (CC BY 4.0; Tokyo's 23 wards and other cities) with the GSI map.
  usgs     USGS imagery with USGS topo (public domain; USA), zoom 16. Needs --center.
  tiles    tile servers of your choice: --photo-url, --map-url (with {z}, {x}, {y}), --terms.
  dubai    the Humans in the Loop set (CC0): downloads it, then as `folder`; tiles 2 and 4 are held out.
  folder   --folder with pairs as two files (.jpg and .png of one name) or side by side in one image (pix2pix;
           --photo-side). Which of the two is printed; a photo without its map, or a map without its photo, ends the
           run.
  google   Google Static Maps as the paper did it. Google's terms forbid it unless your own agreement allows it:
           prints the clause and the number of requests, and does nothing else without --my-agreement-allows-this.

Places are drawn without repeats from the square (--center, --side); the draw depends on --seed alone. Places without
a tile, blank photos or maps, and clouds are left out, counted, and replaced by the next place of the draw. Held-out
places lie in cells of about a kilometre of their own, so no held-out image shares ground with a training image.
Tiles are kept in the cache: stop and go on at will.

Images are turned as their EXIF says, transparent pixels laid on white, photos of 16 bits a channel scaled to 8 (label
maps of 16 bits are refused). What an operating system leaves in folders (`._a.jpg`, `.DS_Store`) is ignored.

OUT holds `map` and `sat` (uint8, n x 3 x H x W), `held` (bool, n), `source` (one name per place) and, for tiles,
`place` (float64, n x 2: latitude and longitude of the centre, degrees). OUT.json is the manifest, OUT.png shows some.
"""

import functools
import hashlib
import json
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from . import pairs
from .fetch import (
    Missing,
    PrepError,
    bar,
    begin,
    between,
    can_write_npz,
    check_common,
    command,
    content,
    digest,
    fetcher,
    finish,
    hidden,
    is_image,
    may_get_key,
    parser,
    positive,
    rebase,
    save_npz,
    secrets_of,
    shown,
    split_url,
)
from .preview import preview as picture_of

MODULES = ["httpx", "tenacity", "filelock", "PIL"]
PAPER = 35.707, 139.600  # latitude and longitude of the paper's square
GSI = "https://maps.gsi.go.jp/development/ichiran.html"


class Layer(NamedTuple):
    name: str
    url: str
    zooms: tuple
    terms: str


LAYERS = {
    l.name: l
    for l in [
        Layer(
            "gsi-photo",
            "https://cyberjapandata.gsi.go.jp/xyz/seamlessphoto/{z}/{x}/{y}.jpg",
            (2, 18),
            f"出典: 地理院タイル (国土地理院) / GSI tiles, seamless photo, {GSI}; cut, averaged and stored as arrays by"
            " dde_kit. GSI content terms: credit; do not load the server.",
        ),
        Layer(
            "gsi-pale",
            "https://cyberjapandata.gsi.go.jp/xyz/pale/{z}/{x}/{y}.png",
            (5, 18),
            f"出典: 地理院タイル (国土地理院) / GSI tiles, pale map, {GSI}; cut, averaged and stored as arrays by"
            " dde_kit. Survey result: use inside a team needs the credit, passing it on to the public can need an"
            " application.",
        ),
        Layer(
            "gsi-std",
            "https://cyberjapandata.gsi.go.jp/xyz/std/{z}/{x}/{y}.png",
            (5, 18),
            f"出典: 地理院タイル (国土地理院) / GSI tiles, standard map, {GSI}; cut, averaged and stored as arrays by"
            " dde_kit. Survey result: use inside a team needs the credit, passing it on to the public can need an"
            " application.",
        ),
        Layer(
            "plateau",
            "https://api.plateauview.mlit.go.jp/tiles/plateau-ortho-2023/{z}/{x}/{y}.png",
            (10, 19),
            "PLATEAU-Ortho 2023, Ministry of Land, Infrastructure, Transport and Tourism of Japan (Project PLATEAU), CC"
            " BY 4.0; cut, averaged and stored as arrays by dde_kit.",
        ),
        Layer(
            "usgs-imagery",
            "https://basemap.nationalmap.gov/arcgis/rest/services/USGSImageryOnly/MapServer/tile/{z}/{y}/{x}",
            (9, 20),
            "U.S. Geological Survey, The National Map (imagery), public domain.",
        ),
        Layer(
            "usgs-topo",
            "https://basemap.nationalmap.gov/arcgis/rest/services/USGSTopo/MapServer/tile/{z}/{y}/{x}",
            (2, 16),
            "U.S. Geological Survey, The National Map (topo), public domain.",
        ),
    ]
}
PAIRS = dict(
    gsi=("gsi-photo", "gsi-{style}", 18, 2),
    plateau=("plateau", "gsi-{style}", 18, 2),
    usgs=("usgs-imagery", "usgs-topo", 16, 1),
)  # photo, map, zoom, native pixels per pixel

DUBAI = (
    "https://raw.githubusercontent.com/nive927/Dubai-Satellite-Imagery-Multiclass-Segmentation/"
    "b36fd266e363806d5c530089018fbf46dfd1befe/Semantic%20segmentation%20dataset/Tile%20{k}/{kind}/{name}"
)
DUBAI_TERMS = (
    "Semantic segmentation of aerial imagery: Humans in the Loop with the Mohammed Bin Rashid Space Centre, CC0 1.0."
)

CLAUSE = """Google Maps Platform Terms of Service, section 3.2.3 (https://cloud.google.com/maps-platform/terms), in
short: content may not be exported or scraped for use outside the services, "bulk download" of map tiles being named as
an example (a); it may not be cached (b); and nothing may be created from it, among other things it may not be used
"to train, test, validate or fine-tune" models (c). A dataset for training is all three. Only an agreement of your own
with Google can allow it; read yours before going on."""
ROW = 300  # answers in a row that may only mean that there is no tile
TILE = ("{z}", "{x}", "{y}")
GOOGLE = "maps.googleapis.com"
EDGE = 85.0511287798066  # degrees of latitude where the projection ends


# --- geometry --------------------------------------------------------------------------------------------------------


def pixel(lat, lon, zoom):
    "Web-Mercator position in pixels (x right, y down) of 256-pixel tiles."
    n = 256 * 2**zoom
    return (lon + 180) / 360 * n, (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n


def degrees(x, y, zoom):
    "Latitude and longitude of a position in pixels; the longitude from -180 to 180, also beyond the antimeridian."
    n = 256 * 2**zoom
    lon = x / n * 360 - 180
    if not -180 <= lon <= 180:
        lon = (lon + 180) % 360 - 180
    return math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / n)))), lon


def metres(lat, zoom):
    return 156543.03392804097 * math.cos(math.radians(lat)) / 2**zoom  # of a pixel


def shuffled(n, seed):
    "The numbers below `n` in a random order, without storing them."
    g, moved = np.random.default_rng([seed, n]), {}
    for i in range(n):
        j = int(g.integers(i, n))
        yield moved.get(j, j)
        moved[j] = moved.pop(i, i)


def average(a, k):
    "Mean over k x k pixels."
    h, w, c = a.shape
    return (
        np.rint(a.reshape(h // k, k, w // k, k, c).sum((1, 3), dtype=np.uint32) / k**2).astype(np.uint8) if k > 1 else a
    )


def square(a):
    "Position of the centre and half a side, in pixels of the zoom."
    lat, lon = a.center
    if not abs(lat) < 85 or not abs(lon) <= 180:
        raise PrepError(
            f"--center {lat} {lon}: latitude between -85 and 85 and longitude between -180 and 180 are needed, in this"
            " order."
        )
    x, y = pixel(lat, lon, a.zoom)
    half, n = a.side * 1000 / metres(lat, a.zoom) / 2, 256 * 2**a.zoom
    if y - half < 0 or y + half > n or 2 * half > n:
        raise PrepError(
            f"--center {lat} {lon} --side {a.side}: the square reaches beyond the map, which ends at {EDGE:.2f} degrees"
            " north and south and goes around the Earth once: choose a smaller --side or another --center."
        )
    return x, y, half


# --- what a place is, per source -------------------------------------------------------------------------------------


class Drop(Exception):
    "A place that makes no pair, and why; `said` by the server, when it may be another fault."

    def __init__(self, why, said=""):
        super().__init__(why)
        self.said = said if "(answer" in why else ""


def address(url, x, y, z):
    "A tile's address; nothing but the three numbers is filled in."
    return url.replace("{z}", str(z)).replace("{x}", str(x)).replace("{y}", str(y))


def look(photo, street, a):
    "Drops what teaches nothing."
    if photo is not None:
        v = photo.astype(np.int16)
        low, high = v.min(2), v.max(2)
        if v[::2, ::2].std((0, 1), dtype=np.float32).max() < 3 or pairs.dominant(photo) > 0.5:
            raise Drop("blank photo")
        if ((low > 215) & (high - low < 20)).mean() > a.cloud:
            raise Drop("clouds")
    if street is not None and pairs.dominant(street) > a.blank:
        raise Drop("blank map")


def picture(side):
    "A check: a complete square picture -> RGB (side, side, 3), share of transparent pixels, checksum."

    def check(body, kind=""):
        im = is_image(body, kind)
        if im.size != (side, side):
            raise ValueError(f"a picture of {im.size[0]}x{im.size[1]} pixels instead of {side}x{side}")
        return np.asarray(im), im.info["clear"], hashlib.sha256(body).hexdigest()

    return check


class Tiles:
    "Blocks of k x k tiles of two layers; blocks never overlap."

    def __init__(self, a):
        self.a, self.layers = a, (a.photo, a.street)
        for l in self.layers:
            if not l.zooms[0] <= a.zoom <= l.zooms[1]:
                raise PrepError(
                    f"{l.name} has tiles from zoom {l.zooms[0]} to {l.zooms[1]}, not {a.zoom}: choose another --zoom or"
                    " --source."
                )
        if a.size * a.reduce % 256:
            raise PrepError(
                f"--size {a.size} times --reduce {a.reduce} is {a.size * a.reduce} tile pixels: whole tiles of 256 are"
                f" needed, for example --size {max(256 // a.reduce, round(a.size * a.reduce / 256) * 256 // a.reduce)}."
            )
        self.k = a.size * a.reduce // 256
        x, y, half = square(a)
        b = 256 * self.k
        self.x0, self.y0 = (math.ceil((c - half) / b - 0.5) for c in (x, y))  # blocks whose centre lies in the square
        self.nx, self.ny = (math.floor((c + half) / b - 0.5) - o + 1 for c, o in ((x, self.x0), (y, self.y0)))
        if self.nx < 1 or self.ny < 1:
            raise PrepError(
                f"--side {a.side} km is smaller than one image ({b * metres(a.center[0], a.zoom):.0f} m): choose a"
                " larger square."
            )
        self.wide = max(1, round(1000 / (b * metres(a.center[0], a.zoom))))  # blocks along a cell of about a kilometre
        self.requests, self.total = 2 * self.k**2, self.nx * self.ny  # per place; places
        self.around = 2**a.zoom  # tiles around the Earth: x beyond the antimeridian goes on from the other side
        if self.nx * self.k > self.around or self.y0 < 0 or (self.y0 + self.ny) * self.k > self.around:
            raise PrepError(
                f"--side {a.side} at zoom {a.zoom}: the square does not fit on the map, choose a smaller one."
            )

    def places(self):
        for i in shuffled(self.total, self.a.seed):
            yield self.x0 + i % self.nx, self.y0 + i // self.nx

    def cell(self, p):
        return p[0] // self.wide, p[1] // self.wide

    def centre(self, p):
        b = 256 * self.k
        return degrees((p[0] + 0.5) * b, (p[1] + 0.5) * b, self.a.zoom)

    def name(self, p):
        x = p[0] * self.k % self.around
        return f"{self.a.source}/{self.a.zoom}/{x}/{p[1] * self.k}" + (f"+{self.k}" if self.k > 1 else "")

    def read(self, f, p, judge=True):
        "Photo and map (size, size, 3), and the checksums of their tiles."
        z, k, out, sums = self.a.zoom, self.k, [], {}
        for l in self.layers:
            whole = np.empty((256 * k, 256 * k, 3), np.uint8)
            for j in range(k):
                for i in range(k):
                    x, y = (p[0] * k + i) % self.around, p[1] * k + j
                    path = f"tiles/{l.name}/{z}/{x}/{y}"
                    url = address(rebase(l.url, self.a.base), x, y, z)
                    try:
                        rgb, clear, sums[path] = f.get(url, path, picture(256), tile=True)
                    except Missing as e:
                        how = "" if e.status in (404, 410) else f" (answer {e.status})"
                        raise Drop(f"no tile of {l.name}{how}", f"{e}") from None
                    if clear > 0.01:
                        raise Drop(f"transparent tile of {l.name}")
                    whole[j * 256 : (j + 1) * 256, i * 256 : (i + 1) * 256] = rgb
            if judge:
                look(*((whole, None) if l is self.layers[0] else (None, whole)), self.a)
            out.append(average(whole, self.a.reduce))
        return *out, sums


class Google:
    "Static Maps at zoom 19, 600 x 600, the top left 512 averaged to 128."

    requests = 2

    def __init__(self, a):
        self.a = a
        self.x, self.y, self.half = square(a)
        self.side = 512 * max(1, round(1000 / (512 * metres(a.center[0], a.zoom))))  # of a cell, in pixels
        self.total = int((2 * self.half) ** 2 / 512**2)  # about as many places as fit side by side
        self.around = 256 * 2**a.zoom
        self.base = rebase(f"https://{GOOGLE}", a.base)
        may_get_key(self.base, GOOGLE, a.send_my_key_to_base)

    def places(self):
        "Corners of 512-pixel crops inside one cell each: those of two cells never overlap."
        g = np.random.default_rng([self.a.seed, 19])
        for _ in range(4 * self.total):
            p = tuple(int(c + g.uniform(-self.half, self.half)) - 300 for c in (self.x, self.y))
            if all(v // self.side == (v + 511) // self.side for v in p):
                yield p

    def cell(self, p):
        return p[0] // self.side, p[1] // self.side

    def centre(self, p):
        return degrees(p[0] + 256, p[1] + 256, self.a.zoom)

    def name(self, p):
        return f"google/19/{p[0] % self.around},{p[1]}"

    def read(self, f, p, judge=True):
        out, sums = [], {}
        lat, lon = degrees(p[0] + 300, p[1] + 300, self.a.zoom)
        for kind in ("satellite", "roadmap"):
            url = f"{self.base}/maps/api/staticmap?center={lat:.7f},{lon:.7f}&zoom=19&size=600x600&maptype={kind}"
            if kind == "roadmap":
                url += "&style=feature:all|element:labels|visibility:off"
            path = f"google/{p[0] % self.around}_{p[1]}_{kind}"
            rgb, _, sums[path] = f.get(f"{url}&key={quote(self.a.key)}", path, picture(600))
            rgb = rgb[:512, :512]
            if judge:
                look(*((rgb, None) if kind == "satellite" else (None, rgb)), self.a)
            out.append(average(rgb, 4))
        return *out, sums


def hold_out(groups, share, seed):
    "Which of n items are held out: whole groups, in a random order that depends on their names alone, up to the share."
    order = sorted(set(groups), key=lambda g: hashlib.sha256(f"{seed} {g}".encode("utf-8", "surrogateescape")).digest())
    if len(order) < 2:
        raise PrepError(
            "All pairs are from one place, so none can be held out without sharing its ground: take more (--number,"
            " --limit) or a larger square."
        )
    held, count = set(), Counter(groups)
    for g in order[:-1]:
        if sum(count[h] for h in held) >= share * len(groups) and held:
            break
        held.add(g)
    return np.array([g in held for g in groups])


def from_places(a, source, **kw):
    "Fetches places until there are enough, then writes them."
    n = a.limit or a.number
    if n > source.total:
        raise PrepError(
            f"{n} places were asked for and the square of {a.side} km has {source.total}: choose a larger --side or a"
            " smaller --number."
        )
    with fetcher(a, **kw) as f:
        good, drops, sums, row = [], Counter(), {}, 0
        with bar(total=n, unit="place", desc=a.source) as b:
            for p in source.places():
                try:
                    _, _, s = source.read(f, p)
                except Drop as e:
                    drops[str(e)] += 1
                    b.set_postfix(left_out=sum(drops.values()))
                    row = row + 1 if e.said else 0  # refusals without an end: another fault than a missing tile
                    if not good and sum(drops.values()) == 60 or row == ROW:
                        which = "first 60" if row < ROW else f"last {ROW}"
                        raise PrepError(
                            f"The {which} places of the draw give nothing"
                            f" ({', '.join(f'{v} {k}' for k, v in drops.items())}): is this square covered by"
                            f" {a.source} at zoom {a.zoom}? Look at one tile in a browser, then choose another"
                            f" --center, --zoom or --source.{f' The last answer: {e.said}' if e.said else ''}"
                        ) from None
                    continue
                row = 0
                good.append(p)
                sums |= s
                b.update()
                if len(good) == n:
                    break
        if len(good) < n:
            raise PrepError(
                f"Only {len(good)} of {n} places in this square are usable"
                f" ({', '.join(f'{v} {k}' for k, v in drops.items())}): choose --number {len(good)} or a larger --side."
                " The tiles are kept."
            )
        cells = [source.cell(p) for p in good]
        held = hold_out(cells if len(set(cells)) > 1 else good, a.held, a.seed)
        shape = (n, 3, a.size, a.size)
        pieces = lambda k: (
            source.read(f, p, False)[k].transpose(2, 0, 1)
            for p in bar(good, unit="place", desc=("writing sat", "writing map")[k])
        )
        save_npz(
            a.out,
            map=(np.uint8, shape, pieces(1)),
            sat=(np.uint8, shape, pieces(0)),
            held=held,
            place=np.array([source.centre(p) for p in good]),
            source=np.array([source.name(p) for p in good]),
        )
        return n, int(held.sum()), dict(drops), sums, f.requests


def from_folder(a, folder, images, hold=()):
    "Crops of image/label pairs."
    folder, notes = Path(folder), Counter()
    read = pairs.two_files if a.layout == "two" else functools.partial(pairs.side_by_side, photo=a.photo_side)
    with bar(total=len(images), unit="image", desc="cutting") as b:
        arrays, dropped = pairs.cut(folder, a.size, hold, a.blank, lambda p: (b.update(), read(p))[1], images, notes)
    if not any(arrays["held"]):
        arrays["held"] = hold_out([s.rpartition("@")[0] for s in arrays["source"].tolist()], a.held, a.seed)
    if all(arrays["held"]):
        raise PrepError("Every crop would be held out, so nothing is left to train on: name fewer folders with --hold.")
    save_npz(a.out, **arrays)
    sums = {
        shown(q.relative_to(folder).as_posix()): digest(q, "sha256")[0]
        for p in images
        for q in ([p, pairs.map_of(p)] if a.layout == "two" else [p])
    }
    if notes:
        print(f"In {folder}{pairs.said(notes)}.")
    return len(arrays["sat"]), int(arrays["held"].sum()), {"nearly empty map": dropped}, sums, 0


def known_dubai(a):
    "What is known of the 144 files, and the names of the photos that are taken."
    known = json.loads(Path(__file__).with_name("dubai.json").read_text(encoding="utf-8"))
    names = sorted(k for k in known if k.endswith(".jpg"))
    if a.limit:
        names = sorted(names, key=lambda s: (s[-7:], s))[: a.limit]  # the first image of every tile, then the second
    hold = a.hold or [t for t in ("tile_2", "tile_4") if any(n.startswith(t) for n in names)]
    pairs.check_hold(a.hold, [Path(n) for n in names])
    return known, names, hold


def dubai(a):
    "The 144 files, each verified against the commit it comes from."
    known, names, hold = known_dubai(a)
    with fetcher(a) as f:
        for s in bar([n[:-4] + e for n in names for e in (".jpg", ".png")], unit="file", desc="dubai"):
            tile, name = s.split("/")
            size, git = known[s]
            url = rebase(DUBAI.format(k=tile[5:], kind="images" if s.endswith(".jpg") else "masks", name=name), a.base)

            def check(body, kind="", size=size, git=git):
                is_image(body, kind)
                if hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest() != git:
                    raise ValueError(
                        f"another file than the published one ({len(body)} bytes instead of {size}, or the same number"
                        " with other content)"
                    )

            f.get(url, f"dubai/{s}", check)
        folder = f.cache / "dubai"
        *rest, _ = from_folder(a, folder, [folder / n for n in names], hold)
        return *rest, f.requests


def main(argv=None):
    ap = parser("maps", __doc__, MODULES, "the .npz to write; its manifest gets the same name with .json")
    ap.add_argument("--source", default="gsi", choices=[*PAIRS, "tiles", "dubai", "folder", "google"])
    ap.add_argument("--number", type=int, default=7300, help="places (default 7300, as the paper)")
    ap.add_argument(
        "--size", type=int, default=128, help="side of an image in pixels (default 128; 256, 512: blocks of tiles)"
    )
    ap.add_argument(
        "--center",
        type=float,
        nargs=2,
        metavar=("LAT", "LON"),
        help=f"centre of the square in degrees (default {PAPER[0]} {PAPER[1]:.3f}, the paper's)",
    )
    ap.add_argument("--side", type=float, default=20.0, metavar="KM", help="of the square (default 20)")
    ap.add_argument("--zoom", type=int, help="of the tiles (default 18; usgs 16)")
    ap.add_argument("--reduce", type=int, help="tile pixels along a pixel of the result, averaged (default 2; usgs 1)")
    ap.add_argument("--style", default="pale", choices=["pale", "std"], help="GSI map (default pale)")
    ap.add_argument("--photo-url")
    ap.add_argument("--map-url")
    ap.add_argument("--terms", help="licence and credit of these servers, for the manifest")
    ap.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    ap.add_argument("--held", type=float, default=0.1, help="share held out (default 0.1)")
    ap.add_argument(
        "--blank", type=float, default=0.98, help="leave out maps with a larger share in one colour (default 0.98)"
    )
    ap.add_argument(
        "--cloud", type=float, default=0.3, help="leave out photos with a larger share of bright grey (default 0.3)"
    )
    ap.add_argument("--folder")
    ap.add_argument(
        "--layout",
        default="auto",
        choices=["auto", "side", "two"],
        help="of the pairs in --folder: two files, or side by side in one image (default: found out, and printed)",
    )
    ap.add_argument(
        "--photo-side",
        default="left",
        choices=["left", "right"],
        help="where the photo is in a side-by-side image (default left)",
    )
    ap.add_argument("--hold", nargs="*", default=[], help="sub-folders to hold out instead of a share of the images")
    ap.add_argument(
        "--max-requests",
        type=int,
        help="google: stop after so many requests (default: what the places need, and a tenth more)",
    )
    ap.add_argument(
        "--my-agreement-allows-this",
        action="store_true",
        help="google: you state that your agreement with Google allows bulk download, storage and training",
    )
    ap.add_argument(
        "--send-my-key-to-base",
        action="store_true",
        help="google: the server of --base (https) may know your key; without this only Google gets it",
    )
    a = ap.parse_args(argv)
    a.key = os.environ.get("GOOGLE_MAPS_API_KEY", "")
    check_common(a)
    positive(a, "number", "side", "reduce", "max_requests")
    between(a, 1, 4096, "size")
    between(a, 1, 64, "reduce")
    between(a, 0, 23, "zoom")
    between(a, 0, 2**63, "seed")
    between(a, 0, 1, "blank", "cloud", why=", a share")
    if a.blank == 0:
        raise PrepError("--blank 0 leaves out every map: a share above 0 is needed.")
    if not 0 < a.held < 1:
        raise PrepError(f"--held {a.held}: a share between 0 and 1 is needed.")
    can_write_npz(a.out)
    if a.source not in ("dubai", "folder") and a.hold:
        raise PrepError(f"--hold names folders of --source folder or dubai; {a.source} has none (--held is a share).")
    manifest = Path(a.out).with_suffix(".json")
    common = dict(source=a.source, size=a.size, limit=a.limit, seed=a.seed, held=a.held, blank=a.blank)
    if a.source in ("dubai", "folder"):
        if a.source == "folder" and not (a.folder and Path(a.folder).is_dir()):
            raise PrepError(f"--source folder needs --folder DIR{f'; {a.folder} is no folder' if a.folder else ''}.")
        if a.source == "dubai":
            a.layout, a.folder = "two", None
            known_dubai(a)
        found = a.layout
        if a.folder:
            found, images = pairs.find(a.folder, a.layout)
            images = images[: a.limit]
            pairs.check_hold(a.hold, images)
            if not a.hold and len(images) < 2:
                raise PrepError(f"{a.folder} holds one image: two are needed, so that one of them can be held out.")
            kind = "two files, .jpg photo and .png map of one name"
            if found == "side":
                kind = f"side by side in one image, the photo {a.photo_side}"
            print(f"{a.folder}: {len(images)} pairs, {kind} (another --layout or --photo-side changes that).")
        params = dict(common, hold=a.hold)
        if a.folder:
            name, mark = shown(Path(a.folder).name), content(a.folder)
            params |= dict(folder=name, layout=a.layout, photo_side=a.photo_side, content=mark)
        a.layout = found
        terms = [DUBAI_TERMS] if a.source == "dubai" else [a.terms or "as the folder that the images come from"]
        urls = [DUBAI] if a.source == "dubai" else []
        if begin(a, manifest, params):
            return
        n, held, drops, sums, asked = dubai(a) if a.source == "dubai" else from_folder(a, a.folder, images, a.hold)
    else:
        if a.center is None and a.source in ("usgs", "tiles"):
            raise PrepError(f"--source {a.source} needs --center LAT LON (the default square is in Japan).")
        a.center = tuple(a.center or PAPER)
        if a.source == "google":
            a.zoom, a.reduce = 19, 4
            if a.size != 128:
                raise PrepError("--source google makes the paper's images of 128 pixels only.")
            source, terms, urls = (
                Google(a),
                ["Google Maps content, under the agreement of whoever ran this; " + " ".join(CLAUSE.split())],
                [f"https://{GOOGLE}/maps/api/staticmap"],
            )
        else:
            if a.source == "tiles":
                if not (a.photo_url and a.map_url and a.terms):
                    raise PrepError(
                        "--source tiles needs --photo-url, --map-url and --terms (the licence and credit that the"
                        " servers ask for)."
                    )
                for option, u in (("--photo-url", a.photo_url), ("--map-url", a.map_url)):
                    if not (split_url(u) and u.startswith(("http://", "https://")) and all(k in u for k in TILE)):
                        raise PrepError(
                            f"{option} {hidden(u)}: an address http... with {{z}}, {{x}} and {{y}} is needed."
                        )
                tag = lambda kind, u: Layer(f"{kind}-{hashlib.sha256(u.encode()).hexdigest()[:8]}", u, (0, 23), a.terms)
                a.photo, a.street, zoom, reduce = tag("photo", a.photo_url), tag("map", a.map_url), 18, 2
            else:
                photo, street, zoom, reduce = PAIRS[a.source]
                a.photo, a.street = LAYERS[photo], LAYERS[street.format(style=a.style)]
            a.zoom, a.reduce = zoom if a.zoom is None else a.zoom, a.reduce or reduce
            for l in (a.photo, a.street):
                if a.base and secrets_of(l.url):
                    may_get_key(rebase(l.url, a.base), split_url(l.url).hostname, a.send_my_key_to_base)
            source = Tiles(a)
            terms, urls = [l.terms for l in (a.photo, a.street)], [hidden(l.url) for l in (a.photo, a.street)]
        n = a.limit or a.number
        if n < 2:
            raise PrepError("At least two places are needed: one of them is held out.")
        params = dict(
            common,
            number=a.number,
            center=a.center,
            side_km=a.side,
            zoom=a.zoom,
            reduce=a.reduce,
            cloud=a.cloud,
            urls=urls,
        )
        budget = None
        if a.source == "google":
            budget = a.max_requests or math.ceil(1.1 * 2 * n)
            print(
                f"{CLAUSE}\n\nRequest budget: {n} places x 2 = {2 * n} billed requests, at most {budget} in this run"
                " (places left out are replaced). Look up what your plan charges for them.",
                file=sys.stderr,
            )
            if not a.my_agreement_allows_this:
                raise PrepError(
                    "Nothing was requested. If your own agreement with Google allows bulk download, storage and"
                    " training, say so with --my-agreement-allows-this; the default source (gsi) needs no agreement."
                )
            if not a.key:
                raise PrepError(
                    "Nothing was requested. Put your own key into the environment variable GOOGLE_MAPS_API_KEY; it is"
                    " never written anywhere."
                )
        if begin(a, manifest, params):
            return
        print(
            f"{n} places of {a.size} x {a.size} pixels, {a.size * a.reduce * metres(a.center[0], a.zoom):.0f} m wide:"
            f" up to {n * source.requests} requests one by one, about"
            f" {n * source.requests * (a.pause + 0.2) / 3600:.1f} hours if none is in the cache.",
            file=sys.stderr,
        )
        n, held, drops, sums, asked = from_places(a, source, budget=budget, secret=a.key)
    out = Path(a.out)
    picture_of(out)
    finish(
        manifest,
        dataset="maps",
        parameters=params,
        urls=urls,
        licence_and_attribution=terms,
        pairs=n,
        held_out=held,
        left_out=drops,
        files={out.name: digest(out, "sha256")[0]},
        sources=sums,
    )
    print(
        f"{out}: {n} pairs of {a.size} pixels, {held} of them held out; left out:"
        f" {', '.join(f'{v} {k}' for k, v in drops.items() if v) or 'nothing'}; {asked} requests. Manifest: {manifest},"
        f" picture: {out.with_suffix('.png')}"
    )


if __name__ == "__main__":
    command(main)
