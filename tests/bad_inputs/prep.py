"Commands and functions of `data_prep`."


def names(tmp):
    import importlib
    import io
    import json
    import math
    import zipfile

    import numpy as np
    from PIL import Image

    from data_prep import clevr, fetch, images, maps, pairs, preview, slakh

    def picture(path, w=64, h=64, **kw):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)).save(path, **kw)
        return path

    for k in "ab":
        for e in ("jpg", "png"):
            picture(tmp / "pairs" / k / f"1.{e}")
            picture(tmp / "half" / k / f"1.{e}")
    (tmp / "half" / "b" / "1.png").unlink()
    picture(tmp / "odd" / "1.png", w=63)
    picture(tmp / "odd" / "2.png", w=63)
    picture(tmp / "one" / "1.png", w=128)
    picture(tmp / "sizes" / "1.jpg")
    picture(tmp / "sizes" / "1.png", w=32)
    picture(tmp / "broken" / "1.jpg")
    whole = picture(tmp / "broken" / "1.png").read_bytes()
    (tmp / "broken" / "1.png").write_bytes(whole[:-500])
    picture(tmp / "scenes" / "images" / "a.png", w=96)
    scenes = [dict(image_filename="a.png", objects=[dict(pixel_coords=[40, 30])])]
    (tmp / "scenes" / "scenes.json").write_text(json.dumps(dict(scenes=scenes)))
    (tmp / "empty").mkdir()
    (tmp / "songs").mkdir()
    (tmp / "songs" / "a.mid").write_bytes(b"MThd")
    (tmp / "file").write_bytes(b"x")
    (tmp / "mine.npz").write_bytes(b"PK mine")
    np.savez(tmp / "other.npz", x=np.zeros(3))
    np.savez(tmp / "objects.npz", ims=np.array([None]), coords_labels=np.zeros((1, 2)))
    np.savez(tmp / "shapes.npz", map=np.zeros((2, 3, 4, 4), np.uint8), sat=np.zeros((2, 3, 4), np.uint8), held=[1, 0])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("a", b"1" * 100)
    archive = zipfile.ZipFile(archive)

    def run(name, *args):
        "A command, without what makes a line of its errors."
        return importlib.import_module(f"data_prep.{name}").main([str(a) for a in args])

    def folder(name, *args, out="out.npz"):
        return run("maps", "--source", "folder", "--folder", tmp / name, "--size", 32, "--out", tmp / out, *args)

    def fetcher(**kw):
        return fetch.Fetcher(tmp / "cache", **kw)

    return dict(
        tmp=tmp,
        np=np,
        nan=math.nan,
        run=run,
        folder=folder,
        fetcher=fetcher,
        archive=archive,
        out=tmp / "out.npz",
        fetch=fetch,
        images=images,
        maps=maps,
        pairs=pairs,
        clevr=clevr,
        slakh=slakh,
        preview=preview,
    )


