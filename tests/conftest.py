"One thread of torch per process: two busy processes with several threads each wait for each other."

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = f"{sys.prefix}{Path(__file__).resolve()}"


@pytest.fixture
def plain_folder():
    "NumPy itself cannot be imported from a folder whose name the language of the process cannot spell."
    if not HERE.isascii():
        pytest.skip("the folder of Python or of the checkout has a name that is not ASCII")
