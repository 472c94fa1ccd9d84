"Metrics and the cost of a run."


def names(tmp):
    import math
    import zipfile

    import numpy as np
    import pandas as pd
    import torch

    from dde_kit import metrics, scaling
    from dde_kit.baselines import MultiDiffusion
    from dde_kit.decomposition import Tiling
    from dde_kit.denoising import EDMDenoiser

    g = torch.Generator().manual_seed(0)
    (tmp / "file").write_text("no folder", encoding="utf-8")
    (tmp / "text.npz").write_text("no archive", encoding="utf-8")
    np.savez(tmp / "a.npz", x=np.zeros((2, 3)), things=np.array([{}], dtype=object), words=np.array(["a"]))
    np.savez(tmp / "complex.npz", x=np.zeros(3) * 1j)
    with zipfile.ZipFile(tmp / "giant.npz", "w", zipfile.ZIP_DEFLATED) as z:
        with z.open("x.npy", "w") as f:
            header = dict(descr="|u1", fortran_order=False, shape=(10**12, 3, 64, 64))
            np.lib.format.write_array_header_1_0(f, header)
    D = EDMDenoiser(torch.nn.Identity())
    return dict(
        vars(metrics) | vars(scaling),
        np=np,
        torch=torch,
        inf=math.inf,
        nan=math.nan,
        tmp=tmp,
        a=torch.randn(40, 4, generator=g),
        v=np.arange(40.0),
        im=torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        lab=torch.zeros(2, 16, 16).long(),
        net=metrics.Extractor(metrics.FeatureNet(8, 8, 2), "kit-small", "FID"),
        table=pd.DataFrame(dict(FID=[metrics.Interval(1, 0, 2)])),
        tiling=Tiling(8, 4),
        D=D,
        x=torch.zeros(1, 3, 8, 8),
        s=torch.ones(1),
        Loop=MultiDiffusion,
    )


