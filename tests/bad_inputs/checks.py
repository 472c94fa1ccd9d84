"The rule itself."


def names(tmp):
    import math

    import numpy as np
    import torch

    from dde_kit import checks

    return dict(vars(checks), np=np, torch=torch, inf=math.inf, nan=math.nan)


LINES = """
check_number('a', nan)  # finite number
check_number('a', inf)
check_number('a', '1')
check_number('a', None)
check_number('a', True)
check_number('a', 1j)
check_number('a', 0, above=0)  # above 0
check_integer('a', 1.0)  # whole number
check_integer('a', True)
check_integer('a', -1, at_least=0)  # at least 0
check_flag('train', 'false')  # True or False
check_flag('train', 1)
check_choice('a', 'c', ['b'])  # one of b
check_choice('a', ['b'], ['b'])
check_canvas('x', [[1.0]])
check_canvas('x', np.zeros((1, 1, 4)))  # torch.as_tensor
check_canvas('x', torch.zeros(1, 1, 4, dtype=torch.uint8))  # metrics.unit
check_canvas('x', torch.zeros(1, 1, 4) * 1j)
check_canvas('x', torch.zeros(1, 4))
check_canvas('x', torch.zeros(0, 1, 4))
check_canvas('x', torch.zeros(1, 1, 0))
check_canvas('x', torch.zeros(1, 1, 4), axes=2)
check_canvas('x', torch.zeros(1, 1, 4), channels=3)
check_folder('/dev/null/deep')  # is a file
check_folder('')
check_path('out', 3)  # not empty
check_path('out', 'a\\0b')
"""
