"Training against a plain loop written anew, and against SIGKILL."

import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from dde_kit.denoising import EDMDenoiser, LogNormal
from dde_kit.training import EMA, fit, read_whole, save_whole, stream, trainable

NOISE = LogNormal(-1.0, 1.2)
OPTS = dict(
    noise=NOISE, steps=130, batch=8, lr=3e-3, schedule="cosine", warmup=10, clip=0.5, every=40, progress=False, cpu=True
)


class Net(nn.Module):
    def __init__(self, width=24, dropout=0.0):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(9, width), nn.Linear(width, 8), nn.Dropout(dropout)
        self.unused = nn.Parameter(torch.ones(3))  # never gets a gradient

    def forward(self, x, c, y):
        return self.b(self.drop(self.a(torch.cat([x, c[:, None, None]], -1)).tanh()))


def denoiser(seed=0, **kw):
    torch.manual_seed(seed)
    return EDMDenoiser(Net(**kw), 0.5)


def data(g, n):
    return 0.5 * torch.randn(n, 1, 8, generator=g).cumsum(-1) / 2, None


def weights(D):
    return {k: p.detach().clone() for k, p in D.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stop_at(n, source=data):
    "A source that ends the run in its n-th batch; single objects, by which a run knows its data, do not count."
    calls = iter(range(n - 1))

    def f(g, b):
        if b > 1 and next(calls, None) is None:
            raise KeyboardInterrupt
        return source(g, b)

    return f


def plain(D, steps, batch, lr, warmup, clip, seed=0, pool=None):
    "The same training in one function: loss, clipping, Adam, cosine and average written out."
    ps = list(D.parameters())
    mean = [p.detach().clone() for p in ps]
    opt = torch.optim.Adam(ps, lr=lr)
    for t in range(steps):
        opt.param_groups[0]["lr"] = lr * (
            (t + 1) / warmup if t < warmup else 0.5 * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup)))
        )
        g = torch.Generator().manual_seed((t + 0x9E3779B9 * seed) % 2**32)
        x0, _ = data(g, batch)
        sigma = (NOISE.mean + NOISE.std * torch.randn(batch, generator=g)).exp()
        s, eps = sigma[:, None, None], torch.randn(x0.shape, generator=g)
        r = (D(x0 + s * eps, sigma) - x0) * (s**2 + 0.25).sqrt() / (s * 0.5)
        loss = r.square().mean() + (
            0 if pool is None else pool[1] * pool[0] * r.unflatten(-1, (-1, pool[0])).mean(-1).square().mean()
        )
        opt.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(ps, clip)
        opt.step()
        if (t + 1) % 10 == 0:
            k = (t + 1 - 100) / 10
            d = 1 - (1 + k) ** (-2 / 3) if k > 0 else 0.0
            for m, p in zip(mean, ps):
                m.lerp_(p.detach(), 1 - d)
    return dict(zip([k for k, _ in D.named_parameters()], mean))


@pytest.mark.parametrize("seed", [0, 3])
def test_equals_a_plain_loop(seed):
    D = denoiser()
    fit(D, data, seed=seed, **OPTS)
    assert same(weights(D), plain(denoiser(), 130, 8, 3e-3, 10, 0.5, seed))


def test_pooled_terms_equal_a_plain_loop():
    D = denoiser()
    fit(D, data, pools=((4, 0.5),), **OPTS)
    want = plain(denoiser(), 130, 8, 3e-3, 10, 0.5, pool=(4, 0.5))
    for k, v in weights(D).items():
        torch.testing.assert_close(v, want[k], rtol=1e-4, atol=1e-5)


def test_seeds_differ():
    firsts = {
        stream(s, i, u).initial_seed() for s in range(50) for i in range(200) for u in ("train", "network", "held")
    }
    assert len(firsts) == 50 * 200 * 3
    values = {torch.randn(1, generator=stream(s, 0)).item() for s in range(20)}
    assert len(values) == 20  # a seed in the upper 32 bits would be ignored


