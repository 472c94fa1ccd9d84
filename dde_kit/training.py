import json, math, os, time
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from dde_kit.denoising import *

__all__ = ['EMA', 'cosine', 'save_whole', 'fit', 'trainable']

def trainable(model):
    "The parameters that training changes, by name: a frozen base stays out."
    return {k: p for k,p in model.named_parameters() if p.requires_grad}

class EMA:
    "Exponential moving average of parameters with the warm-up 1 - (1+k)^(-2/3)."
    def __init__(self, params, decay=0.9999, start=100, every=10, power=2/3):
        self.params,self.decay,self.start,self.every,self.power = params,decay,start,every,power
        self.mean = {k: p.detach().clone() for k,p in params.items()}

    @torch.no_grad()
    def update(self, step):
        if step % self.every: return
        k = (step-self.start)//self.every
        d = min(self.decay, 1-(1+k)**-self.power) if k > 0 else 0.
        torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.params.values()], 1-d)

def cosine(step, steps, warmup=0):
    "Learning-rate factor: linear up over `warmup` steps, then half a cosine down to zero."
    if step < warmup: return (step+1)/warmup
    return .5*(1+math.cos(math.pi*(step-warmup)/max(1, steps-warmup)))

def save_whole(tensors, path, meta):
    "Write a safetensors file under another name and move it into place: it is there whole or not at all."
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    save_file({k: v.detach().cpu().contiguous() for k,v in tensors.items()}, tmp, metadata={k: json.dumps(v) for k,v in meta.items()})
    with open(tmp, 'rb') as f: os.fsync(f.fileno())
    os.replace(tmp, path)

def fit(D, data, *, noise, steps, batch=16, lr=1e-4, betas=(.9,.999), schedule='constant', warmup=0, clip=None, pools=(), ema=True,
        seed=0, out=None, every=500, held=None, held_batches=8, progress=True, cpu=None):
    "Train what is trainable in `D` (eq. 1 and 5)."
    acc = Accelerator(cpu=bool(cpu))
    params = trainable(D); D.to(acc.device); D.train()
    opt = torch.optim.Adam(params.values(), lr=lr, betas=betas)
    avg = EMA(params) if ema else None
    settings = dict(steps=steps, batch=batch, lr=lr, betas=list(betas), schedule=schedule, warmup=warmup, clip=clip, pools=[list(p) for p in pools], noise=[noise.mean, noise.std], seed=seed)
    log,step,ckpt = [],0,Path(out)/'checkpoint.safetensors' if out else None
    if ckpt and ckpt.exists():
        with safe_open(ckpt, 'pt') as f:
            meta = {k: json.loads(v) for k,v in f.metadata().items()}
            if meta['settings'] != settings: raise ValueError(f"{ckpt} was made with {meta['settings']}, now asked for {settings}: continue with those, or choose another `out`")
            log,step = meta['log'],meta['step']
            with torch.no_grad():
                for k,p in params.items():
                    p.copy_(f.get_tensor(f'model/{k}'))
                    if avg: avg.mean[k].copy_(f.get_tensor(f'ema/{k}'))
                    opt.state[p] = {n: f.get_tensor(f'opt/{n}/{k}').to(p.device if n != 'step' else 'cpu') for n in ('step','exp_avg','exp_avg_sq')}
    def save():
        if not ckpt: return
        t = {f'model/{k}': p for k,p in params.items()}
        if avg: t |= {f'ema/{k}': p for k,p in avg.mean.items()}
        for k,p in params.items(): t |= {f'opt/{n}/{k}': v for n,v in opt.state[p].items()}
        save_whole(t, ckpt, dict(step=step, log=log, settings=settings))
    bar,mean,t0 = tqdm(total=steps, initial=step, disable=not progress, mininterval=2),None,time.time()
    while step < steps:
        g = torch.Generator().manual_seed((seed<<32)+step)
        x0,y = data(g, batch)
        factor = cosine(step, steps, warmup) if schedule == 'cosine' else min(1, (step+1)/max(1, warmup))
        for group in opt.param_groups: group['lr'] = lr*factor
        loss = denoising_loss(D, x0.to(acc.device), None if y is None else y.to(acc.device), noise, generator=g, pools=pools)
        if not torch.isfinite(loss): raise FloatingPointError(f'loss is {loss.item()} at {step=}')
        opt.zero_grad(); acc.backward(loss)
        if clip: acc.clip_grad_norm_(list(params.values()), clip)
        opt.step(); step += 1
        if avg: avg.update(step)
        l = loss.item(); mean = l if mean is None else .98*mean+.02*l
        bar.update(); bar.set_postfix(loss=f'{mean:.4f}')
        if step % 50 == 0: log.append([step, mean, round(time.time()-t0, 1)])
        if step % every == 0 or step == steps: save()
    bar.close()
    if avg:
        with torch.no_grad():
            for k,p in params.items(): p.copy_(avg.mean[k])
    D.eval()
    return log
