"A run that goes on is the same run: its data, its base, its settings, its optimiser, and nobody else in its folder."

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dde_kit as dde
from dde_kit import checks, training
from dde_kit.coordinator import DDE, ViTCoordinator
from dde_kit.decomposition import Tiling
from dde_kit.denoising import EDMDenoiser, LogNormal
from dde_kit.training import EMA, SCHEDULES, data_fingerprint, fit, locked, model_facts, read_whole, save_whole
from test_training import NOISE, data, denoiser, same, stop_at, weights

OPTS = dict(noise=NOISE, steps=40, batch=8, lr=3e-3, every=10, progress=False, cpu=True)


def objects(n, seed=0, size=8):
    "A dataset of n objects, in the way of the domains."
    x = torch.randn(n, 1, size, generator=torch.Generator().manual_seed(seed))
    return lambda g, k: (x[torch.randint(len(x), (k,), generator=g)], None)


def sizes(*lengths):
    "Crops of several lengths, one of which is drawn for each batch."
    x = torch.randn(50, 1, 64, generator=torch.Generator().manual_seed(0))

    def draw(g, n):
        k = lengths[int(torch.randint(len(lengths), (1,), generator=g))]
        return x[torch.randint(len(x), (n,), generator=g)][..., :k], None

    return draw


def composite(base=0, stride=2, **kw):
    torch.manual_seed(5)
    C = ViTCoordinator(1, 2, hidden=16, depth=1, heads=2, ndim=1, **dict(residual=True) | kw)
    D = denoiser(base, width=7)
    D.net.b, D.net.a = nn.Linear(7, 4), nn.Linear(5, 7)
    return DDE(D, Tiling(4, stride), C)


def begun(path, D, source, n=15, **kw):
    "A run that was stopped."
    with pytest.raises(KeyboardInterrupt):
        fit(D, stop_at(n, source), out=path, **OPTS | kw)


def refuses(path, D, source, words, **kw):
    before = (path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match=words) as e:
        fit(D, source, out=path, **OPTS | kw)
    assert (path / "checkpoint.safetensors").read_bytes() == before and "there" in str(e.value)
    assert sorted(p.name for p in path.iterdir()) == ["checkpoint.safetensors", "log.csv"]


# --- data and base --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first,second",
    [
        (objects(64), objects(32)),
        (objects(64), objects(64, seed=1)),
        (objects(64), objects(64, size=16)),
        (sizes(8, 16, 32), sizes(8, 16, 64)),
        (sizes(8, 16, 32, 48, 56, 64), sizes(8, 16, 32, 48, 56, 60)),
        (data, lambda g, n: (data(g, n)[0] * 1.01, None)),
        (data, lambda g, n: (data(g, n)[0], torch.ones(n, 1))),
    ],
)
def test_other_data_are_refused(tmp_path, first, second):
    begun(tmp_path, composite(), first)
    refuses(tmp_path, composite(), second, "other settings .*data")


def test_other_held_out_data_are_refused(tmp_path):
    begun(tmp_path, denoiser(), data, held=objects(64), held_batches=1)
    refuses(tmp_path, denoiser(), data, "held: x0 32 of 1x1x8", held=objects(32), held_batches=1)


def test_data_that_differ_in_the_last_digit_are_the_same(tmp_path):
    "Another machine, or another version, rounds differently."
    begun(tmp_path, denoiser(), data)
    fit(denoiser(), lambda g, n: (data(g, n)[0] * (1 + 3e-7), None), out=tmp_path, **OPTS)


def test_data_that_do_not_follow_from_the_generator_are_refused(tmp_path):
    calls = iter(range(1000))
    with pytest.raises(ValueError, match="draw everything from the generator"):
        fit(denoiser(), lambda g, n: (torch.full((n, 1, 8), float(next(calls))), None), out=tmp_path, **OPTS)
    assert not list(tmp_path.iterdir())
    fit(denoiser(), lambda g, n: (torch.randn(n, 1, 8), None), **OPTS)  # without a folder nothing can go on


