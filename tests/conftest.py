"One thread of torch per process: two busy processes with several threads each wait for each other."

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
