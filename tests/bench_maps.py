"""What coordination costs beyond the base model: step time over the time of one base call on the same parts; and what
a plain loop over the parts costs.

    python tests/bench_maps.py [--preset tiny] [--sizes 96 128 256] [--batch 2] [--device cpu]

Run by hand; nothing in the tests depends on time. Networks are untrained: time does not depend on weights.
All are timed in turn, round after round, and the median of the ratios is printed.
"""

import argparse
import statistics
import time
import warnings

import torch

import dde_kit as dde
from dde_kit.baselines import per_part
from dde_kit.maps import PRESETS, build
from dde_kit.scaling import Loop


def timed(f, device):
    if device != "cpu":
        torch.cuda.synchronize()
    t = time.perf_counter()
    f()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - t


def main():
    warnings.filterwarnings("ignore")
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--preset", default="tiny", choices=list(PRESETS))
    ap.add_argument("--sizes", type=int, nargs="+", default=[96, 128, 256])
    ap.add_argument("--batch", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = ap.parse_args()
    p = PRESETS[a.preset]
    base = dde.EDMDenoiser(build(p, "base"), p.sigma_data, p.sigma_skip).to(a.device).eval()
    F = dde.Tiling(p.patch, p.stride)
    multi, loop, comp = (
        dde.MultiDiffusion(base, F),
        Loop(base, F),
        dde.DDE(base, F, build(p, "coordinator")).to(a.device).eval(),
    )
    print(
        f"{a.preset}, batch {a.batch}, {a.device}, {torch.get_num_threads()} threads\n{'N':>5} {'parts':>6}"
        f" {'base call':>10} {'MultiDiffusion':>15} {'DDE':>6} {'loop':>6}"
    )
    for N in a.sizes:
        x, y, s = (
            torch.randn(a.batch, 3, N, N, device=a.device),
            torch.randn(a.batch, 3, N, N, device=a.device),
            torch.ones(a.batch, device=a.device),
        )
        layout = F.layout((N, N))
        parts, maps = layout.split(x), layout.split_y(y)
        calls = [
            lambda: per_part(base, parts, s, maps),
            lambda: multi(x, s, y),
            lambda: comp(x, s, y),
            lambda: loop(x, s, y),
        ]
        with torch.inference_mode():
            for f in calls:
                f()
            rounds = [[timed(f, a.device) for f in calls] for _ in range(a.rounds)]
        b, m, d, l = (statistics.median(r[i] / r[0] for r in rounds) for i in range(4))
        print(f"{N:>5} {layout.L:>6} {statistics.median(r[0] for r in rounds):>9.4f}s {m:>15.3f} {d:>6.3f} {l:>6.2f}")


if __name__ == "__main__":
    main()
