"""Where do images come from on a machine that reaches no hub?

From Debian's packages. mmdebstrap makes `base/debian`; our own builder makes the others on top of it, so all share
that layer. Which packages went in is written on each image (label `org.shellwego.packages`), and what was made is
kept as OCI layouts in a directory that every cloud of a machine may share: the second cloud imports in seconds.

The mirror is whatever this host's apt uses; no host name is written here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.errors import BuildFailed, EngineMissing
from shellwego.core.ids import DeploymentId, OrganisationId
from shellwego.drivers.images import base_layouts
from shellwego.drivers.images.base_recipes import NODE, PYTHON, STATIC, Recipe
from shellwego.drivers.images.builder import BuildKitBuilder
from shellwego.drivers.images.port import Builder, BuildLimits, BuildRequest, ImageStore, Resolved
from shellwego.kit.commands import Command, CommandFailed, run_command
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file, sync_directory

DEBIAN_MADE = fault_point("bootstrap.debian_made")
IMAGE_BUILT = fault_point("bootstrap.image_built")
LAYOUT_KEPT = fault_point("bootstrap.layout_kept")
IMAGE_IMPORTED = fault_point("bootstrap.image_imported")

SUITE = "bookworm"
DEBIAN = "base/debian"
IMAGES = (DEBIAN, *(recipe.name for recipe in (PYTHON, STATIC, NODE)))

BOOTSTRAP_ORGANISATION = OrganisationId("org_bootstrapbootstrapbo")
"""Whose builds these are: the cloud's own. No tenant's id is drawn like this one, which is no random number."""

_PACKAGES = ("ca-certificates", "libatomic1", "libstdc++6", "netbase", "tzdata")
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*")
_EPOCH = 1_700_000_000
"""No file of `base/debian` claims to be younger, so equal packages make equal layers."""

_DEBIAN_SECONDS = 1200.0


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """`made` is false for an image that only had to be imported from the machine's directory."""

    name: str
    image: Resolved
    made: bool


def default_mappings() -> tuple[tuple[str, str], ...]:
    """
    (pattern of a name in a Dockerfile, image of this cloud): what may stand in for a hub's image. Only where the
    replacement is the same kind of system: a `-alpine` image is not Debian and an `nginx` image has its own files.
    """
    debian: tuple[str, ...] = (
        "",
        ":latest",
        ":slim",
        f":{SUITE}*",
        ":stable",
        ":stable-slim",
        ":12",
        ":12.*",
        ":12-slim",
    )
    # `?` is one character: `3.??` is 3.11 and never 3.11-alpine.
    python: tuple[str, ...] = (
        "",
        ":latest",
        ":slim",
        f":{SUITE}",
        f":slim-{SUITE}",
        ":3",
        ":3.?",
        ":3.??",
        ":3.?.?",
        ":3.??.?",
    )
    python += (":3.??.??", ":3*-slim", f":3*-{SUITE}")
    node: tuple[str, ...] = (
        "",
        ":latest",
        ":slim",
        ":lts",
        ":lts-slim",
        f":{SUITE}",
        f":{SUITE}-slim",
        ":2?",
        ":2?.?.?",
        ":2?.?.??",
    )
    node += (":2?.??.?", ":2?.??.??", ":2?*-slim", f":2?*-{SUITE}", f":2?*-{SUITE}-slim")
    patterns = [
        (f"{name}{tag}", image)
        for name, image, tags in (
            ("debian", DEBIAN, debian),
            ("python", PYTHON.name, python),
            ("node", NODE.name, node),
        )
        for tag in tags
    ]
    hub = [(f"docker.io/library/{pattern}", image) for pattern, image in patterns]
    return (*patterns, *hub)


async def bootstrap_images(
    *,
    store: ImageStore,
    builder: Builder,
    directory: Path,
    on_progress: Callable[[str], None],
    names: Sequence[str] = IMAGES,
    refresh: bool = False,
) -> tuple[Bootstrapped, ...]:
    """
    The named base images are in `store` under their names. `directory` keeps them for other clouds of this machine;
    `refresh` makes them anew with the packages of today. Safe to repeat, and to kill at any point.
    Raises EngineMissing, BuildFailed, DiskFull.
    """
    directory.mkdir(parents=True, exist_ok=True)
    wanted = [recipe for recipe in (PYTHON, STATIC, NODE) if recipe.name in names]
    made: list[Bootstrapped] = []
    async with _locked(directory):
        for half in directory.glob(".*.new"):  # Of one that was killed.
            await asyncio.to_thread(shutil.rmtree, half)
        renewed: set[str] = set()

        async def ensure(recipe: Recipe | None) -> Resolved:
            name = DEBIAN if recipe is None else recipe.name
            known = next((entry for entry in made if entry.name == name), None)
            if known is not None:
                return known.image
            stands_on = [] if recipe is None else [await ensure(_recipe(base)) for base in recipe.stands_on]
            layout = directory / _folder(name, recipe, [image.digest for image in stands_on])
            fresh = not (layout / "index.json").exists() or (refresh and name not in renewed)
            if fresh:
                on_progress(f"{name}: making it from Debian's packages")
                if recipe is None:
                    await _make_debian(layout, on_progress)
                else:
                    await _build(recipe, stands_on, layout, store, builder, on_progress)
                renewed.add(name)
            image = await store.import_layout(layout, name=name)
            await reach(IMAGE_IMPORTED)
            on_progress(f"{name}: ready ({image.size_bytes >> 20} MB, {image.digest[:19]})")
            made.append(Bootstrapped(name, image, made=fresh))
            return image

        if DEBIAN in names:
            await ensure(None)
        for recipe in wanted:
            await ensure(recipe)
    if isinstance(builder, BuildKitBuilder):
        # What was made is kept as layouts; the cache of making it would only take room.
        await builder.forget(BOOTSTRAP_ORGANISATION)
    return tuple(made)