@pytest.mark.parametrize(
    "stop,ema", [(1, True), (2, False), (41, True), (80, False), (81, dict(unit=1, start=20)), (129, True)]
)
def test_stopped_anywhere_and_resumed(tmp_path, stop, ema):
    opts = OPTS | dict(ema=ema, held=data, held_batches=2)
    whole = denoiser(dropout=0.2)
    log = fit(whole, data, **opts)
    with pytest.raises(KeyboardInterrupt):
        fit(denoiser(dropout=0.2), stop_at(stop), out=tmp_path, **opts)
    torch.randn(7)  # somebody else draws from the global stream in between
    again = denoiser(seed=9 if stop > 40 else 0, dropout=0.2)  # from step 40 on the checkpoint decides
    log2 = fit(again, data, out=tmp_path, **opts)
    assert same(weights(whole), weights(again))
    drop = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert drop(log) == drop(log2)
    assert (
        fit(denoiser(seed=9, dropout=0.2), stop_at(1), out=tmp_path, **opts) == log2
    )  # finished: no data are asked for


def test_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    want = torch.randn(3)
    D = denoiser(dropout=0.2)
    torch.manual_seed(5)
    fit(D, data, **OPTS | dict(steps=3))
    assert torch.equal(torch.randn(3), want)


def test_held_out_loss_does_not_change_training():
    a, b = denoiser(dropout=0.2), denoiser(dropout=0.2)
    fit(a, data, **OPTS)
    log = fit(b, data, held=data, held_batches=2, **OPTS)
    assert same(weights(a), weights(b))
    rows = [r for r in log if "held" in r]
    assert [r["step"] for r in rows] == [0, 40, 80, 120, 130] and rows[0]["held"] == rows[0]["held_raw"] > rows[-1][
        "held"
    ]


def test_drawing_ahead_changes_nothing(tmp_path):
    "A thread that draws the next batch: the same weights, also after a stop, and errors of the data arrive."
    a, b = denoiser(dropout=0.2), denoiser(dropout=0.2)
    fit(a, data, held=data, held_batches=2, **OPTS)
    with pytest.raises(KeyboardInterrupt):
        fit(denoiser(dropout=0.2), stop_at(60), held=data, held_batches=2, ahead=True, out=tmp_path, **OPTS)
    fit(b, data, held=data, held_batches=2, ahead=True, out=tmp_path, **OPTS)
    assert same(weights(a), weights(b))


def test_frozen_base_stays_out(tmp_path):
    class Sum(nn.Module):
        sigma_data = 0.5

        def __init__(self):
            super().__init__()
            self.base, self.C = denoiser(1).requires_grad_(False), denoiser(2)

        def forward(self, x, sigma, y=None):
            return self.base(x, sigma, y) + self.C(x, sigma, y)

    D = Sum()
    before, C = weights(D.base), weights(D.C)
    fit(D, data, out=tmp_path, **OPTS)
    assert same(weights(D.base), before) and not same(weights(D.C), C)
    tensors, _ = read_whole(tmp_path / "checkpoint.safetensors")
    assert tensors and not any("base" in k for k in tensors)
    assert all(k.startswith("C.") for k in trainable(D))
    assert not any(p.grad is not None for p in D.base.parameters())


