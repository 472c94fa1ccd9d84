"Maps, CLEVR and evaluation."


def names(tmp):
    import math

    import numpy as np
    import torch

    from dde_kit import clevr, evaluate, maps
    from dde_kit.metrics import Extractor, FeatureNet

    maps_of = dict(
        float=np.zeros((4, 3, 8, 8), np.float32),
        channels_last=np.zeros((4, 8, 8, 3), np.uint8),
        none=np.zeros((0, 3, 8, 8), np.uint8),
    )
    for name, a in maps_of.items():
        np.savez(tmp / f"pairs-{name}.npz", map=a, sat=a)
    good = np.zeros((5, 3, 8, 8), np.uint8)
    np.savez(tmp / "pairs.npz", map=good, sat=good)
    np.savez(tmp / "pairs-other.npz", map=good, sat=good[:3])
    np.savez(tmp / "pairs-nan.npz", map=good, sat=good, held=np.array([np.nan, 1, 0, 0, 0]))
    np.savez(tmp / "pairs-held.npz", map=good, sat=good, held=np.ones((5, 1), bool))
    np.savez(tmp / "pairs-all.npz", map=good, sat=good, held=np.ones(5, bool))
    ims, at = np.zeros((4, 64, 64, 3), np.uint8), np.full((4, 2), 0.5)
    two = np.full((4, 2, 2), 0.5)
    two[0, 1, 0] = np.nan
    scenes_of = dict(
        nan=(ims, at * np.nan),
        one_nan=(ims, np.where(np.arange(4)[:, None] == 2, np.nan, at)),
        half=(ims, two),
        inf=(ims, at * np.inf),
        pixels=(ims, at * 64),
        ints=(ims, np.zeros((4, 2), int)),
        none=(ims[:0], at[:0]),
        fewer=(ims, at[:3]),
        first=(ims.transpose(0, 3, 1, 2), at),
        single=(ims[:1], at[:1]),
        small=(ims[:, :50, :50], at),
    )
    for name, (a, c) in scenes_of.items():
        np.savez(tmp / f"scenes-{name}.npz", ims=a, coords_labels=c)
    (tmp / "file").write_text("no folder", encoding="utf-8")
    pairs = maps.Pairs(*[torch.zeros(2, 3, 16, 16, dtype=torch.uint8)] * 2)
    return dict(
        vars(clevr) | {k: getattr(maps, k) for k in maps.__all__ if k not in clevr.__all__},
        maps=maps,
        clevr=clevr,
        evaluate=evaluate.evaluate,
        main=evaluate.main,
        pick=evaluate.pick,
        checked=evaluate.checked,
        sheet=evaluate.sheet,
        check_parameters=evaluate.check_parameters,
        np=np,
        torch=torch,
        nan=math.nan,
        inf=math.inf,
        tmp=tmp,
        pairs=pairs,
        D=torch.nn.Linear(1, 1),
        net=Extractor(FeatureNet(8, 8, 2), "kit-small", "FID"),
        scenes=clevr.Scenes(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), [torch.full((1, 2), 0.5)] * 2),
        rng=np.random.default_rng(0),
        u=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    )


