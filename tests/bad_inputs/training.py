"Training, networks, saving and loading, and the training script."


def names(tmp):
    import json
    import math
    import shutil
    import types
    from pathlib import Path

    import numpy as np
    import torch
    from torch import nn

    from dde_kit import networks, train, training
    from dde_kit.coordinator import DDE
    from dde_kit.decomposition import Tiling
    from dde_kit.denoising import EDMDenoiser, LogNormal

    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.ones(()))

        def forward(self, x, c, y):
            return self.a * x

    net = networks.UNet(1, 1, (8,), (1,), 2)
    D = EDMDenoiser(Gain(), 0.5)
    opt = torch.optim.Adam(D.parameters())
    noise = LogNormal(-1.0, 1.2)

    def white(g, n):
        return torch.randn(n, 1, 8, generator=g), None

    def fit(data=white, D=D, **kw):
        return training.fit(D, data, **(dict(noise=noise, steps=1, batch=2, progress=False, cpu=True) | kw))

    def sample_many(n=1, shape=(1, 8), D=D, **kw):
        return training.sample_many(D, n, shape, **(dict(steps=1) | kw))

    def script(**kw):
        return train.train(
            **(dict(domain="maps", out=str(tmp / "runs"), images=1, steps=1, batch=1, progress=False) | kw)
        )

    def command(text):
        return train.main(text.split())

    def made(**kw):
        settings = dict(noise=(-1.0, 1.0), steps=1, batch=1)
        args = dict(
            D=base, batches=white, out=tmp / "made", network="clevr/tiny/base", settings=settings, progress=False
        )
        return networks.fit_and_save(**(args | kw))

    base = EDMDenoiser(networks.build("clevr/tiny/base"), 0.25)

    composite = DDE(base, Tiling(2), networks.build("clevr/tiny/coordinator"))

    def save(D=base, folder=tmp / "saved", network="clevr/tiny/base", **kw):
        return networks.save(D, folder, network, **kw)

    def changed(**kw):
        "A saved model whose settings were changed by hand."
        folder = tmp / f"changed{len(list(tmp.iterdir()))}"
        shutil.copytree(networks.WEIGHTS / "clevr-tiny/dde", folder)
        config = json.loads((folder / "config.json").read_text()) | dict(base="clevr-tiny/base")
        (folder / "config.json").write_text(json.dumps(config | kw))
        return networks.load(folder)

    file, foreign = tmp / "file", tmp / "foreign"
    file.write_text("text")
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    own = dict(vars(networks)) | dict(vars(training)) | dict(vars(train))
    here = {k: v for k, v in locals().items() if k not in ("here", "own", "train", "training")}
    return own | here | dict(np=np, inf=math.inf, nan=math.nan, Path=Path, types=types, one_step=train.train)