def test_silence_of_another_length_is_not_the_same():
    "Nor is it the same as what is no number: neither can be seen in a sum."
    a, b = torch.zeros(3, 1, 8), torch.zeros(3, 1, 16)
    print_of = training.fingerprint
    assert training.same_fingerprint(print_of([a]), print_of([a]))
    assert not training.same_fingerprint(print_of([a]), print_of([b]))
    assert not training.same_fingerprint(print_of([a]), print_of([a / 0]))


def test_looking_at_the_data_disturbs_nothing(tmp_path):
    "Same weights with and without a checkpoint, the caller's random numbers as they were; conditions of NaN are fine."
    a, b = denoiser(dropout=0.2), denoiser(dropout=0.2)
    fit(a, data, **OPTS)
    torch.manual_seed(3)
    want = torch.randn(3)
    torch.manual_seed(3)
    fit(b, data, out=tmp_path, **OPTS)
    assert same(weights(a), weights(b)) and torch.equal(torch.randn(3), want)
    odd = data_fingerprint(lambda g, n: (data(g, n)[0], torch.full((n, 2), float("nan"))))
    assert odd["y"]["odd"] == 64 and json.loads(json.dumps(odd)) == odd


def test_fingerprints_do_not_depend_on_the_process(tmp_path):
    code = (
        "from test_resume import *; print(json.dumps(data_fingerprint(objects(64))), model_facts(composite())['fixed'])"
    )
    env = os.environ | dict(
        PYTHONPATH=f"{Path(dde.__file__).parent.parent}:{Path(__file__).parent}", PYTHONHASHSEED="7"
    )
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert r.returncode == 0, r.stderr
    assert (
        r.stdout.split() == f"{json.dumps(data_fingerprint(objects(64)))} {model_facts(composite())['fixed']}".split()
    )


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(base=1), "fixed"),
        (dict(stride=4), "F.stride: 2 there, 4 here"),
        (dict(residual=False), "C.residual: True there, False here"),
        (dict(time_scale=4.0), "C.time.scale"),
    ],
)
def test_another_base_or_form_is_refused(tmp_path, change, words):
    begun(tmp_path, composite(), data)
    refuses(tmp_path, composite(**change), data, f"another model .*{words}")


def test_another_sigma_data_is_refused(tmp_path):
    begun(tmp_path, denoiser(), data)
    D = denoiser()
    D.sigma_data = 0.4
    refuses(tmp_path, D, data, "model.sigma_data: 0.5 there, 0.4 here")
    D.sigma_data, D.sigma_skip = 0.5, 0.1
    refuses(tmp_path, D, data, "model.sigma_skip: None there, 0.1 here")


def test_numbers_of_numpy_are_numbers(tmp_path):
    begun(tmp_path, denoiser(), data, steps=np.int64(40), lr=np.float64(3e-3), seed=np.int32(0))
    fit(denoiser(), data, out=tmp_path, **OPTS)


def test_facts_of_a_script_are_compared(tmp_path):
    begun(tmp_path, denoiser(), data, facts=dict(start="a"))
    refuses(tmp_path, denoiser(), data, "facts.start: a there, b here", facts=dict(start="b"))


def test_what_does_not_make_another_run_is_accepted(tmp_path):
    "A chunk is a matter of memory, and sampler settings come later."
    begun(tmp_path, composite(), data)
    D = composite()
    D.chunk, D.sampler, D.clamp = 1, dict(steps=3), [-1, 1]
    fit(D, data, out=tmp_path, **OPTS)


# --- one run in a folder --------------------------------------------------------------------------------------------

RUN = """
    import sys, time; sys.path.insert(0, sys.argv[1])
    from test_resume import *
    def slow(g, n):
        if n > 1: print('at work', flush=True); time.sleep(.2)
        return data(g, n)
    fit(denoiser(), slow, out=sys.argv[2], **OPTS | dict(every=1))
"""