LINES = """
as_numbers(None, 'Values')  # real numbers
as_numbers('abc', 'Values')
as_numbers([1j], 'Values')  # complex
as_features(None)
as_features('a')
as_features(torch.zeros(3, 2) * 1j)  # complex
as_features(torch.zeros(3))  # one row per picture
as_features(torch.zeros(3, 0))  # at least one feature
as_features(torch.zeros(0, 3))  # at least 2
as_features(torch.full((3, 2), inf))  # 3 of 3 rows
moments(torch.zeros(3))
moments(None)
frechet_distance(a, a[:, :3])  # 4 and 3
frechet_distance(a, None)
frechet_distance(a[:1], a)
kid(a, a * nan)
kid(a[0], a)
fid_influence(a, [1.0])
kid_influence(a, a[:, :2])
mean_influence([])  # nothing to average
mean_influence([1.0, inf])  # infinite
mean_influence([1.0])  # at least 2
mean_influence(np.ones((3, 2)))  # one number per picture
mean_influence(['a'])
counts_of(0, 10, 0)
counts_of(10, 0, 0)
counts_of(10, 10, -1)
counts_of(10, 1.5, 0)
bootstrap('is', a, a)  # fid, kid, mean
bootstrap(None, a, a)
bootstrap('fid', a)  # give b
bootstrap('kid', a)
bootstrap('fid', a, a, level=95)  # 0.95 is usual
bootstrap('fid', a, a, level=0)
bootstrap('fid', a, a, level=1)
bootstrap('fid', a, a, level=nan)
bootstrap('fid', a, a, n=0)
bootstrap('fid', a, a, n=10)  # at least 40
bootstrap('fid', a, a, n=100.0)
bootstrap('fid', a, a, level=0.999, n=1000)  # at least 2000
bootstrap('fid', a, a, seed=-1)
bootstrap('fid', a, a, seed=0.5)
bootstrap('fid', a, a, reals='all')
bootstrap('mean', v, reals='resampled')  # give b
bootstrap('mean', a)
bootstrap('mean', [1.0, inf] * 20)  # infinite
bootstrap('mean', [3.0])
compare('fid', a, a)  # give b
compare('fid', a, a, a, how='quotient')
compare('fid', a, a, a, level=95)
compare('fid', a, a, a, n=1)
compare('fid', a, a, a, seed=-3)
compare('fid', a, a, a, paired='yes')
compare('fid', a, a[:20], a, paired=True)  # paired=False
compare('mean', v, v, reals=None)
compare('mean', v, a)
fid_curve(a, a, [])  # counts is empty
fid_curve(a, a, [1])
fid_curve(a, a, [41])
fid_curve(a, a, [2.5])
fid_curve(a, a, [4], repeats=0)
fid_curve(a, a, [4], seed=-1)
to_uint8(None)
to_uint8('picture')
to_uint8(torch.full((1, 3, 4, 4), inf))  # NaN or infinity
to_uint8(torch.full((1, 3, 4, 4), nan))
to_uint8(torch.zeros(4, 4))  # shape (4, 4)
to_uint8(torch.ones(1, 3, 4, 4, 4))
to_uint8(torch.rand(1, 3, 4, 4) * 255)  # 8-bit levels
to_uint8(torch.zeros(1, 3, 4, 4, dtype=torch.int16))  # int16
to_uint8(torch.zeros(1, 3, 4, 4) * 1j)
to_uint8(torch.zeros(1, 3, 4, 4, dtype=torch.bool))
to_uint8(torch.zeros(1, 3, 4, 4), truncate='no')
unit(torch.rand(1, 3, 4, 4))  # uint8
unit(np.zeros((1, 3, 4, 4)))
unit(None)
unit(torch.zeros(1, 3, 4, 4, dtype=torch.int64))
FeatureNet(width=0)
FeatureNet(d=2.5)
FeatureNet(n_targets=-1)
feature_loss(net.net, torch.zeros(2, 3, 299, 299), torch.zeros(2))
feature_loss(net.net.eval(), torch.zeros(1, 3, 299, 299), torch.zeros(1, 2))  # at least 2
feature_loss(net.net, torch.zeros(2, 3, 299, 299), torch.zeros(2, 2), white=-1)
train_features(lambda i: None, net.net, steps=0)
train_features(lambda i: None, net.net, lr=nan)
train_features(lambda i: None, net.net, weight_decay=-1)
resize299(torch.full((1, 3, 8, 8), nan))
checksum('a')
Extractor(None, 'a', 'b')
Extractor(lambda x: x, 'a', 'b')
save_feature_net(None, tmp / 'a.safetensors')
save_feature_net(net.net, tmp / 'file' / 'a.safetensors')  # cannot be written
load_feature_net(tmp / 'none.safetensors')
load_feature_net(tmp / 'file')
load_inception(tmp / 'none')
extractor('vgg')  # random features
extractor(None)
extractor('random features', seed=-1)
extractor('kit-small', weights=tmp / 'none')
features(torch.zeros(0, 3, 8, 8), net)
features(torch.zeros(1, 1, 8, 8), net)
features(None, net)
features(im, None)
features(im, net, batch=0)
features(im.float() * nan, net)
borders(None)
borders(tiling)  # give its size
borders(tiling, 96)
seam(im, None)
seam(im, ([], []))  # No borders
seam(im, ([0], []))
seam(im, ([16], []))
seam(im, ([2.5], []))
seam(im[0], ([2], []))
seam(im[:0], ([2], []))
luminance(im[0])
luminance(None)
agreement(im, lab, 'brightness')
agreement(im, lab.float())  # integers
agreement(im, lab[:1])
agreement(im, None)
agreement(im[:, :1], lab)
agreement(im, lab, least=2)
agreement(im, lab, edges=0)
agreement(im, lab, classes=[-1])
agreement(im, lab, classes=[0.5])
agreement(im[:, :, :2, :2], lab[:, :2, :2])  # quarters
closed(v, v, [inf] * 40)
closed(v, v, None)
closed(v, v + 1, v - 1, level=95)
closed(v, v + 1, v - 1, n=0)
closed(v, v + 1, v[:9], paired=True)
closed(v, v + 1, v - 1, paired=1)
wilson(1, 0)
wilson(-1, 10)
wilson(11, 10)
wilson(0.5, 10)
wilson(1, 10, level=95)
wilson(None, 10)
caution(None)
read_arrays(tmp / 'none.npz', 'x')  # no dataset
read_arrays(tmp, 'x')  # a folder
read_arrays(tmp / 'text.npz', 'x')  # not a readable
read_arrays(tmp / 'a.npz', 'y')  # 'y' are needed
read_arrays(tmp / 'a.npz', 'things')  # Python objects
read_arrays(tmp / 'a.npz', 'words')  # numbers are needed
read_arrays(tmp / 'complex.npz', 'x')
read_arrays(tmp / 'giant.npz', 'x')  # it claims
check_folder(tmp / 'file' / 'below')
check_folder(None)
save_run(tmp / 'run', None, None, {})
save_run(tmp / 'run', table, None, {})  # a figure
save_run(tmp / 'run', table, type('Figure', (), dict(savefig=print)), dict(x=print))  # JSON
save_run(tmp / 'file' / 'run', table, type('Figure', (), dict(savefig=print)), {})
flops(None, x, s)
flops(D, x.long(), s)
flops(D, x, torch.ones(2))  # a noise level per row
seconds(D, x, s, repeats=0)
seconds(D, None, s)
seconds(D, x, None)
clock('gpu')
race({})
race(dict(a=1))
race(dict(a=print), repeats=0)
matmul_rate(n=0)
matmul_rate(repeats=0)
peak_bytes(None)
peak_bytes(print, 'toaster')
peak(D, x[0], s)
calls_of({})
calls_of(None)
predict(None, (1, 3, 8, 8))
predict(D, 8)
predict(D, (1, 3, 0))
predict(D, (1, 3, 8.5))
predict(D, (0, 3, 8))
predict(D, (1, 3, 8, 8), repeats=0)
predict(D, (1, 3, 8, 8), probe=8)
predict(D, (1, 3, 8, 8), probe=(9, 9))
predict(D, (2, 3, 8, 8), torch.zeros(1))
"""
