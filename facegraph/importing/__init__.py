"""People into collections and out: the old systems' tables, and gnosis' ``dataset.json``.

Everything is streamed, and every sample's id is a digest of where it comes from: what is
imported again, or once more after an import that was killed, is found and skipped. A subject that
exists keeps its name and metadata and is given the samples it lacks.
"""
