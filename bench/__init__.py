"""
The measurements of docs/benchmarks.md; see C{python -m bench --help}.
"""
