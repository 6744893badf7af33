"""Enrolling very many pictures: a source of items, a map over them, one writer.

A source streams items out of a folder, a table or an archive (``folders``, ``tables``,
``csvfiles``, ``parquet``, ``zips``). A map makes a sample of each (``mapping`` in this process or
through a service's graph, ``deployments/bulk.py`` by Ray Data). One writer enrols them in batches
(``enrolling``): the writers of a collection wait for each other anyway.

A sample's id is a digest of the picture and of whose it is. So whatever was enrolled before is
found by what it is, wherever it lies now, and an enrolment that was killed goes on by being asked
for again.
"""
