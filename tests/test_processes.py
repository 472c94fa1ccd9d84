"One process against two, pieces against the whole, and scripts that are started, stopped and killed."

import os
import random
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from accelerate.tracking import GeneralTracker

from dde_kit.coordinator import DDE
from dde_kit.decomposition import Tiling
from dde_kit.denoising import denoising_loss
from dde_kit.training import fit, locked, read_whole, sample_many, share
from test_training import NOISE, data, denoiser, same, stop_at, weights

HERE = Path(__file__).parent
OPTS = dict(
    noise=NOISE, steps=30, batch=6, lr=3e-3, clip=0.5, every=10, held=data, held_batches=3, progress=False, cpu=True
)


def close(a, b, **kw):
    assert a.keys() == b.keys()
    for k in a:
        torch.testing.assert_close(a[k], b[k], **(dict(rtol=1e-4, atol=1e-5) | kw))


def clockless(log):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in log]


class Corrected(nn.Module):
    "A composite in little: a frozen base, and a linear coordinator."

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        nn.init.zeros_(self.lin.weight)

    def forward(self, parts, sigma, y, F):
        return parts + self.lin(parts)


def composite(seed=0):
    D = denoiser(seed, width=7)
    D.net.b, D.net.a = nn.Linear(7, 4), nn.Linear(5, 7)
    return DDE(D, Tiling(4, 2), Corrected())


# --- several processes ----------------------------------------------------------------------------------------------

SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
import dde_kit.training as T
from test_processes import *
out,what = Path(sys.argv[2]),sys.argv[3]
torch.manual_seed(0)

def noisy(D, x0, y, g, rows=None):
    "A loss that draws from its generator, with and without `rows`."
    i,n = rows
    return (D(x0 + torch.randn((n, *x0.shape[1:]), generator=g)[i:i+len(x0)], torch.ones(len(x0))) - x0).square().mean()

if what == 'fit':
    D = denoiser(int(os.environ.get('RANK', 0))) # other initial weights in each process: those of the first count
    log = fit(D, data, out=out/'run', **OPTS)
    C = composite(); C_log = fit(C, data, **OPTS, accumulate=2, keep='best')
    N = denoiser(3); N_log = fit(N, data, **OPTS | dict(noise=None, held=None, loss=noisy))
    x = sample_many(D, 7, (1, 8), seed=4, batch=2, steps=6, S_churn=3.)
    one = sample_many(D, 1, (1, 8), seed=4, steps=6, S_churn=3.) # fewer samples than processes
    if T.team()[0] == 0:
        tensors = {f'{n}/{k}': p for n,m in dict(D=D, C=C.C, N=N).items() for k,p in m.named_parameters()}
        logs = [clockless(l) for l in (log, C_log, N_log)]
        T.save_whole(tensors | dict(x=x, one=one), out/'got.safetensors', dict(logs=logs, team=T.team()[1]))
if what == 'stop':
    try: fit(denoiser(), stop_at(17), out=out/'run', **OPTS)
    except KeyboardInterrupt: pass
if what == 'second':
    try: fit(denoiser(), data, out=out/'run', **OPTS)
    except ValueError as e: (out/f'second{T.team()[0]}').write_text(str(e))
if what == 'nan':
    def bad(g, n): # one row, of the first process
        x0,y = data(g, n); x0[0] *= float('nan') if g.initial_seed() == 13 else 1
        return x0,y
    try: fit(denoiser(), bad, out=out/'run', **OPTS)
    except FloatingPointError as e: (out/f'nan{T.team()[0]}').write_text(str(e))
