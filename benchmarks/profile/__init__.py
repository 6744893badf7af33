"""Where the time goes: one picture in one process, and a service under load."""

import os

# Before OpenMP is loaded: its threads spin when they have nothing to do, in somebody's stage.
os.environ.setdefault("OMP_NUM_THREADS", "1")
