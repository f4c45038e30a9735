"""
The measurements of bench/results.md; see C{python -m bench --help}.
"""
