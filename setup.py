from setuptools import find_packages, setup

# twisted.plugins has no __init__.py, as the namespace it is: find_packages
# passes it by, and a wheel without it would not show up in "twistd --help".
setup(packages=[*find_packages("src"), "twisted.plugins"], package_dir={"": "src"})