def started(path):
    "A run in another process, at work."
    p = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), Path(__file__).parent, path], stdout=subprocess.PIPE, text=True
    )
    assert p.stdout.readline() == "at work\n"
    return p


def test_a_second_run_is_told_at_once_and_a_kill_leaves_no_lock(tmp_path):
    p = started(tmp_path / "run")
    try:
        asked = []
        with pytest.raises(ValueError, match=f"in use by another run .process {p.pid} on"):
            fit(denoiser(), lambda g, n: asked.append(n) or data(g, n), out=tmp_path / "run", **OPTS | dict(every=1))
        assert max(asked) == 1  # not a batch
    finally:
        p.send_signal(signal.SIGKILL)
        p.wait()
    assert (tmp_path / "run/.lock").exists()
    fit(denoiser(), data, out=tmp_path / "run", **OPTS | dict(every=1))
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == ["checkpoint.safetensors", "log.csv"]


def test_lock_in_one_process(tmp_path):
    "Threads are told, nesting is fine, an error gives the lock back, and another folder is nobody's."
    said = []

    def other(folder):
        try:
            with locked(folder):
                said.append("in")
        except ValueError as e:
            said.append(str(e))

    def ask(folder=tmp_path / "a"):
        t = threading.Thread(target=other, args=(folder,))
        t.start()
        t.join()
        return said.pop()

    with pytest.raises(RuntimeError):
        with locked(tmp_path / "a"), locked(tmp_path / "a"):
            assert "in use by another run" in ask() and ask(tmp_path / "b") == "in"
            raise RuntimeError
    assert ask() == "in" and not list(tmp_path.iterdir())


def test_a_child_does_not_keep_the_lock(tmp_path):
    "Killed while a forked child of it lives on."
    code = """
        import os, sys, time
        from dde_kit.training import locked
        with locked(sys.argv[1]):
            if os.fork() == 0: time.sleep(30); os._exit(0)
            print('there', flush=True); time.sleep(30)
    """
    p = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "run"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert p.stdout.readline() == "there\n"
        with pytest.raises(ValueError, match="in use"):
            with locked(tmp_path / "run"):
                pass
        os.kill(p.pid, signal.SIGKILL)
        p.wait()
        with locked(tmp_path / "run"):
            pass
    finally:
        os.killpg(p.pid, signal.SIGKILL)


# --- what a checkpoint says of itself -------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    begun(tmp_path, denoiser(), data)
    return tmp_path / "checkpoint.safetensors"


def go_on(file, words):
    D = denoiser(4)
    before = weights(D)
    with pytest.raises(ValueError, match=words):
        fit(D, data, out=file.parent, **OPTS)
    assert same(before, weights(D))


@pytest.mark.parametrize("at", [0, 3, 20, 0.1, 0.3, 0.5, 0.7, 0.9, -1])
def test_one_turned_bit_is_noticed(stopped, at):
    whole = bytearray(stopped.read_bytes())
    whole[int(at * len(whole)) if isinstance(at, float) else at] ^= 4
    stopped.write_bytes(whole)
    go_on(stopped, "damaged|has no checksum")


def test_a_checkpoint_without_checksum_is_refused(stopped):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(stopped, "pt") as f:
        tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    del meta["checksum"]
    save_file(tensors, stopped, meta)
    go_on(stopped, "written by an earlier version")


def without(prefix):
    return lambda t, m: ({k: v for k, v in t.items() if not k.startswith(prefix)}, m)


def with_facts(**kw):
    return lambda t, m: (t, m | kw)


def replaced(name, f):
    return lambda t, m: (t | {name: f(t[name])}, m)


