"""
Mixed load for a long time, with kills and replacements of the workers.
"""
