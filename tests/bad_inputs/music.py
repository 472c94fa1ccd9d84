"The music domain: presets, pieces, files, training, rules, measures, ears and tables."


def names(tmp):
    import json
    import math
    from dataclasses import replace
    from pathlib import Path

    import numpy as np
    import soundfile as sf
    import torch

    from dde_kit import music

    def folder(name, x=None, rate=4000, stems=music.STEMS, **kw):
        "A track on disk."
        (tmp / name).mkdir(parents=True, exist_ok=True)
        for s, v in zip(stems, torch.rand(4, 4000) - 0.5 if x is None else x):
            sf.write(tmp / name / f"{s}.wav", np.asarray(v), rate, **kw)
        return tmp / name

    def manifest(**tracks):
        "A folder of two good tracks, whose manifest says something else."
        root = tmp / f"set{len(list(tmp.iterdir()))}"
        for k in ("a", "b"):
            folder(f"{root.name}/{k}")
        (root / "manifest.json").write_text(json.dumps(dict(tracks=tracks)), encoding="utf-8")
        return root

    def broken_manifest(text):
        root = manifest()
        (root / "manifest.json").write_text(text, encoding="utf-8")
        return root

    bad = torch.rand(4, 4000) - 0.5
    bad[2, 1000] = math.nan
    peak = torch.rand(4, 4000) - 0.5
    peak[1, 1000] = 1e30
    x = music.procedural(3, music.tiny.length(2) / 4000, seed=5)
    spoilt = x.clone()
    spoilt[1, 0, 7] = math.nan
    (tmp / "list.pth").parent.mkdir(exist_ok=True)
    torch.save([1, 2], tmp / "list.pth")
    ear = music.audio_extractor("random features")
    feats = ear(x, 4000)
    good = folder("good")
    return dict(
        {k: getattr(music, k) for k in music.__all__},
        folder=folder,
        manifest=manifest,
        broken_manifest=broken_manifest,
        good=good,
        disk=music.Folder([good], 4000),
        bad=music.Folder([folder("bad", bad, subtype="FLOAT")], 4000),
        peak=music.Folder([folder("peak", peak, subtype="FLOAT")], 4000),
        tracks=music.Tracks((x * 32767).round().short()),
        source=music.Source("procedural", music.tiny),
        rng=np.random.default_rng(0),
        style=music.draw_style(np.random.default_rng(0)),
        D=lambda x, sigma, y=None: x / 4,
        x=x,
        spoilt=spoilt,
        ear=ear,
        feats=feats,
        torch=torch,
        np=np,
        Path=Path,
        replace=replace,
        tmp=tmp,
        inf=math.inf,
        nan=math.nan,
    )