@pytest.mark.parametrize(
    "change,words",
    [
        (with_facts(step=-3), "at step -3"),
        (with_facts(step=41), "at step 41 of 40"),
        (with_facts(step=10.0), "at step 10.0"),
        (with_facts(step=None), "at step None"),
        (with_facts(loss="low"), "loss is 'low'"),
        (with_facts(seconds=None), "seconds is None"),
        (with_facts(log=None), "no log"),
        (without("opt/"), "memory is not complete"),
        (without("opt/exp_avg_sq/net.a"), "memory is not complete"),
        (without("opt/step/net.b"), "memory is not complete"),
        (lambda t, m: (without("opt/")(t, m)[0], m | dict(opt=[])), "memory is not complete"),
        (replaced("opt/exp_avg/net.a.weight", lambda v: v[:1].clone()), "has the shape"),
        (replaced("opt/exp_avg/net.a.weight", lambda v: v * float("nan")), "not finite"),
        (replaced("model/net.a.weight", lambda v: v * float("inf")), "not finite"),
        (replaced("model/net.a.weight", lambda v: v.half()), "another model"),
        (replaced("ema/net.a.weight", lambda v: (v * 1000).to(torch.int8)), "another model"),
        (without("ema/net.b"), "another model"),
    ],
)
def test_what_cannot_be_right_is_refused(stopped, change, words):
    "With a checksum that is right: written by a program that does not know what belongs in."
    tensors, meta = change(*read_whole(stopped))
    save_whole(tensors, stopped, meta)
    go_on(stopped, words)


# --- what each piece of the loop does -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_in_the_log(name):
    log = fit(denoiser(), data, **OPTS | dict(steps=100, every=50, schedule=name, warmup=100, lr=1e-2))
    assert [r["lr"] for r in log] == pytest.approx([1e-2 * 50 / 100, 1e-2])  # the rates of the steps 49 and 99


def test_warm_up_moves_weights_less():
    a, b, c = denoiser(), denoiser(), denoiser()
    fit(b, data, **OPTS | dict(ema=False, steps=1, warmup=0))
    fit(c, data, **OPTS | dict(ema=False, steps=1, warmup=10))
    far = {k: (v - weights(a)[k]).norm().item() for k, v in weights(b).items()}
    near = {k: (v - weights(a)[k]).norm().item() for k, v in weights(c).items()}
    assert all(near[k] == pytest.approx(far[k] / 10, rel=1e-3) for k in far if far[k]) and any(far.values())


@pytest.mark.parametrize("steps", [1, 9, 24, 99, 100])
def test_the_last_step_is_in_the_average(steps):
    "Until step 100 the average is a copy: of the weights after the last step."
    a, b = denoiser(), denoiser()
    fit(a, data, **OPTS | dict(steps=steps))
    fit(b, data, **OPTS | dict(steps=steps, ema=False))
    assert same(weights(a), weights(b)) and not same(weights(a), weights(denoiser()))


def test_the_last_step_is_averaged_not_copied():
    a, b, raw = denoiser(), denoiser(), denoiser()
    fit(a, data, **OPTS | dict(steps=150))
    fit(b, data, **OPTS | dict(steps=153))
    fit(raw, data, **OPTS | dict(steps=153, ema=False))
    d = EMA({}).weight(153)
    for k, v in weights(b).items():
        torch.testing.assert_close(v, d * weights(a)[k] + (1 - d) * weights(raw)[k])


def test_clip_is_the_largest_norm():
    "With a gradient of almost nothing Adam moves less than its rate, for its epsilon is no longer small."
    far = []
    for clip in (None, 1e3, 1e-9):
        D = denoiser()
        fit(D, data, **OPTS | dict(ema=False, steps=1, clip=clip))
        far.append(sum((v - weights(denoiser())[k]).norm() for k, v in weights(D).items()).item())
    assert far[0] == far[1] > 5 * far[2] > 0


