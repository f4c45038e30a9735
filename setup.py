from setuptools import find_packages, setup

# twisted.plugins is a namespace package without an __init__.py, so find_packages does not
# find it.  Without it in the wheel, twistd would not have the command "pexservice".
setup(packages=[*find_packages("src"), "twisted.plugins"], package_dir={"": "src"})