LINES = """
# presets
replace(tiny, sample_rate=0)  # samples per second
replace(tiny, sample_rate=4000.5)
replace(tiny, sample_rate=2**31)
replace(tiny, patch=8190)  # multiple of 4
replace(tiny, patch=-8192)
replace(tiny, parts=0)
replace(tiny, parts=2.5)
replace(tiny, pieces='many')
replace(tiny, samples=0)
replace(tiny, sigma_data=nan)
replace(tiny, sigma_data=-0.1)
replace(tiny, sigma_skip=0)
replace(tiny, limit=-1.5)
replace(tiny, limit=inf)
replace(tiny, led=dict(w=0.25))  # above and below
replace(tiny, led=dict(w=-0.25, above=0.3, below=3.0))
replace(tiny, led=dict(w=nan, above=0.3, below=3.0))
replace(tiny, led=0.25)
replace(tiny, base=None)
replace(tiny, sampler=20)
tiny.length(0)
tiny.length(1.5)
# pieces
draw_style(0)  # generator
draw_style(None)
onsets(style, 'violin', 2)
onsets(style, 'guitar', nan)
onsets(style, 'guitar', -1)
strike(np.zeros(0), np.arange(3))  # at least two beginnings
strike(np.array([1.0, 1.0]), np.arange(3))
onsets({}, 'guitar', 2)  # draw_style
onsets(style, 'guitar', 1e12)
pitch(style, 1.5, 0, 60)  # whole numbers
pitch(style, None, 0, 60)
pitch({}, 1, 0, 60)
tone(np.ones(2), None, 1, 1, 1, 4000, 60)  # `strike`
drum_kit({}, 1, np.arange(3), 4000, None, None)
piece(0, 1, 4000)
piece(rng, inf, 4000)
piece(rng, -1, 4000)
piece(rng, 1, 0)
piece(rng, 1, 4000.5)
piece(rng, 1e-9, 4000)
piece_rng(-1, 0)
piece_rng(0, -1)
piece_rng(0, 0, -1)
piece_rng(0.5, 0)
piece_rng(0, 2**32)
drawn(0, 100, 4000)
drawn(2, 0, 4000)
drawn(2, 100.0, 4000)
drawn(2, 100, 4000, -1)
drawn(2, 100, 4000, 0, 'false')  # True or False
drawn(10**9, 10**9, 4000)  # fewer or shorter
procedural(0, 2)  # positive
procedural(2, 0)
procedural(2, nan)
procedural(2, '2')
procedural(2, 2, seed=-1)
procedural(2, 2, seed=1.5)
procedural(2, 2, rate=0)
procedural(True, 2)
facts(-1)
facts(0, -1)
unit(x)  # torch.int16
unit([1, 2])
unit(x.to(torch.uint8))
# sound
mono(x[0])
mono(x[:, :3])
mono((x * 32767).short())
clipped(x[:, 0])
clipped(spoilt)  # NaN or infinity
player(spoilt[1, 0], 4000)
player(x[0], 0)
player(x, 4000)
player('x', 4000)
player(x[0, 0, :0], 4000)
write_wav(tmp / 'a.wav', spoilt[1], 4000)  # first nan at
write_wav(tmp / 'a.wav', x[0], -4000)
write_wav(tmp / 'a.wav', x[0], 4000.5)
write_wav(tmp / 'a.wav', x[0].T, 4000)  # x.T
write_wav(tmp / 'a.wav', (x[0] * 32767).short(), 4000)  # `unit`
write_wav(tmp / 'a.wav', x[0] * 1j, 4000)
write_wav(tmp / 'a.wav', x, 4000)
write_wav(tmp / 'a.mp3', x[0], 4000)  # .wav
write_wav(None, x[0], 4000)
write_wav(good / 'bass.wav' / 'x.wav', x[0], 4000)  # another folder
resampled(x, 0, 4000)
resampled(x, 4000, 4000.5)
resampled(x, 2**31, 4000)
resampled(spoilt, 8000, 4000)  # NaN
resampled([0.0], 8000, 4000)
resampled((x * 32767).short(), 8000, 4000)
resampled(x[..., :0], 8000, 4000)
# tracks in memory and on disk
Tracks(x)  # round().short()
Tracks((x[0] * 32767).short())
Tracks((x[:0] * 32767).short())
Tracks([1])
Tracks((x * 32767).short(), 0)
Tracks((x * 32767).short(), 1.5)
tracks.fits(0)
tracks.fits(10**9)  # longest of these
tracks.fits(1.5)
tracks.crops()
tracks.crops(-1)
tracks.middle(100, 0)
tracks.middle(nan)
disk.read(5, 0, 10)
disk.read(-1, 0, 10)
disk.read(0, -5, 10)
disk.read(0, 0, 0)
disk.read(0, 0.5, 10)
disk.load(0)
disk.load(5000)  # longest of these
disk.load(1000, 'false')
disk.inspect(0)
bad.read(0, 0, 4000)  # guitar.wav holds NaN at sample 1000
bad.middle(4000)
bad.inspect()  # guitar.wav holds NaN
peak.read(0, 0, 4000)  # drums.wav holds 1e+30 at sample 1000
peak.middle(4000)
peak.inspect()  # 0.250 s
Folder('x', 4000)  # list of folders
Folder(3, 4000)
Folder([3], 4000)
Folder([good], 0)
Folder([good], 4000.0)
Folder([good], 8000)  # resample=True
Folder([good], 4000, missing='maybe')
Folder([good], 8000, resample='true')  # True or False
Folder([good], 4000, say='print')
Folder([tmp / 'none'], 4000)
Folder([folder('empty', torch.zeros(4, 0))], 4000)  # is empty
Folder([folder('nine', torch.zeros(4, 100, 9))], 4000)  # 9 channels
Folder([folder('three', stems=STEMS[:3])], 4000)  # no piano
read_tracks(tmp / 'none', 4000)  # no folder
read_tracks('', 4000)
read_tracks(None, 4000)
read_tracks(good, 4000)  # at least two tracks
read_tracks(good, 4000, missing='maybe')
read_tracks(good, 4000, resample=1)
read_tracks(manifest(**{'../good': dict(split='train'), 'b': dict(split='test')}), 4000)  # inside of
read_tracks(manifest(**{'a/../../good': dict(split='train'), 'b': dict(split='test')}), 4000)  # inside of
read_tracks(manifest(**{str(good): dict(split='train'), 'b': dict(split='test')}), 4000)  # inside of
read_tracks(manifest(a=dict(split='train'), **{'..': dict(split='test')}), 4000)  # inside of
read_tracks(manifest(a='train', b='test'), 4000)  # not what
read_tracks(manifest(a=dict(split='train'), c=dict(split='test')), 4000)  # not a track
read_tracks(broken_manifest('{'), 4000)  # not what
read_tracks(broken_manifest('[]'), 4000)  # make it again
read_tracks(broken_manifest('[' * 100000), 4000)
manifest_split(broken_manifest('{"tracks": []}'))
Source('procedural', 'tiny')  # a preset is needed
Source('procedural', None)
Source('', tiny)
Source(None, tiny)
Source('nowhere', tiny)  # no folder
Source('procedural', tiny, resample=True)  # name a folder
Source('procedural', tiny, missing='silence')
Source('procedural', tiny, 'maybe')
Source(good, tiny, resample='false')
source.test(100, 0)
source.test(0, 2)
source.test(100, 2, -1)  # at least 0
source.test(100, 2, 0.5)
source.test(100, 2, 0, -2)
source.reference(-1)
source.reference(100, 0)
source.power(0)
# networks and training
build('tiny', 'base')
build(tiny, 'critic')
build(tiny, None)
build(paper, 'spectral')  # not in the paper
layouts(tiny, 'critic')
layouts(None, 'base')
train_part('critic', 'tiny', tracks, tmp / 'm')
train_part('base', 'huge', tracks, tmp / 'm')
train_part('base', tiny, tracks, tmp / 'm')
train_part('base', 'tiny', x, tmp / 'm')  # `Tracks`
train_part('base', 'tiny', None, tmp / 'm')
train_part('base', 'tiny', tracks, tmp / 'm', held=x)
train_part('base', 'tiny', tracks, tmp / 'm', seed=-1)
train_part('base', 'tiny', tracks, tmp / 'm', seed=None)
train_part('base', 'tiny', tracks, tmp / 'm', sigma_data=0)
train_part('base', 'tiny', tracks, tmp / 'm', sigma_data=nan)
train_part('base', 'tiny', tracks, tmp / 'm', hold='false')
train_part('base', 'tiny', tracks, tmp / 'm', progress='false')
train_part('base', 'tiny', tracks, tmp / 'm', form='deep')
train_part('base', 'tiny', tracks, tmp / 'm', noise=1.0)  # pair
train_part('base', 'tiny', tracks, tmp / 'm', noise=(0.0, -1.0))
train_part('base', 'tiny', tracks, tmp / 'm', noise=(nan, 1.0))
train_part('base', 'tiny', tracks, tmp / 'm', base='music-tiny/base')  # does not go with
train_part('coordinator', 'tiny', tracks, tmp / 'm')  # does not go with
train_part('coordinator', 'tiny', tracks, tmp / 'm', base='music-tiny/base')  # longest of these
train_part('spectral', 'paper', tracks, tmp / 'm', base='music-tiny/base')
train_part('base', 'tiny', tracks, None)
train_part('base', 'tiny', Tracks(torch.ones(1, 4, 8192).short()), tmp / 'm', colour='red')  # no setting of `fit`
train_part('base', 'tiny', Tracks(torch.ones(1, 4, 8192).short()), tmp / 'm', form=dict(colour='red'))  # colour
trained('')
trained(None)
# rules
Limiter(None, [1.0] * 4)
Limiter(D, [1.0, nan, 1.0, 1.0])  # power per stem
Limiter(D, [1.0, inf, 1.0, 1.0])
Limiter(D, [1.0, -1.0, 1.0, 1.0])
Limiter(D, [])
Limiter(D, 1.0)
Limiter(D, None)
Limiter(D, ['loud'] * 4)
Limiter(D, [1j] * 4)
Limiter(D, torch.ones(4, 1))
Limiter(D, [1.0] * 3)(x, torch.ones(3))  # 3 powers
ready(None, tiny)
ready(D, 'tiny')
ready(D, tiny, [nan] * 4)
ready(D, tiny, [0.1] * 3)  # 4 stems
ready(D, tiny, 0.1)
ready(D, paper, [-1.0] * 4)
generate(D, 0, 100)
generate(D, 2, -1)
generate(D, 2, 100, seed=-1)
generate(D, 2, 100, batch=0)
generate(D, 2, 100, batch=1.5)
generate(None, 2, 100)
generate(D, 2, 100, bar=3)
patchwork(x[:1], 100)  # at least 2
patchwork(x, 0)
patchwork(x, 10**6)
patchwork(x, 0.5)
patchwork(x[:, 0], 100)
patchwork(spoilt, 100)
# pictures
mel_matrix(0, 4000, 10, 40, 1950)
mel_matrix(513, 4000, 0, 40, 1950)
mel_matrix(513, 4000, 10, 1950, 40)
mel_matrix(513, 4000, 10, 40, 2001)  # half the sample rate
mel_matrix(513, 4000, 10, nan, 1950)
mel_matrix(513, 4000, 10, 40, 1950, 'bark')
mel_picture(x[0], 4000)
mel_picture(x[0, 0, :10], 4000)
mel_picture(spoilt[1, 0], 4000)
mel_picture(x[0, 0], 0)
lines_of('DDE', 10, tiny)
lines_of(None, 10**5, tiny)
lines_of('DDE', 10**5, None)
pictures({}, tiny)
pictures(dict(a=x), tiny, i=9)
pictures(dict(a=x), tiny, seconds=nan)
pictures(dict(a=x[0]), tiny)
pictures(dict(a=spoilt), tiny)
pictures(dict(a=x), 'tiny')
# agreement
correlation(x[0], x[1, :2])
correlation(torch.ones(3, 2), torch.ones(3, 2))  # at least 3
correlation(x[0] * 1j, x[0] * 1j)
correlation(None, None)
chroma(x, 4000)
chroma(x[0, :, :10], 4000)  # at least 1000 are needed
chroma(x[0], 100)
chroma(x[0] * inf, 4000)
scales(torch.ones(2, 11))
scales(-torch.ones(2, 12))
scales(torch.full((2, 12), nan))
ends_of(x, 0)
ends_of(x, -3)
ends_of(x, 10**7)
key_agreement(x[0], 4000, 4000)
key_agreement(x[:, :1], 4000, 4000)
key_agreement(spoilt, 4000, 4000)  # 1 of 3 tracks
key_agreement(x * inf, 4000, 4000)
key_agreement(x * 1e30, 4000, 4000)  # beyond 10
key_agreement(x[..., :10], 4000, 5)  # 0.5 s
key_agreement(x, 4000, 10)
key_agreement(x, 4000, x.shape[-1])
key_agreement(x, 0, 4000)
key_agreement(x, nan, 4000)
key_agreement((x * 32767).short(), 4000, 4000)
key_agreement(np.ones((2, 4, 9000)), 4000, 4000)
tempo_agreement(x[0], 4000, 4000)
tempo_agreement(spoilt, 4000, 4000)
tempo_agreement(x, 4000, 3999)  # 1 s
tempo_agreement(x, 4000, -5)
tempo_agreement(x, 4000, 4000.5)
tempo_agreement(x * 1e30, 4000, 4000)
jumps(x, 4000)
jumps(x[0, :, :100], 4000)
jumps(x[0], 4000, 0)
jumps(x[0], 4000, nan)
pulse(x[0, :, :800], 4000)  # too short
pulse(x[0], 4000, lo=-1)
pulse(x[0], 4000, hi=0.1)
pulse(x[0], 4000, lo=inf)
border_steps(x, 4000, [])  # at least one
border_steps(x, 4000, [0])
border_steps(x, 4000, [10**6])
border_steps(x, 4000, [1000.5])
border_steps(x, 4000, 1000)
border_steps(x, 4000, [4000], window=0)
border_steps(x, 4000, [4000], window=nan)
border_steps(x[..., :600], 4000, list(range(128, 400, 50)))  # no place
border_steps(spoilt, 4000, [4000])
border_steps(x[0], 4000, [4000])
# FAD
flat(None)
flat([['a']])
flat(torch.zeros(3))
flat(torch.zeros(2, 3, 4, 5))
flat(torch.zeros(2, 3, dtype=torch.uint8))
flat(torch.zeros(2, 3) * 1j)
fad(feats * nan, feats)  # NaN or infinity
fad(feats[:0], feats)
fad(feats[..., :3], feats)
fad_influence(feats[0, 0], feats)
fad_influence(feats, feats * inf)
fad_curve(feats, feats, [])
fad_curve(feats, feats, [99])  # There are 3 tracks
fad_curve(feats, feats, [0])
fad_curve(feats, feats, [1.5])
fad_curve(feats, feats, 2)
fad_curve(feats, feats, [2], repeats=0)
fad_curve(feats, feats, [2], seed=-1)
# ears
vggish_input(x[0, :, :100])  # 15600
vggish_input(x)
vggish_input(x[0] * nan)
load_vggish(None)
load_vggish('')
load_vggish(tmp / 'none.pth')  # does not exist
load_vggish(tmp / 'list.pth')  # holds a list
log_mel(x)
log_mel(x[0, :, :100])
log_mel(spoilt[1])
EarNet(0)
EarNet(d=-1)
EarNet(n_targets=1.5)
EarNet()(x)
EarNet()(torch.zeros(1, 96, 8))  # 41 frames
ear_batches(1)
ear_batches(2, 0)
ear_batches(2, 4, nan)
ear_batches(2, 4, seconds=1)
ear_batches(2, 4, seed=-1)
train_ear(tmp / 'e', steps=0)
train_ear(good / 'bass.wav' / 'e')  # another folder
train_ear(3)
train_ear(tmp / 'e', lr=nan)
train_ear(tmp / 'e', pieces=1)
train_ear(tmp / 'e', seed=-1)
train_ear(tmp / 'e', progress='no')
load_ear(3)
load_ear(tmp / 'none')  # train_ear
ear_windows(x)
ear_windows(x[0, :, :7000])  # at least two
ear(x, 0)
ear(x, 4000, batch=0)
ear(spoilt, 4000)
ear(x * 1e30, 4000)
ear(None, 4000)
ear((x * 32767).short(), 4000)
ear(x[0, 0], 4000)
Ear(None, 'a', 'b', 4000, ear_windows)
Ear(EarNet(), 'a', 'b', 0, ear_windows)
audio_extractor('ears')
audio_extractor(None)
audio_extractor('random features', seed=-1)
audio_extractor('random features', seed=nan)
audio_extractor('kit-small-audio', download='false')
audio_extractor('vggish', path=tmp / 'none.pth')
# the table
score_table({}, feats, {}, tiny)
score_table(None, feats, dict(real=x), tiny)
score_table(dict(DDE=feats), feats, dict(real=x), tiny)  # lacks real
score_table(dict(real=feats), feats, dict(real=x), 'tiny')
score_table(dict(real=feats), feats, dict(real=spoilt), tiny)
score_table(dict(real=feats), feats, dict(real=x[0]), tiny)
score_table(dict(real=feats[:2]), feats, dict(real=x), tiny)  # the same tracks
score_table(dict(real=feats[..., :3]), feats, dict(real=x), tiny)  # one ear
score_table(dict(real=feats * nan), feats, dict(real=x), tiny)
score_table(dict(MultiDiffusion=feats), feats, dict(MultiDiffusion=x), tiny)  # real tracks
score_table(dict(real=feats), feats, dict(real=x[..., :100]), tiny)
"""
