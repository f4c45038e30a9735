"""
Tests of the package, the image and the manifests that are shipped.
"""
