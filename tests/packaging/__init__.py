"""
Tests of what is shipped: the package, the image, the manifests.
"""
