"""Diffusion Domain Expansion: coordinate many small diffusion models into one large one.

`import dde_kit as dde` hands on the names below; each module is loaded when one of its names is first used.
"""
from importlib import import_module

__version__ = '0.1.0'

_names = dict(
    denoising='EDMDenoiser Clamp LogNormal denoising_loss score',
    sampling='Guided karras_sigmas sample',
    decomposition='Repeat Tiling',
    baselines='Concat MultiDiffusion RRR',
    coordinator='DDE ViTCoordinator',
    rnn='RNNCoordinator',
    spectral='SpectralCoordinator',
    training='fit',
    metrics='frechet_distance',
    networks='build load save shipped',
)
_home = {name: module for module,names in _names.items() for name in names.split()}
__all__ = ['rope', *_home]


def __getattr__(name):
    if name not in _home: raise AttributeError(f'dde_kit has no {name!r}: it hands on {", ".join(sorted(__all__))}; the rest is in its modules')
    value = globals()[name] = getattr(import_module(f'dde_kit.{_home[name]}'), name)
    return value


def __dir__(): return sorted([*globals(), *_home])


from .rope import rope  # a function with the name of its module: imported now, so that the name stays the function's
