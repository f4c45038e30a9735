"""
What twistd finds.
"""