@pytest.mark.parametrize("clip", [-1, 0, float("nan"), float("inf"), True, "1", 1j])
def test_clip_that_is_none_is_refused(clip):
    with pytest.raises(ValueError, match="clip=.* above 0"):
        fit(denoiser(), data, **OPTS | dict(clip=clip))


def test_the_optimisers_memory_is_what_goes_on(stopped):
    "The same weights without the memory of Adam go elsewhere; with it they go where the whole run went."
    D, E = denoiser(4), denoiser()
    fit(D, data, out=stopped.parent, **OPTS)
    fit(E, data, **OPTS)
    assert same(weights(D), weights(E))
    tensors, _ = read_whole(stopped)
    moments = {k: v for k, v in tensors.items() if k.startswith("opt/")}
    assert {k.split("/")[1] for k in moments} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(v == 40 for k, v in moments.items() if k.startswith("opt/step"))


# --- before the work ------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_batch(tmp_path, monkeypatch):
    asked = []

    def counted(g, n):
        asked.append(n)
        return data(g, n)

    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "deep" / "er"):
        with pytest.raises(ValueError, match="is a file"):
            fit(denoiser(), counted, out=out, **OPTS)

    def full(**where):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", full)
    with pytest.raises(ValueError, match="cannot be written: .* does not allow it .No space left"):
        fit(denoiser(), counted, out=tmp_path / "new", **OPTS)
    assert not asked


def test_settings_are_checked_before_the_first_batch():
    with pytest.raises(ValueError, match="`fit` has no setting 'stepz'"):
        training.check_settings(stepz=1)
    D = EDMDenoiser(nn.Linear(8, 8), 0.5)
    D.sigma_data = float("inf")
    with pytest.raises(ValueError, match="sigma_data=inf"):
        fit(D, lambda g, n: pytest.fail("asked for data"), **OPTS)


# --- the environment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text,code", [(" ", 0), ("two", 1)])
def test_world_size_of_nothing_and_of_nonsense(text, code):
    "Empty says nothing, also to Accelerate; nonsense is refused where it counts, in words, and not on import."
    run = "import dde_kit.training as T; from accelerate import PartialState; print('imported')\n"
    run += "print(T.team()); T.accelerator(cpu=True); PartialState(cpu=True)"
    env = os.environ | dict(WORLD_SIZE=text, PYTHONPATH=str(Path(dde.__file__).parent.parent))
    r = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, env=env)
    assert r.returncode == code and "imported" in r.stdout, r.stderr
    assert "(0, 1)" in r.stdout if code == 0 else re.search("ValueError: .*WORLD_SIZE=.* has to be", r.stderr)


@pytest.mark.parametrize("text", ["-1", "0", "1.5", "²", "1 2"])
def test_world_size_that_is_no_number_of_processes(text, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", text)
    for f in (training.team, training.together, lambda: fit(denoiser(), data, **OPTS)):
        with pytest.raises(ValueError, match="WORLD_SIZE=.* has to be the number of processes"):
            f()
    monkeypatch.setenv("WORLD_SIZE", "")
    assert training.team() == (0, 1)


def test_noise_is_described_by_its_numbers():
    assert training.describe(LogNormal(-1.0, 1.2)) == ["LogNormal", dict(mean=-1.0, std=1.2)]
    assert training.describe(None) is None


def test_one_exchanged_image_among_many_is_noticed_by_a_domain(tmp_path):
    "A sample of the data misses it; the checksum of all of them does not."
    from dde_kit.maps import Pairs, drawn, train_part

    pairs = drawn(6, 64)
    options = dict(steps=1, batch=2, every=1, progress=False, cpu=True)
    train_part("base", "tiny", pairs, tmp_path / "base", **options)
    sat = pairs.sat.clone()
    sat[5, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="facts.data"):
        train_part("base", "tiny", Pairs(pairs.map, sat), tmp_path / "base", **options)
    train_part("base", "tiny", pairs, tmp_path / "base", **options)
