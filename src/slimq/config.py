"""Every setting of slimq: name, default, bound, help; read once, into a frozen `Config`.

    built in <- DIR/default.toml <- DIR/$SLIMQ_ENV.toml <- DIR/local.toml
             <- SLIMQ_SECTION__NAME <- flags

The later layer wins, setting by setting. What is unknown, malformed or out of bounds is a
ConfigError that names the file, variable or flag, and the setting. The sections below are
the table of settings: ``python -m slimq.config docs/configuration.md`` makes that page of
it, and a test compares.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from slimq.core.limits import CONCURRENCY_MAX, CONTEXTS_MAX, WORKERS_MAX
from slimq.core.setting import (
    EID,
    EID_RULE,
    Choice,
    Choices,
    DatabaseUrl,
    Duration,
    Integer,
    Interpreter,
    Kind,
    Network,
    Networks,
    Secrets,
    Size,
    Text,
    without_password,
)
from slimq.errors import ConfigError

NODES = "nodes"  # the folder of the workers but the first
ACCEPT, RUN = "accept", "run"  # the roles of a node
SANDBOX_ON, SANDBOX_OFF = "on", "off"
NETWORK_NONE, NETWORK_PUBLIC = "none", "public"
DEFAULT_ENV = "development"
DEFAULT_FOLDER = Path("config")
HIDDEN = "***"
BUILT_IN = "built in"
_PREFIX = "SLIMQ_"
_ENV_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SHOWN_MAX = 60  # characters of a wrong value that an error repeats


def setting(kind: Kind, default: Any, help: str, *, flag: str = "") -> Any:
    """Declare a setting, as a field of its section. `default` is as one would write it."""
    metadata = {"kind": kind, "default": default, "help": help, "flag": flag}
    return dataclasses.field(metadata=metadata, repr=not kind.secret)


@dataclass(frozen=True, kw_only=True)
class Server:
    """The HTTP surface."""

    host: str = setting(
        Text(),
        "127.0.0.1",
        "Address to listen on. Without API keys only loopback addresses are allowed.",
        flag="--host",
    )
    port: int = setting(
        Integer(0, 65535),
        3001,
        "Port to listen on. 0: the system chooses one.",
        flag="--port",
    )
    workers: int = setting(
        Integer(1, WORKERS_MAX),
        1,
        "Nodes behind the port, each a process with a journal of its own. One for each "
        "processor core is the most that helps.",
        flag="--workers",
    )
    roles: tuple[str, ...] = setting(
        Choices(ACCEPT, RUN),
        [ACCEPT, RUN],
        "What this node does of the work. `accept`: it takes new jobs; without it they are "
        "refused (503 `not-accepting`). `run`: it runs jobs; without it others on the same "
        "store do. Every node answers questions, takes changes, and moves its journal to the "
        "store.",
        flag="--role",
    )
    drain_ms: int = setting(
        Duration("0s", "1h"),
        "25s",
        "How long running jobs and open requests may take to end after a quit. Keep it "
        "below the time after which your supervisor kills.",
    )


@dataclass(frozen=True, kw_only=True)
class Data:
    """What this node keeps on disk."""

    path: str = setting(
        Text(),
        ".slimq",
        "Folder of the journal, the store and the state of the node. One node at a time.",
        flag="--data",
    )


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where jobs are at rest."""

    path: str = setting(
        Text(may_be_empty=True),
        "",
        "File of the store. Empty: `store.db` in the data folder. Several nodes of one "
        "machine share the work when they name the same file.",
        flag="--store",
    )
    url: str = setting(
        DatabaseUrl(),
        "",
        "A PostgreSQL that holds the jobs instead of a file, for nodes on any number of "
        "machines; `slimq[postgres]` must be installed. The schema `slimq` is made in it at "
        "the first start.",
        flag="--store-url",
    )
    bytes_max: int = setting(
        Size("64MiB", "64TiB"),
        "10GiB",
        "Size above which done jobs are purged before their retention, the longest done first.",
    )