LINES = """
run('pairs')
run('pairs', tmp / 'none', out)  # is no folder
run('pairs', tmp / 'file', out)  # is no folder
run('pairs', tmp / 'empty', out)  # no .jpg
run('pairs', tmp / 'half', out)  # have no partner
run('pairs', tmp / 'sizes', out)  # a pair has one size
run('pairs', tmp / 'broken', out, '--size', 32)  # no complete picture
run('pairs', tmp / 'pairs', out, '--size', 0)  # --size 0
run('pairs', tmp / 'pairs', out, '--size', -5)  # --size -5
run('pairs', tmp / 'pairs', out, '--size', 1.5)
run('pairs', tmp / 'pairs', out, '--size', 10**9)  # between 1 and
run('pairs', tmp / 'pairs', out, '--size', 100)  # smaller --size
run('pairs', tmp / 'pairs', out, '--hold', 'c')  # --hold names ['c']
run('pairs', tmp / 'pairs', out, '--hold', 'a', 'b')  # nothing is left to train on
run('pairs', tmp / 'pairs', tmp / 'out.png')  # ends in .npz
run('pairs', tmp / 'pairs', tmp / 'mine.npz')  # exists
run('pairs', tmp / 'pairs', tmp / 'file' / 'a.npz')  # a folder is needed
run('pairs', tmp / 'pairs', tmp)
pairs.cut(tmp / 'pairs', True)  # whole number
pairs.cut(tmp / 'pairs', 32.0)  # whole number
pairs.cut(tmp / 'pairs', 32, most=0)  # above 0
pairs.cut(tmp / 'pairs', 32, most=nan)  # above 0
pairs.cut(tmp / 'half', 32)  # have no partner
pairs.find(tmp / 'pairs', 'both')  # layout 'both'
pairs.two_files(tmp / 'odd' / '1.png')  # the photo of a pair
pairs.side_by_side(tmp / 'odd' / '1.png')  # even width
folder('none')  # is no folder
folder('empty')  # no .jpg
folder('half')  # have no partner
folder('odd')  # even width
folder('one')  # holds one image
folder('pairs', '--layout', 'three')
folder('pairs', '--hold', 'b', 'c')  # --hold names ['c']
folder('pairs', '--hold', 'a', 'b')  # nothing is left
folder('pairs', '--limit', -1)  # --limit -1
folder('pairs', '--blank', 0)  # --blank 0
folder('pairs', '--blank', 'nan')  # --blank nan
folder('pairs', out='mine.npz')  # exists
folder('pairs', out='out.zip')  # ends in .npz
folder('pairs', out='file/x.npz')  # a folder is needed
run('maps', '--out', out, '--size', 0)  # --size 0
run('maps', '--out', out, '--size', 100)  # whole tiles of 256
run('maps', '--out', out, '--limit', 0)  # --limit 0
run('maps', '--out', out, '--limit', 1)  # two places
run('maps', '--out', out, '--number', -3)  # --number -3
run('maps', '--out', out, '--held', 'nan')  # --held nan
run('maps', '--out', out, '--held', 1)  # between 0 and 1
run('maps', '--out', out, '--cloud', 2)  # --cloud 2
run('maps', '--out', out, '--seed', -1)  # --seed -1
run('maps', '--out', out, '--side', 'inf')  # --side inf
run('maps', '--out', out, '--side', 'nan')  # --side nan
run('maps', '--out', out, '--zoom', -1)  # --zoom -1
run('maps', '--out', out, '--zoom', 99)  # --zoom 99
run('maps', '--out', out, '--reduce', -2)  # --reduce -2
run('maps', '--out', out, '--center', 'nan', 0)  # latitude
run('maps', '--out', out, '--center', 85, 0)  # latitude
run('maps', '--out', out, '--center', 84.99, 0, '--side', 100)  # beyond the map
run('maps', '--out', out, '--center', 0, 200)  # longitude
run('maps', '--out', out, '--side', 50000)  # beyond the map
run('maps', '--out', out, '--pause', -1)  # --pause -1
run('maps', '--out', out, '--pause', 'nan')  # --pause nan
run('maps', '--out', out, '--timeout', 0)  # --timeout 0
run('maps', '--out', out, '--timeout', 'inf')  # --timeout inf
run('maps', '--out', out, '--patience', 'nan')  # --patience nan
run('maps', '--out', out, '--tries', 0)  # --tries 0
run('maps', '--out', out, '--base', 'mirror.example')  # --base mirror.example
run('maps', '--out', out, '--base', 'ftp://mirror.example')  # https://mirror.example
run('maps', '--out', out, '--base', 'http://[')  # --base
run('maps', '--out', out, '--max-requests', 0)  # --max-requests 0
run('maps', '--out', out, '--hold', 'a')  # --hold names folders
run('maps', '--out', out, '--source', 'usgs')  # needs --center
run('maps', '--out', out, '--source', 'dubai', '--hold', 'tile_9')  # --hold names ['tile_9']
run('maps', '--out', out, '--source', 'google', '--limit', 3)  # Nothing was requested
run('maps', '--out', out, '--source', 'google', '--limit', 3, '--base', 'https://a.example')  # --send-my-key-to-base
run('maps', '--out', out, '--source', 'tiles', '--center', 1, 2, '--photo-url', 'x', '--map-url', 'y', '--terms', 'z')
maps.square(type('A', (), dict(center=(90, 0), zoom=3, side=1)))  # latitude
clevr.from_npz(tmp / 'none.npz', out)  # is no file
clevr.from_npz(tmp / 'file', out)  # no .npz file
clevr.from_npz(tmp / 'other.npz', out)  # `ims` is needed
clevr.from_npz(tmp / 'objects.npz', out)  # pickled Python objects
clevr.scenes_of(b'{', 'x')  # no scenes file
clevr.centres(dict(image_filename='a', objects=[dict(pixel_coords=[nan, 1])]), 480, 320)  # without a place
run('clevr', '--out', out, '--file', tmp / 'none')  # does not exist
run('clevr', '--out', out, '--file', tmp / 'scenes')  # is a folder
run('clevr', '--out', out, '--source', 'folder')  # needs --file
run('clevr', '--out', out, '--source', 'folder', '--file', tmp / 'empty')  # has neither
run('clevr', '--out', out, '--source', 'folder', '--file', tmp / 'scenes', '--size', 0)  # --size 0
run('clevr', '--out', out, '--source', 'folder', '--file', tmp / 'scenes', '--size', 65)  # at most 64
run('clevr', '--out', out, '--source', 'folder', '--file', tmp / 'scenes', '--limit', -1)  # --limit -1
run('clevr', '--out', tmp / 'mine.npz', '--source', 'folder', '--file', tmp / 'scenes')  # exists
run('clevr', '--out', tmp / 'file' / 'a.npz')  # a folder is needed
run('slakh', '--out', tmp / 'file')  # is a file
run('slakh', '--out', tmp / 'file' / 'x')  # a folder is needed
run('slakh', '--out', tmp / 'pairs')  # not empty
run('slakh', '--out', tmp / 'm', '--need', 5)  # --need 5
run('slakh', '--out', tmp / 'm', '--need', 0)  # --need 0
run('slakh', '--out', tmp / 'm', '--limit', -1)  # --limit -1
run('slakh', '--out', tmp / 'm', '--archive', tmp / 'none')  # does not exist
run('slakh', '--out', tmp / 'm', '--source', 'folder')  # needs --folder
run('slakh', '--out', tmp / 'm', '--source', 'folder', '--folder', tmp / 'none')  # is no folder
run('slakh', '--out', tmp / 'm', '--source', 'folder', '--folder', tmp / 'empty')  # holds neither
run('slakh', '--out', tmp / 'empty' / 'm', '--source', 'folder', '--folder', tmp / 'empty')  # lies in --folder
run('slakh', '--out', tmp / 'm', '--source', 'midi', '--folder', tmp / 'songs', '--soundfont', 'x.sf2')
slakh.mono(tmp / 'file')  # no readable sound
slakh.write_track(tmp, 't', dict(bass=np.full(5, nan, np.float32)))  # bass: nan at
slakh.audible(b'@')
run('preview', tmp / 'none')  # does not exist
run('preview', tmp / 'file')  # damaged
run('preview', tmp / 'empty')  # no tracks
run('preview', tmp / 'other.npz')  # no dataset of data_prep
run('preview', tmp / 'shapes.npz')  # its arrays have the shapes
run('preview', tmp / 'other.npz', '--out', tmp / 'x.gif')  # ends in .png
run('preview', tmp / 'other.npz', '--out', tmp / 'file' / 'x.png')  # a folder is needed
images.open_image(b'')  # no picture
images.open_image(tmp / 'none.png')  # does not exist
images.open_image(tmp / 'broken' / '1.png')  # no complete picture
fetch.inside('../a')  # outside
fetch.inside('a:b')  # outside
fetch.inside('')  # or none
fetch.inside(5)  # a text is needed
fetch.zip_bytes(archive, 'b')  # has no 'b'
fetch.zip_bytes(archive, 'a', most=10)  # not the archive
fetch.need('no_such_package')  # is not installed
fetch.may_get_key('https://a.example', maps.GOOGLE)  # --send-my-key-to-base
fetch.save_npz(tmp / 'x.npz', a=np.array([None]))  # Python objects
fetch.save_npz(tmp / 'x.npz', a=(np.uint8, (3,), [np.zeros(2)]))  # numbers for the shape
fetch.read_json(tmp / 'file')  # damaged
fetcher(pause=nan)  # pause=nan
fetcher(timeout=0)  # timeout=0
fetcher(tries=0)  # tries=0
fetcher(tries=1.5)  # whole number
fetcher(patience=-1)  # patience=-1
fetch.Fetcher(tmp / 'file')
fetch.Fetcher(tmp / 'file' / 'x')  # a folder is needed
"""