LINES = """
stream(-1, 0)  # at least 0
stream(2**32, 0)  # at most
stream(0.5, 0)
stream(0, -1)
stream(0, 0, 'sampling')  # train, network, held
stream(0, 0, piece=-1)
stream(True, 0)
draw(None, 1, stream(0, 0))  # function (generator, n)
draw(white, 0, stream(0, 0))
draw(white, 2.0, stream(0, 0))
draw(white, 1, None)  # torch.Generator
draw(lambda g, n: (np.zeros((n, 1)), None), 1, stream(0, 0))  # tensors
draw(lambda g, n: (torch.zeros(()), None), 1, stream(0, 0))
draw(lambda g, n: None, 1, stream(0, 0))  # a pair (x0, y)
draw(lambda g, n: (torch.zeros(n, 1), [1]), 1, stream(0, 0))
beside(None, 'cpu')
trainable(None)
trainable(nn.Identity())
constant(-1, 10)
constant(11, 10)  # at most 10
constant(0, 0)
constant(0, 10, -5)
cosine(0, 10, nan)
cosine(0.5, 10)
cosine('0', 10)
EMA(None)
EMA([1.0])
EMA({}, decay=1.5)  # below 1
EMA({}, decay=nan)
EMA({}, start=-1)
EMA({}, every=0)
EMA({}, power=-1)
EMA({}, unit=0)
EMA({}, unit=1j)
EMA({}).update(-1)
EMA({}).weight(None)
replace_whole(None, print)
replace_whole(tmp / 'a', None)
save_whole([1], tmp / 'a', {})
save_whole(dict(a=1), tmp / 'a', {})
save_whole({}, tmp / 'a', dict(a=object()))
save_whole({}, '', {})
save_whole({}, tmp / 'a', None)
read_whole(tmp / 'nothing')  # there is no file
read_whole(file)  # damaged
read_whole(None)
read_whole(WEIGHTS / 'clevr-tiny/base/model.safetensors')  # damaged, or no checkpoint
fingerprint([])
fingerprint([1])
fingerprint([torch.zeros(1)], most=0)
data_fingerprint(None)
data_fingerprint(white, 0)
differences(None, {})
save_csv(None, tmp / 'a')
save_csv([1], tmp / 'a')
Run(None, opt)
Run({}, opt)
Run(trainable(D), None)
Run(trainable(D), opt, avg=3)
Run(trainable(D), opt, settings=dict(a=object()))
Run(trainable(D), opt, settings=[1])
Run(trainable(D), opt, out='')
Run(trainable(D), opt, keep='first')
Run(trainable(D), opt, main=1)
Run(trainable(D), opt, keep='best').judged('low')
share(-1)
share(1.5)
share(3, 3, 3)  # at most 2
share(3, 0, 0)
share(3, 1)
gather(None)
check_unused(None)
locked(None).__enter__()
sample_many(0)  # at least 1
sample_many(-1)
sample_many(1.0)
sample_many(batch=0)
sample_many(seed=-1)
sample_many(seed=None)
sample_many(shape=())
sample_many(shape=(8,))
sample_many(shape=(1, 0))
sample_many(shape=(1, 8.0))
sample_many(shape=8)
sample_many(2, y=torch.zeros(3, 1))  # one row per sample
sample_many(y=5)
sample_many(finish='uint8')
sample_many(D=None)
Objective(D, None)
accelerator(cpu='yes')
accelerator(precision='fp16')  # bf16-base
accelerator(accumulate=0)
tuned(D, compile='yes').__enter__()
tuned(D, half=1).__enter__()
check_settings(stepz=3)  # knows
fit(None)  # function (generator, n)
fit(D=None)
fit(D=nn.Linear(1, 1))  # EDMDenoiser
fit(lambda g, n: (torch.zeros(n, 1, 8, dtype=torch.uint8), None))
fit(lambda g, n: (torch.zeros(n, 1, 0), None))
fit(noise=None)
fit(noise=(-1, 1))
fit(steps=0)
fit(steps=-5)
fit(steps=2.5)
fit(steps=True)
fit(steps='3')
fit(batch=0)
fit(batch=nan)
fit(lr=0)
fit(lr=-1e-3)
fit(lr=nan)
fit(lr=inf)
fit(lr='1e-3')
fit(lr=1j)
fit(betas=0.9)
fit(betas=(0.9,))
fit(betas=(0.9, 1.0))  # below 1
fit(betas=(nan, 0.9))
fit(schedule='linear')  # constant, cosine
fit(schedule=None)
fit(warmup=-1)
fit(warmup=0.1)
fit(clip=-1)  # above 0
fit(clip=0)
fit(clip=nan)
fit(clip=True)
fit(pools=8)
fit(pools=(8, 0.5))
fit(pools=((0, 0.5),))
fit(pools=((4, -1.0),))
fit(pools=((4, nan),))
fit(loss='mse')
fit(ema='yes')
fit(ema=dict(rate=1))  # knows
fit(ema=dict(decay=2))
fit(seed=-1)
fit(seed=1.0)
fit(out='')
fit(out=3)
fit(out=file)  # is a file
fit(out=file / 'deeper')
fit(every=0)
fit(held=[1])
fit(held_batches=0)
fit(progress='false')
fit(cpu='true')
fit(accumulate=-1)
fit(accumulate=3)  # cannot be cut
fit(precision='half')
fit(precision='bf16-base')  # frozen base
fit(compile=1)
fit(keep='best')  # pass held=
fit(keep=None)
fit(ahead=2)
fit(tracker='tensorboard')  # pass out=
fit(facts=[1])
conv(3, 1, 1)
conv(1, 0, 1)
conv(1, 1, 1, 2)  # odd
conv(1, 1, 1.0)
squeeze(0, 2)
squeeze(1, 0)
unsqueeze(2, -1)
Fourier(0)
Fourier(8, 7)  # even
Fourier(8, scale=nan)
Fourier(8, scale=0)
Fourier(8)(None)
Fourier(8)(torch.zeros(2, 1))
Fourier(8)(torch.zeros(2, dtype=torch.long))
ResBlock(1, 12, 8, 4)  # multiple of 8
ResBlock(1, 8, 8, 0)
ResBlock(3, 8, 8, 4)
ResBlock(1, 8, 8, 4)(torch.zeros(2, 8, 4), torch.zeros(1, 4))
ResBlock(1, 8, 8, 4)(torch.zeros(2, 4, 4), torch.zeros(2, 4))
SelfAttention(1, 80, 48, 7)
SelfAttention(1, 8, 0)
SelfAttention(1, -8)
SelfAttention(1, 8)(torch.zeros(0, 8, 4))
SelfAttention(2, 8)(torch.zeros(1, 8, 4))
UNet(0)
UNet(1.5)
UNet(1, ndim=3)
UNet(1, ndim=True)
UNet(1, widths=64)
UNet(1, widths=(), blocks=())
UNet(1, widths=(0, 64))
UNet(1, widths=(-8, 64))
UNet(1, widths=(8.0,), blocks=(1,))
UNet(1, widths=(64,), blocks=(1, 1))  # differ in length
UNet(1, blocks=(1, -1))
UNet(1, blocks=None)
UNet(1, stem=0)
UNet(1, stem=-4)
UNet(1, cond_channels=-1)
UNet(1, fine=1)
UNet(1, reach=(2, 1))
UNet(1, reach=(3,))
UNet(1, channels_out=0)
net(None, torch.zeros(1))
net(torch.zeros(1, 1, 8, dtype=torch.long), torch.zeros(1))
net(torch.zeros(0, 1, 8), torch.zeros(0))
net(torch.zeros(1, 1, 7), torch.zeros(1))  # multiple of 2
net(torch.zeros(1, 1, 8), 0.5)
UNet(1, 1, (8,), (1,), 2, 1)(torch.zeros(1, 1, 8), torch.zeros(1), 'map')
spectrum(None)
spectrum(torch.zeros(1, 1, 512), 6)  # multiple of 4
spectrum(torch.zeros(1, 1, 512), 0)
spectrum(torch.zeros(1, 1, 512) * 1j)
waveform(torch.zeros(1, 3, 4, 2))
waveform(None)
row_features(0)
row_features(2**40)
SpectralUNet(1, None, {})
SpectralUNet(1, {}, dict(colour=1))
SpectralUNet(1, {}, {}, n=10)
DiT(0, 4)
DiT(1, 0)
DiT(1, 4, ndim=3)
DiT(1, 4, depth=-1)
DiT(1, 4, depth=1.5)
DiT(1, 4, hidden=0)
DiT(1, 4, colour=1)
build(None)
build('maps/tiny')
build('maps/tiny/base', stem=0)
build('maps/tiny/base', 'nowhere')  # no device of torch
load(None)
load('')
load(5)
load('a' * 5000)
load(file)
load(foreign)  # has no config.json
load('clevr-tiny/base', trainable='yes')
load('clevr-tiny/base', 'nowhere')
save(folder=None)
save(folder=foreign)  # something else
save(folder=file)
save(dtype=torch.int8)  # cannot hold weights
save(dtype=torch.bool)
save(dtype='float16')
save(sampler=[1])
save(clamp=(1, -1))
save(clamp=3)
save(clamp=(nan, 1))
save(note=nan)
save(D=None)
save(network='clevr/tiny/coordinator')
save(D=composite, network='clevr/tiny/coordinator')  # save the base first
changed(overrides=dict(depth=10**9))  # beyond anything
changed(overrides=dict(depth=10**6))  # cannot be built
changed(overrides=dict(hidden=10**7))
changed(overrides=[1])
changed(overrides=dict(colour=1))
changed(base='.')  # is of kind 'dde'
changed(base='')
changed(base=5)
changed(base='../nowhere')
changed(base_tensors='00')
changed(sigma_data='0.4')
changed(sigma_data=nan)
changed(sigma_data=inf)
changed(sigma_skip=-1)
changed(clamp=[1])
changed(sampler='heun')
changed(network=None)
changed(network='clevr/paper/coordinator')
changed(tiling=dict(patch=0))
changed(tiling=dict(colour=1))
changed(guidance=dict(colour=1))
changed(tensors=5)
adopt(None, net)
adopt(net, None)
adopt(net, nn.Identity())
adopt(net, net, hold='yes')
adopt(net, net, hold=True)  # leave it out
made(out=file / 'a')
made(out=foreign)
made(out='')
made(batches=None)
made(settings=None)
made(settings=dict(noise=(-1.0, 1.0)))  # steps
made(settings=dict(noise=(-1.0, 0.0), steps=1))  # above 0
made(settings=dict(noise=(-1.0,), steps=1))
made(settings=dict(noise=(-1.0, 1.0), steps=1, stepz=1))
made(network='clevr/tiny/classifier')
made(hold=True)
made(hold='no')
made(start='nowhere')
made(dtype=torch.int32)
made(guidance=dict(colour=1))
made(guidance=3)
made(seed=-1)
made(note=object())
home('')
home(None)
variant('')
variant('tiny', '')
variant('tiny', None)
place('', 'tiny')
place('maps', None)
place('maps', 'tiny', weights=3)
domain_of(None)
domain_of(['maps'])
domain_of('maps', 3)
readable('maps', RECIPES['maps'], 'resample')
readable('maps', RECIPES['maps'], dict(resample=True))
jobs(None, 'runs')
jobs(RECIPES['maps'], None)
form_of('[1]')
form_of('NaN')
form_of(None)
script(domain='moon')
script(preset='huge')
script(stage='critic')
script(stage=None)
script(images=-1)
script(images=2.0)
script(seed=-1)
script(seed=None)
script(steps=0)
script(steps=-3)
script(batch=0)
script(lr=nan)
script(noise=(0.0, 0.0))
script(noise=(0.0, -1.0))
script(noise=3)
script(every=0)
script(out=str(file))
script(out=3)
script(data='')
script(data='nowhere.npz')
script(start='nowhere')
script(hold=True)
script(form=3)
script(form=dict(colour=1))
script(stepz=1)
script(reading=3)
script(progress='no')
script(say=None)
script(clip=-1)
script(sigma_data=-1)
command('maps --images -1 --steps 1')
command('maps --seed -1 --images 1 --steps 1')
command('maps --lr nan --images 1 --steps 1')
command('maps --noise 0 0 --images 1 --steps 1')
command('maps --out /dev/null/a --images 1 --steps 1')
"""
