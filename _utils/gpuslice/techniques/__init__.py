"""
The technologies, a package each: their words in ``section.py``, what they do to hardware in ``technique.py``. A row in
:mod:`gpuslice.kinds` leads to both, and :mod:`gpuslice.techniques.base` says what is asked of them.
"""
