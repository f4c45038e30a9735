"""
The measurements of docs/performance.md; see C{python -m bench --help}.
"""