@pytest.fixture
def finished(tmp_path):
    fit(denoiser(), data, out=tmp_path, **OPTS)
    return tmp_path


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(lr=1e-3), "lr: 0.003 there, 0.001 here"),
        (dict(seed=4), "seed: 0 there, 4 here"),
        (dict(pools=((4, 1.0),)), "pools"),
        (dict(noise=LogNormal(0.0, 1.2)), "noise"),
        (dict(ema=False), "ema"),
        (dict(ema=dict(unit=1)), "ema"),
    ],
)
def test_other_settings_are_refused(finished, change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        fit(denoiser(), data, out=finished, **OPTS | change)


def test_other_model_is_refused_and_left_alone(finished):
    D = denoiser(seed=7, width=25)
    before = weights(D)
    with pytest.raises(ValueError, match="another model"):
        fit(D, data, out=finished, **OPTS)
    assert same(before, weights(D))


@pytest.mark.parametrize("keep", [0, 7, 100, 3000, -1])
def test_cut_file_is_refused(finished, keep):
    f = finished / "checkpoint.safetensors"
    f.write_bytes(f.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged"):
        fit(denoiser(), data, out=finished, **OPTS)


def test_foreign_file_is_refused(tmp_path):
    save_whole(dict(a=torch.ones(2)), tmp_path / "checkpoint.safetensors", dict(some="thing"))
    with pytest.raises(ValueError):
        fit(denoiser(), data, out=tmp_path, **OPTS)


def test_nan_names_step_levels_and_checkpoint(tmp_path):
    def bad(g, n):
        x0, y = data(g, n)
        return (x0 * float("nan"), y) if g.initial_seed() == 57 else (x0, y)

    with pytest.raises(FloatingPointError) as e:
        fit(denoiser(), bad, out=tmp_path, **OPTS)
    text = str(e.value)
    assert "at step 57." in text and "after step 40" in text and "not finite either" in text
    levels = re.search(r"batch: (.*?)\. Its", text)[1].split(", ")
    g = stream(0, 57)
    data(g, 8)
    assert levels == [f"{s:.3g}" for s in NOISE.sample(8, g).sort()[0].tolist()]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Bomb(torch.autograd.Function):  # the loss stays finite, the gradient does not
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * float("inf")

    class D2(nn.Module):
        sigma_data, calls = 0.5, 0

        def __init__(self):
            super().__init__()
            self.D = denoiser()

        def forward(self, x, sigma, y=None):
            self.calls += 1
            r = self.D(x, sigma, y)
            return Bomb.apply(r) if self.calls == 80 else r

    with pytest.raises(FloatingPointError, match="no longer finite.*after step 40"):
        fit(D2(), data, out=tmp_path, **OPTS | dict(clip=None))
    assert read_whole(tmp_path / "checkpoint.safetensors")[1]["step"] == 40


def test_ema_of_the_authors_code():
    "The decays that the authors' package reaches (k counts steps), and a copy until step 100."
    e = EMA({}, unit=1)
    for n, d in ((7_300, 0.9973), (36_500, 0.9991), (75_000, 0.9994)):
        assert abs(e.weight(n) - d) < 6e-5
    assert e.weight(100) == 0 and e.weight(2_000_000) == 0.9999


def test_ema_applied_restores_after_an_error():
    D = denoiser()
    e = EMA(trainable(D))
    before = weights(D)
    for m in e.mean.values():
        m.add_(1)
    with pytest.raises(RuntimeError):
        with e.applied():
            assert not same(before, weights(D))
            raise RuntimeError
    assert same(before, weights(D))


CHILD = textwrap.dedent("""
    "Train in forked children that are killed, until one of them comes through; then print what was left on the way."
    import os, random, signal, sys, time, torch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[2])
    from test_training import *
    import dde_kit.training as T

    out,rng,opts = Path(sys.argv[1]),random.Random(0),OPTS | dict(steps=300, every=1)
    def big(): return denoiser(width=3000) # a checkpoint takes as long as some steps

    fit(denoiser(), data, **opts | dict(steps=1)) # everything is imported once, before the forks

    def child(work):
        pid = os.fork()
        if pid: return pid
        work(); os._exit(0)

    def die(): os.kill(os.getpid(), signal.SIGKILL)

    def dying(name, n, before=True, half=False):
        "A run that is killed around the n-th call of a function of the module."
        def work():
            calls,f = [0],getattr(T.os, name)
            def g(*a):
                calls[0] += 1
                if calls[0] == n and half: os.truncate(a[0], 4000)
                if calls[0] == n and before: die()
                f(*a)
                if calls[0] == n: die()
            setattr(T.os, name, g)
            fit(big(), data, out=out, **opts)
        return work

    def look():
        "Whatever happened, a checkpoint that is there is whole."
        f = out/'checkpoint.safetensors'
        return T.read_whole(f)[1]['step'] if f.exists() else 0

    steps = []
    deaths = [dict(name='fsync', n=1), dict(name='fsync', n=5), dict(name='replace', n=3)]
    deaths += [dict(name='replace', n=3, half=True), *[dict(name='replace', n=n, before=False) for n in (4, 5)]]
    for k in deaths:
        assert os.WTERMSIG(os.waitpid(child(dying(**k)), 0)[1]) == signal.SIGKILL
        steps.append(look())
    killed = 0
    while killed < 20:
        pid = child(lambda: fit(big(), data, out=out, **opts))
        time.sleep(rng.uniform(0.01, 0.3)); os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        steps.append(look())
        if steps[-1] == 300: break
    assert steps == sorted(steps), steps
    D = big(); fit(D, data, out=out, **opts)
    E = big(); fit(E, data, **opts)
    assert same(weights(D), weights(E))
    assert sorted(p.name for p in out.iterdir() if p.name[0] != '.') == ['checkpoint.safetensors', 'log.csv']
    print('killed', killed, 'steps', steps)
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_any_moment(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    env = os.environ | dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    r = subprocess.run(
        [sys.executable, tmp_path / "child.py", tmp_path / "run", Path(__file__).parent],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert r.returncode == 0, r.stdout + r.stderr
    print(r.stdout)