"""


def launch(processes, out, what):
    "Run the script in so many processes."
    (out / "script.py").write_text(SCRIPT)
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        out / "script.py",
        HERE,
        out,
        what,
    ]
    for again in (True, False):
        r = subprocess.run(
            run,
            capture_output=True,
            text=True,
            env=os.environ | dict(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"),
            timeout=300,
        )
        if not (again and "terminate called without an active exception" in r.stderr):
            break
        warnings.warn("a process was aborted at its end; once more")
        # a thread of gloo has met the end of Python, after the script: seen once in forty runs
        shutil.rmtree(out / "run", ignore_errors=True)
    assert r.returncode == 0, r.stdout + r.stderr


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "What one process and what two processes make of the same script."
    got = []
    for k in (1, 2):
        out = tmp_path_factory.mktemp(f"with{k}")
        launch(k, out, "fit")
        got.append(read_whole(out / "got.safetensors") + (out,))
    return got


@pytest.mark.skipif(torch.accelerator.is_available(), reason="processes share an accelerator")
def test_processes_find_each_other_without_being_told_of_the_cpu(tmp_path):
    (tmp_path / "script.py").write_text("from dde_kit.training import team\nprint(team())\n")
    env = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"} | dict(OMP_NUM_THREADS="1")
    r = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            tmp_path / "script.py",
        ],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert "(0, 2)" in r.stdout and "(1, 2)" in r.stdout, r.stdout + r.stderr


def test_two_processes_are_one(both):
    (a, facts, _), (b, facts2, _) = both
    assert (facts["team"], facts2["team"]) == (1, 2)
    close(a, b)
    for l, l2 in zip(facts["logs"], facts2["logs"]):
        assert len(l) == len(l2) and [r["step"] for r in l] == [r["step"] for r in l2]
        for r, r2 in zip(l, l2):
            for k in r:
                assert r[k] is r2[k] is None or abs(r[k] - r2[k]) < 1e-5 * (1 + abs(r[k])), (k, r, r2)
    assert a["x"].shape == (7, 1, 8)
    torch.testing.assert_close(a["x"][:1], a["one"], rtol=1e-4, atol=1e-5)


def test_a_run_changes_hands(both, tmp_path):
    "Begun in two processes, stopped, ended in one: up to rounding the run that nobody stopped."
    launch(2, tmp_path, "stop")
    assert read_whole(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 10
    D = denoiser(9)
    fit(D, data, out=tmp_path / "run", **OPTS)
    whole = both[0][0]
    close({f"D/{k}": p for k, p in weights(D).items()}, {k: v for k, v in whole.items() if k[0] == "D"})


def test_nan_in_one_process_stops_all(tmp_path):
    launch(2, tmp_path, "nan")
    texts = [(tmp_path / f"nan{k}").read_text() for k in (0, 1)]
    assert texts[0] == texts[1] and "at step 13." in texts[0] and "after step 10" in texts[0]


def test_all_processes_are_told_that_another_run_is_there(tmp_path):
    with locked(tmp_path / "run"):
        launch(2, tmp_path, "second")
    texts = [(tmp_path / f"second{k}").read_text() for k in (0, 1)]
    assert texts[0] == texts[1] and f"in use by another run (process {os.getpid()} on" in texts[0]


# --- pieces, precision, compilation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [denoiser, composite])
@pytest.mark.parametrize("m", [2, 4, 6])
def test_pieces_are_the_batch(make, m):
    "Pieces of 3 rows, of 1 or 2, and single rows: the batch that is twice, four and six times as large."
    a, b = make(), make()
    log, log2 = fit(a, data, **OPTS), fit(b, data, **OPTS, accumulate=m)
    close(weights(a), weights(b))
    assert all(abs(r["held"] - s["held"]) < 1e-4 for r, s in zip(log, log2))


def test_rows_keep_their_noise():
    x0, D = data(torch.Generator().manual_seed(0), 12)[0], denoiser()
    loss = lambda x, **kw: denoising_loss(D, x, None, NOISE, torch.Generator().manual_seed(1), ((4, 0.5),), **kw)
    for cut in ((12,), (5, 7), (1, 1, 10)):
        at = [sum(cut[:i]) for i in range(len(cut))]
        torch.testing.assert_close(sum(loss(x0[i : i + n], rows=(i, 12)) * n / 12 for i, n in zip(at, cut)), loss(x0))


def test_a_loss_without_rows_draws_anew_for_each_piece():
    seen = []

    def own(D, x0, y, g):
        seen.append(torch.randn(1, generator=g).item())
        return D(x0, torch.ones(len(x0))).square().mean()

    fit(denoiser(), data, loss=own, steps=4, batch=6, accumulate=3, progress=False, cpu=True)
    assert len(seen) == len(set(seen)) == 12


@pytest.mark.parametrize(
    "kw,words",
    [
        (dict(accumulate=7), "batch=6 cannot be cut into 7 pieces"),
        (dict(keep="first"), "use one of last, best"),
        (dict(keep="best", held=None), "pass held="),
        (dict(precision="fp16"), "no, bf16, bf16-base"),
        (dict(precision="bf16-base"), "frozen base"),
        (dict(tracker="tensorboard"), "pass out="),
    ],
)
def test_what_cannot_work_is_refused(kw, words):
    with pytest.raises((ValueError, ImportError), match=words):
        fit(denoiser(), data, **OPTS | kw)


@pytest.mark.parametrize("precision", ["bf16", "bf16-base"])
def test_half_precision(precision, tmp_path):
    seen = []
    C, plain = composite(), composite()
    C.D.net.a.register_forward_hook(lambda m, a, r: seen.append(("base", r.dtype)))
    C.C.lin.register_forward_hook(lambda m, a, r: seen.append(("C", r.dtype)))
    fit(C, data, precision=precision, out=tmp_path, **OPTS)
    fit(plain, data, **OPTS)
    bf = torch.bfloat16
    assert set(seen) == {("base", bf), ("C", bf if precision == "bf16" else torch.float32)}
    assert {p.dtype for p in C.parameters()} == {torch.float32} and "forward" not in vars(C.D)
    close(weights(C), weights(plain), rtol=0.1, atol=0.02)
    with pytest.raises(ValueError, match="precision"):
        fit(composite(), data, out=tmp_path, **OPTS)
    seen.clear()
    C(torch.randn(1, 1, 8), torch.ones(1))
    assert {d for _, d in seen} == {torch.float32}


def test_base_leaves_nothing_for_the_backward_pass():
    C, kept = composite(), []
    C.train()
    assert not C.D.training
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        C(torch.randn(3, 1, 8), torch.ones(3)).sum().backward()
    assert kept and not any(7 in t.shape for t in kept)  # the base is 7 wide, and nothing else is
    assert all(p.grad is None for p in C.D.parameters()) and C.C.lin.weight.grad is not None


@pytest.mark.parametrize("make", [denoiser, composite])
def test_compiled(make):
    a, b = make(), make()
    opts = OPTS | dict(steps=5, every=5)
    fit(a, data, **opts)
    fit(b, data, compile=dict(backend="aot_eager"), **opts)
    close(weights(a), weights(b))
    assert all(m._compiled_call_impl is None for m in b.modules())


# --- the best weights, trackers -------------------------------------------------------------------------------------


def rote(g, n):
    return data(torch.Generator().manual_seed(0), 4)[0][torch.randint(4, (n,), generator=g)], None


@pytest.mark.parametrize("ema", [True, False])
def test_best_weights(ema, tmp_path):
    opts = OPTS | dict(steps=100, ema=ema, lr=1e-2)
    D, last = denoiser(), denoiser()
    log = fit(D, rote, keep="best", out=tmp_path, **opts)
    fit(last, rote, **opts)
    scores = {r["step"]: r["held" if ema else "held_raw"] for r in log if "held_raw" in r}
    assert min(scores.values()) < scores[100] and not same(weights(D), weights(last))
    now = fit(D, data, keep="best", **opts | dict(steps=1, lr=1e-30))[
        0
    ]  # before its first step: what was kept, judged again
    assert abs(now["held_raw"] - min(scores.values())) < 1e-6
    again = denoiser(9)
    fit(again, rote, keep="best", out=tmp_path, **opts)
    assert same(weights(again), weights(D))
    with pytest.raises(ValueError, match="keep"):
        fit(denoiser(), rote, out=tmp_path, **opts)


@pytest.mark.parametrize("stop", [1, 37, 100])
def test_best_weights_survive_a_stop(stop, tmp_path):
    opts = OPTS | dict(steps=100, lr=1e-2, keep="best")
    D, E = denoiser(), denoiser()
    log = fit(D, rote, **opts)
    with pytest.raises(KeyboardInterrupt):
        fit(denoiser(), stop_at(stop, rote), out=tmp_path, **opts)
    assert clockless(fit(E, rote, out=tmp_path, **opts)) == clockless(log) and same(weights(D), weights(E))


def test_stopped_at_random_steps_in_pieces(tmp_path):
    "Stopped again and again, each time in another number of pieces; with one number it is bit for bit."
    D = denoiser()
    fit(D, data, accumulate=3, **OPTS)
    rng = random.Random(1)
    for k in range(6):
        try:
            fit(denoiser(), stop_at(rng.randint(4, 9)), accumulate=3, out=tmp_path / "same", **OPTS | dict(every=1))
        except KeyboardInterrupt:
            pass
        try:
            fit(
                denoiser(), stop_at(rng.randint(4, 9)), accumulate=k + 1, out=tmp_path / "other", **OPTS | dict(every=1)
            )
        except KeyboardInterrupt:
            pass
    E, G = denoiser(), denoiser()
    fit(E, data, accumulate=3, out=tmp_path / "same", **OPTS | dict(every=1))
    fit(G, data, out=tmp_path / "other", **OPTS | dict(every=1))
    assert same(weights(D), weights(E))
    close(weights(D), weights(G))


class Notes(GeneralTracker):
    name, requires_logging_directory = "notes", False

    def __init__(self):
        super().__init__()
        self.rows, self.done = [], False

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        pass

    def log(self, values, step, **kw):
        self.rows.append(dict(step=step) | values)

    def finish(self):
        self.done = True


def test_tracker_gets_the_log(tmp_path):
    notes = Notes()
    log = fit(denoiser(), data, tracker=notes, out=tmp_path, **OPTS)
    assert notes.done and notes.rows == [{k: v for k, v in r.items() if v is not None} for r in log]


def test_absent_tracker_is_named(tmp_path, monkeypatch):
    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [])
    with pytest.raises(ImportError, match="pip install tensorboard"):
        fit(denoiser(), data, tracker="tensorboard", out=tmp_path, **OPTS)


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_samples_do_not_depend_on_the_batch(batch):
    D, y = denoiser().eval(), torch.arange(5.0)
    kw = dict(seed=2, steps=5, S_churn=2.0)
    torch.testing.assert_close(
        sample_many(D, 5, (1, 8), y, batch=batch, **kw),
        sample_many(D, 5, (1, 8), y, batch=5, **kw),
        rtol=1e-4,
        atol=1e-5,
    )
    got = sample_many(D, 5, (1, 8), y, batch=batch, finish=lambda x: (255 * x).clamp(0, 255).to(torch.uint8), **kw)
    assert got.dtype == torch.uint8 and len(got) == 5


@pytest.mark.parametrize("n", range(8))
def test_shares_are_all_and_nearly_equal(n):
    for of in range(1, 6):
        s = [share(n, k, of) for k in range(of)]
        assert [i for r in s for i in r] == list(range(n)) and max(map(len, s)) - min(map(len, s)) <= 1


# --- killed, again and again ----------------------------------------------------------------------------------------

CHILD = textwrap.dedent("""
    "A run in pieces that keeps its best weights, in forked children that are killed until one of them comes through."
    import signal, sys, time; sys.path.insert(0, sys.argv[1])
    from test_processes import *
    torch.set_num_threads(1)
    out,rng,kills,seen = Path(sys.argv[2]),random.Random(3),0,[0]
    opts = OPTS | dict(steps=400, every=2, held_batches=1, accumulate=2, keep='best')
    big = lambda: denoiser(width=2000) # writing takes as long as a few steps
    fit(big(), data, **opts | dict(steps=1)) # everything is imported before the forks
    while kills < 20:
        pid = os.fork()
        if not pid: fit(big(), data, out=out, **opts); os._exit(0)
        time.sleep(rng.uniform(.05, .8)); os.kill(pid, signal.SIGKILL)
        if os.WIFEXITED(os.waitpid(pid, 0)[1]): break
        kills += 1
        f = out/'checkpoint.safetensors'
        seen.append(read_whole(f)[1]['step'] if f.exists() else 0) # whole, or not there
    assert seen == sorted(seen) and seen[-1] > 0, seen
    D,E = big(),big(); log = fit(D, data, out=out, **opts); log2 = fit(E, data, **opts)
    assert same(weights(D), weights(E)) and clockless(log) == clockless(log2)
    print(f'{kills} kills, at steps {seen}')
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_twenty_times(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    r = subprocess.run(
        [sys.executable, tmp_path / "child.py", HERE, tmp_path / "run"],
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert r.returncode == 0, r.stdout + r.stderr
    print(r.stdout)
