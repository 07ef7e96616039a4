"""Published measurements, how far predictions are from them, and the constants fitted on a declared part of them.

Where things are, by the words in their names:

* ``tables`` reads files and keeps rows from fits, ``systems`` names machines, ``measured`` holds rows of one kernel as
  an operator of arrays.
* ``*_rows`` (and ``served``, ``published``) say what the columns of a source mean.
* ``suites`` is what ``data/suites.yaml`` declares: the rows of a suite, what is said of each and what was measured.
  ``suite_*`` are the questions that rows ask.
* ``fitting`` is the one driver of ``taicang fit``: ``data/fits.yaml`` declares its families. ``fit_*`` give their rows,
  or their constants where fits stand on each other.
"""
