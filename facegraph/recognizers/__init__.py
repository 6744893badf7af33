"""Recognizers: a small network over embeddings that knows some people, trained when asked for.

``building`` (the job): ``gathering`` (pictures to embeddings) → ``training_set`` → ``splitting`` →
``searching`` (``evolving`` shapes, ``evaluating`` each by cross-validation) → ``making``
(``networks``, ``exporting`` to ONNX, ``reporting``); then ``predicting``
(each by a ``predictor``), and ``callbacks``.
"""
