"""The one place where `data_prep` opens an image, and the names that are no data.

What comes out is RGB with 8 bits a channel, upright, complete:

- The header is read first: an image of more than `MOST` pixels is refused before a pixel is decoded.
- EXIF orientation is applied: a photo is cut as every viewer shows it.
- Transparent pixels are laid on white. Where every pixel is opaque the alpha channel is dropped.
- Photos with 16 bits a channel keep their upper 8 bits; label maps with 16 bits are refused, because
  classes that differ in the lower bits only would become one.
- Palettes, greyscale, black and white, CMYK become RGB.
"""

import io
import warnings
from pathlib import Path, PurePosixPath

MOST = 1 << 27  # pixels: 11,585 x 11,585, 0.4 GB as RGB
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # no format whose reader starts another program
SUFFIXES = (".jpg", ".jpeg", ".png")
TURNED, SCALED, WHITE = "turned as their EXIF says", "with 16 bits, scaled to 8", "transparent in places, laid on white"
PNG = b"\x89PNG\r\n\x1a\n"


def is_junk(path):
    "What an operating system leaves beside the data: AppleDouble (`._a.jpg`), `__MACOSX`, `.DS_Store`, `Thumbs.db`."
    parts = PurePosixPath(str(path).replace("\\", "/")).parts
    if not parts:
        return False
    last = parts[-1].lower()
    return "__MACOSX" in parts or last.startswith("._") or last in (".ds_store", "thumbs.db", "desktop.ini")


def images_in(folder, suffixes=SUFFIXES):
    "Images in a folder or one folder below it, by suffix in any case, in order, without what is no data."
    folder = Path(folder)
    found = (p for pattern in ("*", "*/*") for p in folder.glob(pattern))
    return sorted(
        p for p in found if p.suffix.lower() in suffixes and not is_junk(p.relative_to(folder)) and p.is_file()
    )


def open_image(source, name="", use="photo"):  # a path or bytes; what a message calls it; 'photo' or 'label map'
    """A complete image as RGB, or ValueError. `.info['notes']` says what was changed (`TURNED`, `SCALED`, `WHITE`),
    `.info['clear']` which share of the pixels is more transparent than not.
    """
    from PIL import Image

    name = name or (str(source) if not isinstance(source, bytes) else "the image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own bound follows; damaged EXIF says nothing
            im = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} claims far more than {MOST} pixels: not decoded") from None
    except Exception:
        raise ValueError(f"{name} is no picture ({', '.join(FORMATS)} are read)") from None
    with im:
        if im.width * im.height > MOST:
            raise ValueError(f"{name} claims {im.width} x {im.height} pixels; {MOST} in all is the most: not decoded")
        deep = sixteen(im, source)
        if deep and use != "photo":
            raise ValueError(
                f"{name} has 16 bits a channel: a {use} is taken with 8 bits, because classes that differ only in the"
                " lower bits would become one. Save it with 8 bits or a palette"
            )
        if im.mode in ("I", "F") and not deep:
            raise ValueError(f"{name} holds numbers of 32 bits ({im.mode}): save it with 8 or 16 bits a channel")
        try:
            im.load()
            orientation = orientation_of(im)
            out, notes, clear = in_rgb(im, deep, name)
        except ValueError:
            raise
        except Exception as e:
            raise ValueError(f"{name} is no complete picture ({type(e).__name__}: {str(e)[:100]})") from None
        if orientation in range(2, 9):
            out = out.transpose(list(Image.Transpose)[TURNS[orientation]])
            notes.append(TURNED)
        out.info = dict(notes=notes, clear=clear)
        return out


# EXIF orientation -> position in Image.Transpose, which lists: FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, ROTATE_90, ROTATE_180,
# ROTATE_270, TRANSPOSE, TRANSVERSE
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def orientation_of(im):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return im.getexif().get(0x0112, 1)
    except Exception:
        return 1  # damaged EXIF says nothing


def sixteen(im, source):
    "Does an image hold 16 bits a channel? Of a colour PNG only the header says so."
    if im.mode.startswith("I;16"):
        return True
    if isinstance(source, bytes):
        head = source[:26]
    else:
        with open(source, "rb") as f:
            head = f.read(26)
    return head.startswith(PNG) and len(head) > 24 and head[24] == 16


def in_rgb(im, deep, name):
    "An open image as RGB, what was changed, and the share of transparent pixels."
    import numpy as np
    from PIL import Image

    notes, clear = [], 0.0
    if im.mode in ("I", "F") or im.mode.startswith("I;16"):
        im = Image.fromarray((np.asarray(im).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if im.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in im.info:
        alpha = im.convert("RGBA")
        a = np.asarray(alpha)[..., 3]
        if a.min() < 255:
            clear = float((a < 128).mean())
            notes.append(WHITE)
            im = Image.alpha_composite(Image.new("RGBA", alpha.size, "white"), alpha)
    out = im.convert("RGB")
    if deep:
        notes.append(SCALED)
        if max(high for _, high in out.getextrema()) < 16:
            raise ValueError(
                f"{name} has 16 bits a channel and no value reaches 4096 of 65535, so it holds 12 bits or fewer and"
                " would become nearly black: scale it to 8 bits first"
            )
    return out, notes, clear