def debootstrap_command(target: Path) -> Command:
    """mmdebstrap, its sources on standard input, in namespaces of its own that die with it and leave no mount."""
    excluded = tuple(f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED)
    return (
        "unshare",
        "--mount",
        "--propagation=slave",
        "--pid",
        "--fork",
        "--kill-child",
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        # Copyright files stay: licences ask for them.
        *excluded,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        # Device nodes are the runtime's business, and our store refuses an image that brings its own.
        "--skip=output/dev",
        SUITE,
        str(target),
        "-",
    )


async def host_sources() -> str:
    """apt's one-line sources of Debian's main archive as this host has them; mmdebstrap's own default when none is."""
    shown = await run_command(
        (
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
            "Identifier: Packages",
        ),
        check=False,
    )
    return "".join(sorted(set(source_lines(shown.stdout))))


def source_lines(targets: str) -> Iterator[str]:
    """Sources of our suite, from what `apt-get indextargets` printed. Pure."""
    for line in targets.splitlines():
        origin, _, rest = line.partition("|")
        uri, _, rest = rest.partition("|")
        release, _, component = rest.partition("|")
        if origin == "Debian" and component == "main" and release.split("-")[0] == SUITE:
            yield f"deb {uri.rstrip('/')} {release} main\n"


async def _make_debian(layout: Path, on_progress: Callable[[str], None]) -> None:
    work = layout.with_name(f".{layout.name}.new")
    work.mkdir()
    environment = {
        "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin",
        "SOURCE_DATE_EPOCH": str(_EPOCH),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(work),
    }
    try:
        sources = await host_sources()
        tar = work / "rootfs.tar"
        await run_command(
            debootstrap_command(tar), stdin=sources.encode(), env=environment, timeout_seconds=_DEBIAN_SECONDS
        )
        on_progress(f"{DEBIAN}: packing")
        await asyncio.to_thread(base_layouts.write_base, tar, work / "layout", created=_EPOCH, labels={"suite": SUITE})
        await reach(DEBIAN_MADE)
        await asyncio.to_thread(_keep, work / "layout", layout)
        await reach(LAYOUT_KEPT)
    except CommandFailed as error:
        raise EngineMissing("mmdebstrap", f"{DEBIAN} can't be made: {error}.") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


async def _build(
    recipe: Recipe,
    stands_on: Sequence[Resolved],
    layout: Path,
    store: ImageStore,
    builder: Builder,
    on_progress: Callable[[str], None],
) -> None:
    work = layout.with_name(f".{layout.name}.new")
    context = work / "context"
    context.mkdir(parents=True)
    try:
        for name, content in recipe.files.items():
            (context / name).write_bytes(content)
        request = BuildRequest(
            id=DeploymentId(f"dep_{recipe.name.replace('/', '-')}"),
            organisation=BOOTSTRAP_ORGANISATION,
            context=context,
            dockerfile=recipe.dockerfile,
            bases={
                base.replace("base/", "shellwego/base-"): image.digest
                for base, image in zip(recipe.stands_on, stands_on, strict=True)
            },
            trusted=True,  # Debian's packages, our text: no stranger's code.
            no_cache=True,
            limits=BuildLimits(memory_mib=2048, cpu_millis=2000, disk_mib=4096, seconds=1200),
        )
        built = await builder.build(request, on_log=lambda line: on_progress(f"{recipe.name}: {line}"))
        await reach(IMAGE_BUILT)
        await store.export_layout(built.reference, work / "layout")
        await asyncio.to_thread(base_layouts.label_packages, work / "layout")
        await asyncio.to_thread(_keep, work / "layout", layout)
        await reach(LAYOUT_KEPT)
    except BuildFailed as error:
        raise BuildFailed(f"{recipe.name}: {error.why}", error.last_lines) from error
    finally:
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


def _keep(made: Path, layout: Path) -> None:
    """Put a whole layout where it is found. A directory can't replace another at once, so the old one goes first."""
    shutil.rmtree(layout, ignore_errors=True)
    made.rename(layout)
    sync_directory(layout.parent)


def _recipe(name: str) -> Recipe | None:
    return next((recipe for recipe in (PYTHON, STATIC, NODE) if recipe.name == name), None)


def _folder(name: str, recipe: Recipe | None, stands_on: Sequence[str]) -> str:
    """A name that changes with everything that went into the image but the archive's state."""
    ingredients = {
        "machine": platform.machine(),
        "command": [] if recipe is not None else list(debootstrap_command(Path("target"))),
        "dockerfile": "" if recipe is None else recipe.dockerfile,
        "files": {} if recipe is None else {key: hashlib.sha256(v).hexdigest() for key, v in recipe.files.items()},
        "stands_on": list(stands_on),
    }
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    return f"{name.replace('/', '-')}-{digest[:16]}"


@contextlib.asynccontextmanager
async def _locked(directory: Path) -> AsyncIterator[None]:
    """One cloud of a machine makes images at a time; the lock goes with its process."""
    lock = directory / ".lock"
    if not lock.exists():
        replace_file(lock, b"")
    with lock.open("rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.2)
        yield