@dataclass(frozen=True, kw_only=True)
class Accept:
    """What callers may send."""

    body_max: int = setting(
        Size("1MiB", "4GiB"),
        "128MiB",
        "Largest body of one `POST /add`. Bodies are spooled to disk, not held in memory.",
    )


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The durable log of accepted jobs."""

    retain_ms: int = setting(
        Duration("0s", "30d"),
        "15m",
        "How long segments are kept after they are safely in the store, so that a store "
        "that falls back to an earlier point is healed from them.",
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """How much runs at a time on this node."""

    http_slots: int = setting(
        Integer(1, CONCURRENCY_MAX), 64, "Batches of `http` handlers in flight at a time."
    )
    exec_slots: int = setting(
        Integer(0, CONCURRENCY_MAX),
        0,
        "Commands of `exec` handlers at a time. 0: twice the number of processor cores, "
        "shared out among the workers.",
    )
    connections_per_host: int = setting(
        Integer(1, CONCURRENCY_MAX), 32, "Connections to one host of `http` handlers."
    )


@dataclass(frozen=True, kw_only=True)
class Http:
    """Requests to `http` handlers."""

    allow: tuple[Network, ...] = setting(
        Networks(),
        [],
        "Address ranges that handlers may be in although they are private, loopback or "
        "link-local. Anyone who may put a handler can then reach what is there.",
    )
    secrets: tuple[str, ...] = setting(
        Secrets(),
        [],
        "Secrets that requests are signed with, each of them (several while you rotate). "
        "Empty: one is made and kept in `webhook.secret` in the data folder.",
    )


@dataclass(frozen=True, kw_only=True)
class Functions:
    """Uploaded functions."""

    sandbox: str = setting(
        Choice(SANDBOX_ON, SANDBOX_OFF),
        SANDBOX_ON,
        "`on`: functions run in a sandbox, and where there can be none they do not run. `off`: "
        "they run as slimq itself and may do all that it may; only for your own functions, and "
        "only while the node listens on a loopback address.",
        flag="--unsafe-no-sandbox",
    )
    network: str = setting(
        Choice(NETWORK_NONE, NETWORK_PUBLIC),
        NETWORK_NONE,
        "What functions that ask for the network get. `none`: none. `public`: public addresses "
        "and those of `http.allow`, by a proxy that the environment of the function names.",
    )
    slots: int = setting(
        Integer(0, CONTEXTS_MAX),
        0,
        "Batches of functions of one language at a time. 0: twice the number of processor cores, "
        "shared out among the workers.",
    )
    memory: int = setting(
        Size("64MiB", "1TiB"),
        "1GiB",
        "What the contexts of functions may take together before those that are idle make room "
        "for others, shared out among the workers. Those at work are bounded by their own limits.",
    )
    idle_ms: int = setting(
        Duration("1s", "1d"), "10m", "How long a context without work is kept warm."
    )


@dataclass(frozen=True, kw_only=True)
class Purge:
    """How long done jobs are kept."""

    ok_ms: int = setting(Duration("1s", "3660d"), "3d", "Jobs that ended OK.")
    failed_ms: int = setting(
        Duration("1s", "3660d"), "30d", "All others: FAILED, ERROR, cancelled, expired."
    )


@dataclass(frozen=True, kw_only=True)
class Log:
    """The log: JSON lines on standard error."""

    level: str = setting(
        Choice("info", "warning", "error"), "info", "The least important events that are written."
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings, by section: ``config.server.port``. Durations are in ms (``drain_ms``),
    sizes in bytes. Relative paths count from the working directory.

    `worker` is the number of the node among those behind one port. The first has the data
    folder itself, so that one node and several find the same there:

        .slimq/                    store, secret, what all workers share; worker 1
        .slimq/nodes/2/ .../3/     the journals and states of the others
    """

    server: Server
    data: Data
    store: Store
    accept: Accept
    journal: Journal
    run: Run
    http: Http
    functions: Functions
    purge: Purge
    log: Log
    environments: Mapping[str, str]  # paths of interpreters or virtualenvs, by name
    env: str
    shown: Mapping[str, Any]  # by name, as written; secrets are hidden
    _origins: Mapping[str, str]
    worker: int = 1

    def origins(self) -> Mapping[str, str]:
        """Return by name what said the value: a file, a variable, a flag, or BUILT_IN."""
        return self._origins

    @property
    def node_path(self) -> Path:
        """Folder of what this node alone keeps."""
        shared = Path(self.data.path)
        return shared if self.worker == 1 else shared / NODES / str(self.worker)

    @property
    def journal_path(self) -> Path:
        return self.node_path / "journal"

    @property
    def store_path(self) -> Path:
        return Path(self.store.path) if self.store.path else Path(self.data.path, "store.db")

    @property
    def store_shown(self) -> str:
        """Where the jobs are, as it may be shown."""
        return (
            without_password(self.store.url) if self.store.url else str(self.store_path.absolute())
        )

    @property
    def functions_path(self) -> Path:
        """Folder of the files of functions, which the workers share."""
        return Path(self.data.path, "functions")

    @property
    def secret_path(self) -> Path:
        """Where the signing secret is kept when none is configured."""
        return Path(self.data.path, "webhook.secret")


