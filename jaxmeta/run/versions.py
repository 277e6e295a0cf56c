"""The versions of packages, which results and measured choices depend on."""

import importlib.metadata


def versions(*packages: str) -> dict[str, str]:
    """Returns the version of each package, "source" for one that is run from its source without being installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"