LINES = """
maps.drawn(0, 64)
maps.drawn(1, -5)
maps.drawn(1, 6.5)
maps.drawn(1, 64, seed=-1)
maps.drawn(1, 64, seed=0.5)
maps.drawn(10**6, 10**5)  # this machine has
maps.procedural(1, 64, None)
maps.scene(0, rng)
maps.read_pairs(tmp / 'none.npz')  # data_prep
maps.read_pairs(tmp / 'pairs-float.npz')  # uint8
maps.read_pairs(tmp / 'pairs-channels_last.npz')
maps.read_pairs(tmp / 'pairs-none.npz')
maps.read_pairs(tmp / 'pairs-other.npz')  # differ in shape
maps.read_pairs(tmp / 'pairs-nan.npz')  # bool
maps.read_pairs(tmp / 'pairs-held.npz')
maps.read_pairs(tmp / 'pairs-all.npz')  # 5 of 5
maps.read_pairs(tmp / 'scenes-nan.npz')  # are needed
maps.Source(3)
maps.Source(None)
maps.Source(images=-1)
maps.Source(side=0)
maps.Source().test(64, 1, seed=-1)  # reference
maps.Source().test(64, 1, seed=True)
maps.Source().test(64, 0)
maps.Source().reference(0)
maps.Source().reference(64, n=0)
maps.Source(tmp / 'pairs.npz').test(9, 1)  # larger than the images
maps.Source(tmp / 'pairs.npz').test(8, 1, seed=-1)
maps.Source(tmp / 'pairs.npz').test(8, 0)
maps.Source(tmp / 'pairs.npz').reference(0)
maps.Source(images=0).train(False)
maps.Pairs(None, None)
maps.Pairs(u.float(), u.float())
maps.Pairs(u, u[:, :, :4])
maps.Pairs(u[:0], u[:0])
pairs[0]
pairs.crops()
pairs.crops(8)
pairs.crops((0, 8))
pairs.crops((17, 8))  # do not fit
pairs.corner(8, 1, -1)
pairs.corner(8.0, 1)
maps.build(None, 'base')
maps.build(maps.tiny, 'head')
maps.train_part('base', 'huge', pairs, tmp / 'o')  # tiny, small, paper
maps.train_part('head', 'tiny', pairs, tmp / 'o')
maps.train_part('base', 'tiny', None, tmp / 'o')
maps.facts(-1)
maps.generate(D, u[0])
maps.generate(D, u, seed=-1)
maps.generate(D, u, batch=0)
maps.generate(D, None)
maps.classes(u.float())
maps.classes(u[0])
maps.errors({}, pairs, [0.0])
maps.errors({}, pairs, [inf])
maps.errors({}, pairs, [1.0], pools=(0,))
maps.errors({}, pairs, [1.0], batch=0)
maps.errors({}, pairs, [1.0], seed=-1)
maps.score_table({}, None, {}, None, ((), ()))  # real
clevr.drawn(0)
clevr.drawn(1, seed=-1)
clevr.drawn(1, size=0)
clevr.procedural(1, seed=1.5)
clevr.pixel(torch.zeros(1, 2), 0)
clevr.position(torch.zeros(1, 2), -1)
clevr.arrange(None)
clevr.arrange(rng, least=11)
clevr.arrange(rng, near=-1)
clevr.render([], None)
clevr.render([], rng, size=0)
clevr.render([], rng, fine=0)
clevr.read_scenes(tmp / 'none.npz')  # data_prep
clevr.read_scenes(tmp / 'scenes-nan.npz')  # NaN
clevr.read_scenes(tmp / 'scenes-one_nan.npz')  # NaN
clevr.read_scenes(tmp / 'scenes-half.npz')  # both coordinates
clevr.read_scenes(tmp / 'scenes-inf.npz')  # [0, 1]
clevr.read_scenes(tmp / 'scenes-pixels.npz')  # [0, 1]
clevr.read_scenes(tmp / 'scenes-ints.npz')  # floats
clevr.read_scenes(tmp / 'scenes-none.npz')
clevr.read_scenes(tmp / 'scenes-fewer.npz')
clevr.read_scenes(tmp / 'scenes-first.npz')  # (n, S, S, 3)
clevr.read_scenes(tmp / 'scenes-small.npz')  # no multiple
clevr.read_scenes(tmp / 'scenes-single.npz', size=0)
clevr.read_scenes(tmp / 'pairs.npz')  # are needed
clevr.source(tmp / 'scenes-single.npz')  # at least 2
clevr.source(None)
clevr.source(images=0)
clevr.Scenes(u, [])
clevr.Scenes(u.float(), [torch.zeros(1, 2)])
scenes.batches(0)
scenes.batches(2)  # no image has 2
scenes.batches(drop=2)
clevr.bumps(torch.zeros(2), (8, 8))
clevr.check_positions(None, 1)
clevr.check_positions(torch.zeros(1, 2).long(), 1)
clevr.check_positions(torch.full((1, 2), 64.0), 1)  # [0, 1]
clevr.check_positions(torch.zeros(1, 0, 2), 1)
clevr.Classifier(size=0)
clevr.at_positions(torch.zeros(1, 8, 8), torch.zeros(1, 2))
clevr.at_positions(torch.zeros(1, 8, 8), torch.full((1, 1, 2), nan))
clevr.at_positions(torch.zeros(1, 8, 8), torch.full((1, 1, 2), 2.0))
clevr.matched([], [])
clevr.matched([torch.zeros(1, 2)], [torch.zeros(1, 2)], near=0)
clevr.build(None, 'base')
clevr.build(clevr.tiny, 'critic')
clevr.train_part('base', 'huge', scenes, tmp / 'o')
clevr.train_part('base', 'tiny', None, tmp / 'o')
clevr.check_data(D, None)
clevr.check_data(D, scenes, least=2)
clevr.Matcher(size=0)
clevr.Matcher(radius=0)
clevr.Matcher(shift=-1)
clevr.Matcher(depths=())
clevr.threshold(None, None)
clevr.draw_positions(0, 2)
clevr.draw_positions(2, 0)
clevr.draw_positions(2, 8)  # choose L <=
clevr.draw_positions(2, 1000)  # choose L <=
clevr.draw_positions(2, 2, seed=-1)
clevr.draw_positions(2, 2, apart=0.7)  # choose L <= 1
clevr.draw_positions(2, 2, lo=0.7, hi=0.3)
clevr.draw_positions(2, 2, apart=nan)
clevr.sequence(-1)
clevr.sequence(0, 'train')
clevr.best_weight({})
clevr.best_weight({1.0: nan})
clevr.generate(D, torch.zeros(1, 2))
clevr.generate(D, torch.zeros(1, 1, 2), seed=-1)
clevr.generate(D, torch.zeros(1, 1, 2), batch=0)
clevr.generate(D, torch.zeros(1, 1, 2), size=0)
clevr.accuracy({('a', 'heun', 1): torch.zeros(0, 1, dtype=torch.bool)})
clevr.accuracy({('a', 'heun', 1): torch.zeros(4, 1)})
clevr.paired(None, None)
clevr.paired(torch.zeros(3), torch.zeros(3))
clevr.panel(None, None, None, most=0)
evaluate('moon')  # maps, clevr, music
evaluate(None)
evaluate('maps', preset='huge')
evaluate('maps', data=3)
evaluate('maps', weights=None)
evaluate('maps', size=-1)
evaluate('maps', size=32, results=str(tmp / 'r'))  # smaller than a patch
evaluate('maps', size=96.0)
evaluate('maps', samples=1)  # at least 2
evaluate('maps', samples=-2)
evaluate('maps', samples=False)
evaluate('maps', seed=-1)
evaluate('maps', seed='0')
evaluate('maps', batch=-1)
evaluate('maps', methods='Magic')  # Concat, MultiDiffusion, DDE
evaluate('maps', methods=['DDE'])
evaluate('maps', precision='fp8')
evaluate('maps', results=str(tmp / 'file'))  # cannot be written
evaluate('maps', results=3)
evaluate('maps', steps=0)
evaluate('maps', steps=2.5)
evaluate('maps', stepz=2)  # unknown sampler setting
evaluate('maps', solver='rk4')
evaluate('maps', reading=dict(resample=True))  # reads its data without
evaluate('maps', reading=3)
evaluate('maps', say=None)
evaluate('maps', data=str(tmp / 'pairs.npz'), size=64, results=str(tmp / 'r'))  # larger than the images
evaluate('maps', data=str(tmp / 'none.npz'), results=str(tmp / 'r'))  # no dataset
evaluate('clevr', size=8, samples=2, results=str(tmp / 'r'))  # choose L <=
evaluate('clevr', data=str(tmp / 'scenes-nan.npz'), samples=2, results=str(tmp / 'r'))  # NaN
evaluate('maps', weights=str(tmp / 'nothing'), results=str(tmp / 'r'))
main(['maps', '--samples', '1'])
main(['maps', '--seed', '-1'])
main(['maps', '--N', 'large'])
main(['maps', '--results', str(tmp / 'file')])
pick(maps.METHODS, None)
pick(maps.METHODS, 'Magic')
sheet({})
sheet(dict(a=u), columns=0)
checked('a', 3, str)
checked('a', 'false', bool)
check_parameters({}, seed=(int, 0))  # seed is missing
check_parameters(dict(N=64.5), N=(int, 64))
check_parameters(dict(train='false'), train=bool)  # True or False
"""