_SECTIONS = (Server, Data, Store, Accept, Journal, Run, Http, Functions, Purge, Log)


class Setting(NamedTuple):
    """One row of the table."""

    section: str
    attribute: str
    kind: Kind
    default: Any
    help: str
    flag: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.attribute.removesuffix(self.kind.suffix)}"

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.replace(".", "__").upper()


@cache
def settings() -> Mapping[str, Setting]:
    """Return the table of settings, by name."""
    rows = (
        Setting(section.__name__.lower(), field.name, **field.metadata)
        for section in _SECTIONS
        for field in dataclasses.fields(section)
    )
    return {row.name: row for row in rows}


ENVIRONMENTS = "environments"
_ENVIRONMENT = (
    "What functions with this `eid` run on: a virtualenv or an interpreter, Python 3.11 or later. "
    "They find what is installed there. Several functions may share one."
)


def _row(name: str) -> Setting | None:
    """Return a setting by its name; those of environments have names that the operator chooses."""
    section, _, member = name.partition(".")
    if section == ENVIRONMENTS and EID.fullmatch(member):
        return Setting(section, member, Interpreter(), {}, _ENVIRONMENT, "")
    return settings().get(name)


class _Given(NamedTuple):
    """What one layer says about one setting."""

    setting: Setting
    written: Any
    origin: str


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    folder: Path = DEFAULT_FOLDER,
    env: str | None = None,
) -> Config:
    """Read all layers. `flags` are by name of the setting (None: not given); `env` goes
    before SLIMQ_ENV. Files that do not exist say nothing. Raises ConfigError."""
    env = env or environ.get("SLIMQ_ENV") or DEFAULT_ENV
    values: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for given in _layers(flags, environ, folder, env):
        name = given.setting.name
        values[name] = _read(given)
        shown[name] = _shown(given)
        origins[name] = given.origin
    sections = {section.__name__.lower(): _section(section, values) for section in _SECTIONS}
    environments = {
        name.removeprefix(f"{ENVIRONMENTS}."): path
        for name, path in values.items()
        if name.startswith(f"{ENVIRONMENTS}.")
    }
    config = Config(**sections, environments=environments, env=env, shown=shown, _origins=origins)
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    if config.functions.sandbox == SANDBOX_OFF and not _is_loopback(config.server.host):
        raise ConfigError(
            f"{config.origins()['functions.sandbox']}: functions.sandbox: without a sandbox a node "
            f"listens on loopback addresses only, not on {_repeat(config.server.host)}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean anything
        return False


def _section(section: type[Any], values: Mapping[str, Any]) -> Any:
    rows = [row for row in settings().values() if row.section == section.__name__.lower()]
    return section(**{row.attribute: values[row.name] for row in rows})


def _layers(
    flags: Mapping[str, Any], environ: Mapping[str, str], folder: Path, env: str
) -> Iterator[_Given]:
    if _ENV_NAME.fullmatch(env) is None:
        raise ConfigError(f"SLIMQ_ENV: {_repeat(env)} cannot be the name of a file")
    for row in settings().values():
        yield _Given(row, row.default, BUILT_IN)
    for stem in ("default", env, "local"):
        yield from _file_layer(folder / f"{stem}.toml")
    yield from _variable_layer(environ)
    yield from _flag_layer(flags)


def _file_layer(path: Path) -> Iterator[_Given]:
    known = {row.section for row in settings().values()} | {ENVIRONMENTS}
    for section, members in _read_file(path).items():
        if section not in known:
            raise ConfigError(f"{path}: there is no section {_near(section, known)}")
        if not isinstance(members, dict):
            raise ConfigError(
                f"{path}: {section} is a section: write [{section}], then its settings"
            )
        for key, written in members.items():
            row = _row(f"{section}.{key}")
            if row is None and section == ENVIRONMENTS:
                raise ConfigError(f"{path}: {_repeat(key)} names no environment: {EID_RULE}")
            if row is None:
                near = _near(f"{section}.{key}", settings())
                raise ConfigError(f"{path}: there is no setting {near}")
            yield _Given(row, written, str(path))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not TOML: it is not UTF-8") from error
    except (ValueError, RecursionError) as error:  # a number too long, lists nested too deeply
        raise ConfigError(f"{path}: not TOML that can be read: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _variable_layer(environ: Mapping[str, str]) -> Iterator[_Given]:
    """Only names with two underscores in the middle are settings: container platforms set
    others of their own (SLIMQ_PORT, SLIMQ_SERVICE_HOST) next to a service called slimq."""
    rows = {row.variable: row for row in settings().values()}
    for variable in sorted(environ):
        if variable.startswith(_PREFIX) and "__" in variable.removeprefix(_PREFIX):
            row = rows.get(variable) or _environment_row(variable)
            if row is None:
                raise ConfigError(f"there is no setting of the variable {_near(variable, rows)}")
            yield _Given(row, row.kind.from_text(environ[variable]), variable)


def _environment_row(variable: str) -> Setting | None:
    prefix = f"{_PREFIX}{ENVIRONMENTS.upper()}__"
    name = variable.removeprefix(prefix)
    is_one = variable.startswith(prefix) and name.isupper()
    return _row(f"{ENVIRONMENTS}.{name.lower()}") if is_one else None


def _flag_layer(flags: Mapping[str, Any]) -> Iterator[_Given]:
    for name, written in flags.items():
        if written is not None:
            row = settings()[name]
            text = row.kind.from_text(written) if isinstance(written, str) else written
            yield _Given(row, text, row.flag or "flag")


def _read(given: _Given) -> Any:
    row = given.setting
    try:
        return row.kind.read(given.written)
    except ValueError as error:
        found = "" if row.kind.secret else f"; found {_repeat(given.written)}"
        raise ConfigError(f"{given.origin}: {row.name}: {error}{found}") from None


def _shown(given: _Given) -> Any:
    return HIDDEN if given.setting.kind.secret and given.written else given.written


def _repeat(written: Any) -> str:
    text = ascii(written)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."


def _near(name: str, known: Iterable[str]) -> str:
    """Return a wrong name, with the right one that it resembles most."""
    names = sorted(known)
    found = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {found[0]}?" if found else f"there are {', '.join(names)}"
    return f"{_repeat(name)}; {hint}"


MARK = "<!-- All below is made by: python -m slimq.config docs/configuration.md -->\n"


def document(page: str) -> str:
    """Return the page about all settings, with what stands below MARK made anew."""
    parts = [page.partition(MARK)[0], MARK]
    for section in _SECTIONS:
        name = section.__name__.lower()
        parts.append(f"\n## {name}\n\n{section.__doc__}\n")
        parts += [_paragraph(row) for row in settings().values() if row.section == name]
    parts.append(_ENVIRONMENTS_PART)
    return "".join(parts)


_ENVIRONMENTS_PART = f"""
## {ENVIRONMENTS}

Interpreters that functions may ask for, by names of your own ({EID_RULE}).

### {ENVIRONMENTS}.NAME

{_ENVIRONMENT}

    [{ENVIRONMENTS}.imaging]
    python = "/srv/imaging"

Default: empty. Legal: {Interpreter().rule}. Set by `{_PREFIX}{ENVIRONMENTS.upper()}__NAME`.
"""


def _paragraph(row: Setting) -> str:
    ways = f"`{row.variable}`" + (f" or `{row.flag}`" if row.flag else "")
    default = "empty" if row.default in ("", []) else f"`{row.default}`"
    facts = f"Default: {default}. Legal: {row.kind.rule}. Set by {ways}."
    return f"\n### {row.name}\n\n{row.help}\n\n{facts}\n"


if __name__ == "__main__":
    page_path = Path(sys.argv[1])
    page_path.write_text(document(page_path.read_text("utf-8")), "utf-8")
